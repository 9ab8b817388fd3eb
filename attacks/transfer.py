"""Gradients that carry over to another model: momentum, input diversity, translation invariance.

MI-FGSM https://arxiv.org/abs/1710.06081, DI2-FGSM https://arxiv.org/abs/1803.06978, TI-FGSM
https://arxiv.org/abs/1904.02884, of which any mixture can be asked for.

Shapes: B images, b of them still standing, C channels, H x W pixels.
"""

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from attacks.gradient import BATCH, differentiate, draws, look
from attacks.losses import LOSSES, Loss, LossFunction
from attacks.parameters import Count
from attacks.search import Search, rows
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel, per_image

SMALLEST = 0.9
"""Least side of a diversified image in units of its own, as 299 is to 330 in the paper."""
NUMBERS = 4  # uniform numbers that one view of an image takes


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"got {size}, expected an odd number")
    return size


@describes("gradients", norms=("linf", "l2", "l1"))
def transfer(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 10,
    relative_step: Annotated[float | None, Field(gt=0)] = None,
    momentum: Annotated[float, Field(ge=0)] = 1.0,
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.5,
    kernel: Annotated[int, Field(ge=1), AfterValidator(_odd)] = 1,
    loss: Loss = "margin",
) -> Found:
    """Steps along an accumulated gradient of randomly resized views, from the image itself.

    With g the gradient of the loss at a view of the point, convolved with a Gaussian kernel, the
    direction is m <- momentum * m + g / |g|_1, and each step is one of steepest ascent in m. Meant
    for a `Carried` model, whose surrogate gives g and whose target judges every point; the first
    point that fools is kept. Costs two forward passes and one backward pass a step for the images
    that still stand. Inputs that are not (B, C, H, W) get neither views nor a kernel.

    Args:
        steps: Gradient evaluations.
        relative_step: Step size as a fraction of eps; 1 / steps when not given.
        momentum: What stays of the accumulated direction at each step; 0 for none.
        diversity: Probability that a step looks at a shrunk and shifted view of an image.
        kernel: Side in pixels of the Gaussian kernel, odd; 1 for none. The paper takes 15 for
            images of 299 x 299.
        loss: What the steps raise. The papers take `ce`, which a surrogate with large logits
            silences; where it does not, `margin` carries as far.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    objective = LOSSES[loss]
    stride = threat.eps * (1 / steps if relative_step is None else relative_step)
    search = Search(model, x, y, objective, rng)
    numbers = search.uniform(steps * NUMBERS).view(-1, steps, NUMBERS)
    points, direction = search.x, torch.zeros_like(search.x)
    for step in range(steps):
        if search.done:
            break
        gradient = _gradient(model, points, numbers[:, step], diversity, objective, search.y)
        direction = momentum * direction + _unit(_smooth(gradient, kernel))
        points = threat.project(search.x, points + stride * threat.ascend(direction))
        logits, losses = look(model, points, objective, search.y)
        standing = search.settle(points, logits)
        points, losses, direction, numbers = rows(standing, points, losses, direction, numbers)
        search.offer(points, losses)
    return search.found


def _gradient(
    model: Model,
    points: Tensor,
    numbers: Tensor,
    diversity: float,
    objective: LossFunction,
    y: Tensor,
) -> Tensor:
    """Input gradients (b, ...) through one random view of each point; `numbers` are (b, 4)."""
    if points.ndim != 4 or diversity == 0:
        return differentiate(model, points, objective, y)[2]
    gradients = []
    # Batches of the size `differentiate` cuts, for a view needs the numbers of its own images.
    for part, row, label in zip(
        points.split(BATCH), numbers.split(BATCH), y.split(BATCH), strict=True
    ):

        def through_views(x: Tensor, row: Tensor = row) -> Tensor:
            return model(_view(x, row, diversity))

        through_views.draws = draws(model)  # type: ignore[attr-defined]
        gradients.append(differentiate(through_views, part, objective, label)[2])
    return torch.cat(gradients)


def _view(x: Tensor, numbers: Tensor, diversity: float) -> Tensor:
    """Some of the images (B, C, H, W) shrunk and put somewhere on a black image of equal size."""
    chance, side, right, down = numbers.to(x.dtype).T
    side = SMALLEST + (1 - SMALLEST) * side
    across = _source(x.shape[3], side, right, x)[:, None, :].expand(-1, x.shape[2], -1)
    along = _source(x.shape[2], side, down, x)[:, :, None].expand(-1, -1, x.shape[3])
    grid = torch.stack([across, along], dim=-1)
    shrunk = F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
    return torch.where(per_image(chance < diversity, x), shrunk, x)


def _source(pixels: int, side: Tensor, place: Tensor, like: Tensor) -> Tensor:
    """Where on the image, from -1 to 1, each of `pixels` places of its view looks, (B, pixels)."""
    centres = (2 * torch.arange(pixels, device=like.device, dtype=like.dtype) + 1) / pixels - 1
    shift = (1 - side) * (2 * place - 1)
    return (centres - shift[:, None]) / side[:, None]


def _smooth(gradient: Tensor, kernel: int) -> Tensor:
    """`gradient` (b, C, H, W) convolved with a Gaussian of standard deviation side / 2 / sqrt 3."""
    if gradient.ndim != 4 or kernel == 1:
        return gradient
    reach = kernel // 2
    places = torch.arange(-reach, reach + 1, device=gradient.device, dtype=gradient.dtype)
    weight = torch.softmax(-(places**2) * 3 / (2 * reach**2), 0)
    channels = gradient.shape[1]
    row = weight.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    gradient = F.conv2d(gradient, row, padding=(0, reach), groups=channels)
    return F.conv2d(gradient, row.transpose(2, 3), padding=(reach, 0), groups=channels)


def _unit(gradient: Tensor) -> Tensor:
    """`gradient` (b, ...) over its sum of absolute values; zero stays zero."""
    tiny = torch.finfo(gradient.dtype).tiny
    # By the largest entry first: the sum of tiny ones would underflow, that of huge ones overflow.
    peak = gradient.flatten(1).abs().amax(1)
    gradient = gradient / per_image(peak.clamp(min=tiny), gradient)
    return gradient / per_image(gradient.flatten(1).abs().sum(1).clamp(min=tiny), gradient)
