"""Between a model's weights and its hardened ones, https://arxiv.org/abs/2109.01903."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from defenses.adversarial_training import adversarial_training
from defenses.declaration import Defense, declaration, declares
from defenses.dial import STOPS, between
from defenses.helper import helper
from defenses.mart import mart
from defenses.n_fgsm import n_fgsm
from defenses.scores import Score, clean_accuracy, robust_accuracy
from defenses.trades import trades
from defenses.training import Loop
from hardening.data import Labelled, TrainingData
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.errors import BrokenPromise
from hardening.log import Log
from hardening.spec import resolve
from hardening.threat import ThreatModel

Of = Literal["n_fgsm", "adversarial_training", "trades", "mart", "helper"]

TRAININGS: dict[Of, Defense] = {
    "n_fgsm": n_fgsm,
    "adversarial_training": adversarial_training,
    "trades": trades,
    "mart": mart,
    "helper": helper,
}
"""What trains from the given weights: between others' and these lies nothing of use."""


class Dialled(Loop):
    """The loop's options without its own way back: the defense is one, with another limit."""

    keep_clean: None = Field(default=None, description="`drop` is the limit here")


@declares(
    "weights between those of the given and of the adversarially trained model",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: declaration(TRAININGS[params["of"]]).passes(
        resolve(TRAININGS[params["of"]], {}) | {"loop": params["loop"]}
    ),
    claim="between the given and the hardened weights lies a better price for robustness "
    "than at either end",
)
def interpolation(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    of: Of = "n_fgsm",
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.02,
    loop: Dialled = Dialled(),  # noqa: B008
) -> nn.Module:
    """Train by another defense, then go back towards the given weights until accuracy is back.

    Of ten stops on the way from the given to the hardened weights it is the one with the highest
    robust validation accuracy among those whose clean one is at most `drop` below the given
    model's. The option `keep_clean` of any training does it for a floor of clean accuracy.

    Args:
        of: The defense that trains, with its own defaults beside the options of the loop.
        drop: Most clean validation accuracy that hardening may cost, as a fraction.

    Raises:
        BrokenPromise: No stop but the given model keeps so much accuracy.
    """
    after = TRAININGS[of](model, data, threat, rng, log, loop=loop)  # type: ignore[call-arg]
    robust = robust_accuracy(threat, rng)
    validation = data.validation.first(loop.validation_images)
    if isinstance(model, Twin):
        assert isinstance(after, Twin)
        mixed = _mixed(Trainable(model.data), Trainable(after.data), validation, robust, drop, log)
        assert isinstance(mixed, Trainable)
        return Twin(mixed.file())
    device = next(model.parameters()).device
    validation = Labelled(validation.images.to(device), validation.labels.to(device))
    return _mixed(model, after, validation, robust, drop, log)


def _mixed(
    before: nn.Module, after: nn.Module, validation: Labelled, robust: Score, drop: float, log: Log
) -> nn.Module:
    """The most robust stop of the dial that is accurate enough; on a tie the farthest one."""
    floor = clean_accuracy(before, validation) - drop
    best, found, seen = -1.0, None, []
    for stop in range(STOPS, 0, -1):
        model = between(before, after, stop / STOPS)
        clean, hard = clean_accuracy(model, validation), robust(model, validation)
        seen.append(clean)
        log.line(f"{stop / STOPS:.0%} of the way: clean {clean:.1%}, robust {hard:.1%}")
        if clean >= floor and hard > best:
            best, found = hard, (stop, clean, model)
    if found is None:
        raise BrokenPromise(
            f"interpolation: got a clean validation accuracy of at most {max(seen):.1%} on the way "
            f"to the hardened weights, expected {floor:.1%}: allow a larger drop, or train longer"
        )
    stop, clean, model = found
    log.chose(
        f"interpolation chose {stop / STOPS:.0%} of the way to the hardened weights, validation "
        f"accuracy {clean:.1%} clean and {best:.1%} robust, because clean has to be {floor:.1%}"
    )
    return model
