"""Common corruptions, https://arxiv.org/abs/1903.12261: noise, blur, weather and digital loss.

Shapes: B images (B, C, H, W) in [0, 1].
"""

from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from attacks.corruptions.blur import BLUR
from attacks.corruptions.digital import DIGITAL
from attacks.corruptions.family import SEVERITIES, Family, constants
from attacks.corruptions.noise import NOISE
from attacks.corruptions.weather import WEATHER
from attacks.search import streams
from attacks.survey import check_images, classified
from hardening.attack import describes
from hardening.threat import Model

FAMILIES: dict[str, Family] = NOISE | BLUR | WEATHER | DIGITAL
FamilyName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
"""The keys of `FAMILIES`, spelled out for schemas and type checkers."""

EVERY: tuple[FamilyName, ...] = get_args(FamilyName)

Severity = Annotated[int, Field(ge=1, le=5)]


@describes("nothing", norms=())
@torch.no_grad()
def corruptions(
    model: Model,
    x: Tensor,
    y: Tensor,
    rng: torch.Generator,
    /,
    *,
    families: Annotated[tuple[FamilyName, ...], Field(min_length=1)] = EVERY,
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = SEVERITIES,
) -> dict[str, Tensor]:
    """Accuracy under corruptions that happen by themselves; conditions are `family severity`.

    No adversary is at work: each image meets one random corruption of each kind, the same at every
    severity but for its strength, and the same whichever other kinds are asked for. Images keep
    their size and any number of channels. Costs one forward pass per condition, and one.

    The formulas and constants are the paper's: CIFAR-10-C's for images of up to 32 pixels,
    ImageNet-C's from 224 on, between them by the logarithm of the size. Ours are the ice of
    `frost`, which is drawn instead of photographed, and the constants of `glass_blur`,
    `elastic_transform`, `frost` and the fourth `motion_blur`: the published ones do not grow.

    Args:
        families: Which kinds of corruption.
        severities: Which of the five strengths of each, 1 the weakest.

    Raises:
        ValueError: The images are not (B, C, H, W).
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    check_images("corruptions", x)
    x = x.detach().contiguous()
    seeds = _seeds(len(x), rng)
    right = classified(model, x, y)
    found = {}
    for name in families:
        for severity in severities:
            points = corrupted(x, name, severity, seeds)
            found[f"{name} {severity}"] = right & classified(model, points, y)
    return found


def corrupted(x: Tensor, name: FamilyName, severity: int, seeds: Tensor) -> Tensor:
    """Images (B, C, H, W) corrupted by one family; `seeds` (B, families) start their streams."""
    if len(x) == 0:
        return x  # PyTorch builds no sampling grids for no images
    family = FAMILIES[name]
    column = seeds[:, EVERY.index(name)]
    streams = [torch.Generator().manual_seed(seed) for seed in column.tolist()]
    return family.change(x, streams, *constants(family, severity, x))


def _seeds(count: int, rng: torch.Generator) -> Tensor:
    """A seed per image and family, whichever of them are used, (B, families)."""
    seeds = torch.empty(count, len(EVERY), dtype=torch.int64)
    for row, stream in zip(seeds, streams(count, rng), strict=True):
        torch.randint(2**62, row.shape, generator=stream, out=row)
    return seeds
