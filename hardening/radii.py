"""At which radius each image falls: the curve of robust accuracy against eps.

Shapes: N images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hardening.attack import Attack
from hardening.data import Labelled
from hardening.evaluation import all_stand, run_attack
from hardening.log import Log
from hardening.threat import Model, ThreatModel


class Radii:
    """Where every image stands on the way: the smallest known multiple of eps at which it falls.

    It starts from what is known at eps itself, so no image is attacked in vain: what stands there
    stands at every smaller radius, what fell falls at every larger one.

    Attributes:
        falls_at: (N,) multiples of eps, infinity where none is known to be enough.
        x_adv: (N, C, H, W) what the image became there.
    """

    def __init__(self, correct: Tensor, fell: Tensor, x_adv: Tensor) -> None:
        """Start with the images (N,) that are right and those (N,) that fell at eps to `x_adv`."""
        self.falls_at = torch.full((len(correct),), float("inf"))
        self.falls_at[fell] = 1.0
        self.falls_at[~correct] = 0.0
        self.x_adv = x_adv

    def note(self, places: Tensor, factor: float, x_adv: Tensor) -> None:
        """The images at `places` fall at `factor`, becoming `x_adv`."""
        self.falls_at[places] = factor
        self.x_adv[places] = x_adv


def curve(
    attack: Attack,
    model: Model,
    session: Model,
    images: Labelled,
    known: Radii,
    threat: ThreatModel,
    factors: Sequence[float],
    seed: int,
    log: Log,
) -> Tensor:
    """The smallest of `factors` (and 1) at which each image falls, (N,); infinity for none.

    Upward from eps, only what still stands is attacked. Downward, only what fell at the radius
    above: first with that very image, drawn closer, and then anew.
    """

    def try_at(factor: float, places: Tensor) -> None:
        scaled = threat.scaled(factor)
        name = f"eps {scaled.eps:.3g}"
        outcome = run_attack(name, attack, model, session, images, places, scaled, seed, log)
        known.note(outcome.fell, factor, outcome.x_adv[outcome.fooled])

    for factor in sorted(factor for factor in factors if factor > 1):
        try_at(factor, known.falls_at.isinf().nonzero()[:, 0])
    above = 1.0
    for factor in sorted((factor for factor in factors if factor < 1), reverse=True):
        places = (known.falls_at == above).nonzero()[:, 0]
        _draw_closer(session, images, known, threat, places, factor)
        try_at(factor, (known.falls_at == above).nonzero()[:, 0])
        above = factor
    return known.falls_at


def _draw_closer(
    session: Model,
    images: Labelled,
    known: Radii,
    threat: ThreatModel,
    places: Tensor,
    factor: float,
) -> None:
    """Note what still falls when its adversarial image is projected to the smaller radius."""
    if not len(places):
        return
    part = images.take(places.to(images.labels.device))
    x = part.floats()
    closer = threat.scaled(factor).project(x, known.x_adv[places].to(x))
    fooled = ~all_stand(session, Labelled(closer, part.labels))
    known.note(places[fooled], factor, closer.cpu()[fooled])
