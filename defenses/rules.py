"""Which training a budget buys: what was measured decides, counted in optimizer steps.

Measured on digits of 16 x 16 pixels at Linf 0.15, clean / APGD accuracy in % (one seed, n = 400):
one step from noise 94 / 32 after 95 optimizer steps, 96 / 41 after 190, 97 / 49 after 475; PGD-7,
at four times the price, 95 / 37, 96 / 46 and 98 / 53. TRADES needs more steps still: 79 / 10 after
190. At an equal price one step stays ahead for long. On digits of 8 x 8 pixels, small_cnn width 8,
batches of 32 and the same eps, accuracy under PGD-40 was 76 and 77 (two seeds, n = 597) after 60
epochs of one step, 67 and 67 after 15 of PGD-7, which cost as much, and 71 and 72 after 31, which
cost twice that; APGD-DLR agreed. At Linf 0.3 one step ended at 13 at most, and PGD-7 without a ramp
in a constant predictor, which a longer ramp cures.
"""

from typing import Literal, NamedTuple

from hardening.errors import ConfigError
from hardening.spec import Record
from hardening.threat import ThreatModel

Method = Literal["n_fgsm", "adversarial_training", "trades"]

LEAST = 90
"""Optimizer steps with which a training was seen to harden."""

MOST = 200
"""Epochs beyond which nothing was measured; the best one is kept, so more would only cost."""

BATCHES = 19
"""Optimizer steps of an epoch behind the figures above: a small dataset gets smaller batches."""

SIZES = (128, 64, 32)

RAMP, LONG_RAMP = 0.4, 0.6
"""Shares of the steps in which eps grows."""

LARGE_GREY = 0.2
"""Linf eps above which single steps overfit or collapse on images of one channel."""

LARGE_COLOUR = 12 / 255
"""The same for images of more channels, https://arxiv.org/abs/2202.01181."""


class Pace(NamedTuple):
    """What an epoch costs, in the unit of the budget.

    `plain`: a pass forward and back; `attack`: the same for the images alone, in an inner search;
    `judging`: the look at validation images after it, once eps is full.
    """

    plain: float
    attack: float
    judging: float


class Option(NamedTuple):
    """A method, the steps of its inner search, and what it needs to be worth its price."""

    method: Method
    steps: int
    updates: int
    epochs: int

    @property
    def title(self) -> str:
        """As a reader knows it."""
        return self.method if self.steps == 1 else f"{self.method} with {self.steps} steps"


GENTLE = (
    Option("trades", 10, 6000, 50),
    Option("adversarial_training", 7, 3000, 25),
    Option("n_fgsm", 1, LEAST, 1),
)
"""The strongest first."""

LARGE = (
    Option("adversarial_training", 20, 3000, 10),
    Option("adversarial_training", 10, 1000, 5),
    Option("adversarial_training", 5, 300, 2),
    Option("adversarial_training", 2, LEAST, 1),
)
"""For budgets of the adversary that no single step trains against."""


class Choice(Record):
    """A training, and in one line why."""

    method: Method
    steps: int
    epochs: int
    batch_size: int
    ramp: float
    text: str


def batch_size(images: int) -> int:
    """As large as leaves an epoch of enough optimizer steps."""
    return next((size for size in SIZES if images >= BATCHES * size), SIZES[-1])


def choose(
    budget: float, pace: Pace, images: int, channels: int, threat: ThreatModel, /, *, said: str
) -> Choice:
    """The strongest training that the budget buys enough of.

    Args:
        budget: In the unit of `pace`.
        said: The budget in words.

    Raises:
        ConfigError: It buys less than a training that was seen to harden.
    """
    size = batch_size(images)
    batches = -(-(images - 1) // size)  # a last one of a single image is left out
    large = _no_single_step(threat, channels)
    options, ramp = (LARGE, LONG_RAMP) if large else (GENTLE, RAMP)
    short: list[str] = []
    for option in options:
        epochs = min(MOST, int(budget / price(option, pace, ramp)))
        if epochs >= option.epochs and epochs * batches >= option.updates:
            why = [large, *short[-1:]] if large or short else ["the budget buys its full length"]
            return Choice(
                method=option.method,
                steps=option.steps,
                epochs=epochs,
                batch_size=size,
                ramp=ramp,
                text=f"auto chose {option.title}, {epochs} epochs of {batches} optimizer steps of "
                f"{size} images, for {said}, because {' and '.join(filter(None, why))}",
            )
        short.append(
            f"{option.title} would get {epochs} epochs, {epochs * batches} optimizer steps, of at "
            f"least {option.epochs} and {option.updates}"
        )
    least = -(-LEAST // batches) * price(options[-1], pace, ramp)
    raise ConfigError(
        f"auto: got {said}, too little to harden: {short[-1]}; expected {least / budget:.1f} times "
        "that"
    )


def price(option: Option, pace: Pace, ramp: float) -> float:
    """Of an epoch; TRADES trains on clean images, too."""
    passes = 2 if option.method == "trades" else 1
    return passes * pace.plain + option.steps * pace.attack + (1 - ramp) * pace.judging


def _no_single_step(threat: ThreatModel, channels: int) -> str:
    """Why one step from noise does not train against this threat, or ""."""
    if threat.norm == "l1":
        return "one step changes too few pixels in L1"
    limit = LARGE_GREY if channels == 1 else LARGE_COLOUR
    if threat.norm == "linf" and threat.eps > limit:
        return f"single steps fail above eps {limit:.3g}"
    return ""
