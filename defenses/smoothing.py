"""Training on Gaussian noise, for randomized smoothing, https://arxiv.org/abs/1902.02918.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.declaration import declares
from defenses.scores import BATCH, Score
from defenses.training import Loop, Loss, fit
from hardening.data import Labelled, TrainingData
from hardening.log import Log
from hardening.randomness import draw_seed
from hardening.spec import Spec, resolve
from hardening.threat import ThreatModel

NAME = "smoothing"
"""Of the defense in a chain."""

DRAWS = 4
"""Noisy versions of a validation image that choose the best epoch."""


@declares(
    "trains under the noise that a smoothed classifier is certified with",
    due=("white-box", "gradient-free"),
    status="CERTIFIED",
    passes=lambda params: params["loop"].passes(1),
    claim="a classifier smoothed by noise is certifiably robust in L2",
)
def smoothing(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,
    log: Log,
    /,
    *,
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy on images with Gaussian noise; the best epoch by noisy accuracy.

    The certificate, in L2, is that of the smoothed classifier, which answers what the file says
    most often under this noise: `evaluation.certify` with `smoothing` and the same sigma gives it.
    Attacks meet the file itself, of which it says nothing.

    Args:
        sigma: Standard deviation of the noise, pixel units; the certificate needs the same one.
    """
    loss, score = noisy(rng, sigma=sigma), noisy_accuracy(rng, sigma=sigma)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=None)


def mismatches(chain: Sequence[Spec], certified: Sequence[float]) -> list[str]:
    """What to know where a chain trains with other noise than it is `certified` with (sigmas)."""
    trained = [resolve(smoothing, spec.params)["sigma"] for spec in chain if spec.name == NAME]
    return [
        f"trained with noise of sigma {ours:g} and certified with {theirs:g}: sound, and far "
        "smaller than with the same sigma"
        for ours in trained
        for theirs in certified
        if ours != theirs
    ]


def noisy(rng: torch.Generator, *, sigma: float) -> Loss:
    """The mean cross entropy of a batch at x + sigma N(0, I); the range of pixels does not cut it.

    The certificate's noise is not cut off either.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:  # noqa: ARG001
        return F.cross_entropy(model(x + sigma * _noise(x, rng)), y)

    return loss


def noisy_accuracy(rng: torch.Generator, *, sigma: float) -> Score:
    """A score: accuracy under noise, the same noise every time."""
    seed = draw_seed(rng)

    def score(model: nn.Module, data: Labelled) -> float:
        same = torch.Generator(rng.device).manual_seed(seed)
        hits = 0
        with attacked(model), torch.no_grad():
            for x, y in data.batches(BATCH):
                for _ in range(DRAWS):
                    hits += int((model(x + sigma * _noise(x, same)).argmax(1) == y).sum())
        return hits / (DRAWS * len(data))

    return score


def _noise(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=rng, device=rng.device).to(x)
