"""Universal perturbations: one v that is added to every image.

By stochastic gradients, https://arxiv.org/abs/1811.11304, or by DeepFool steps from image to image,
https://arxiv.org/abs/1610.08401. Shapes: B images (B, ...), v (...) like one of them, K classes.
"""

from typing import Literal

import torch
from torch import Tensor

from attacks.gradient import differentiate, look
from attacks.losses import ce
from attacks.noise import mistaken
from attacks.parameters import Count, Share
from attacks.search import Search, streams
from hardening.attack import Found, describes, stands
from hardening.evidence import Fooling
from hardening.threat import Model, ThreatModel

Method = Literal["sgd", "deepfool"]

BETA = 9.0
"""Cross entropy from which on an image counts no more."""

IMAGES = 32  # a gradient step looks at

RIVALS = 9  # classes a DeepFool step considers: the paper's ten best with the label itself
DEEPFOOL_STEPS = 10
OVERSHOOT = 0.02
ENOUGH = 0.8  # share of fooled images at which the DeepFool form stops, the paper's 1 - delta


@describes("gradients", norms=("linf", "l2", "l1"), whole=True)
def universal(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    method: Method = "sgd",
    passes: Count = 10,
    relative_step: Share = 0.2,
) -> Found:
    """Add to each image a perturbation that was fitted on images other than it, (B, ...).

    The images are split at random into two halves; one perturbation is fitted on each
    (`fit_universal`) and added to the images of the other half, so success is success on images
    that the perturbation has not seen. Each image is tried once; a half fitted on no image gets no
    perturbation. Costs `passes` forward and backward passes (`sgd`) or up to 90 times as many
    (`deepfool`), and two forward passes.

    Args:
        method: sgd, the stronger one, or deepfool, the first published.
        passes: Times each image is looked at, at most.
        relative_step: Step of `sgd` as a fraction of eps.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    x = x.detach()
    search = Search(model, x, y, mistaken, rng)
    if search.done:
        return search.found
    order = torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)
    halves = order[: len(x) // 2], order[len(x) // 2 :]
    v = torch.empty_like(x)
    for seen, unseen in (halves, halves[::-1]):
        v[unseen] = fit_universal(
            model,
            x[seen],
            y[seen],
            threat,
            rng,
            method=method,
            passes=passes,
            relative_step=relative_step,
        )
    points = threat.project(search.x, search.x + v[search.index])
    logits, losses = look(model, points, mistaken, search.y)
    standing = search.settle(points, logits)
    # The only point there is: kept whatever it does.
    search.offer(points[standing], torch.full_like(losses[standing], float("inf")))
    return search.found


def fit_universal(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    method: Method = "sgd",
    passes: int = 10,
    relative_step: float = 0.2,
) -> Tensor:
    """A perturbation v (...) in the norm ball that fools as many of the images as it can.

    `sgd`: v <- P(v + step of steepest ascent of the mean of min(cross entropy, 9) at x + v), a
    batch of 32 images at a time. `deepfool`: for each image that v does not fool yet,
    v <- P(v + r), r being the step that DeepFool finds to change the label at x + v, until v fools
    80 % or the passes are over. P projects to the ball; the model sees x + v cut to [0, 1].
    """
    x = x.detach()
    v = x.new_zeros(1, *x.shape[1:])
    if len(x) == 0:
        return v[0]
    if method == "deepfool":
        return _by_deepfool(model, x, threat, rng, v, passes)[0]
    for _ in range(passes):
        order = torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)
        for chosen in order.split(IMAGES):
            moved = x[chosen] + v
            _, _, gradient = differentiate(model, moved.clamp(0, 1), _clipped, y[chosen])
            # Beyond the range v changes nothing in this image.
            inside = (moved >= 0) & (moved <= 1)
            mean = (gradient * inside).mean(0, keepdim=True)
            v = _to_ball(threat, v + relative_step * threat.eps * threat.ascend(mean))
    return v[0]


@torch.no_grad()
def fooling_rates(
    model: Model, x: Tensor, x_adv: Tensor, threat: ThreatModel, rng: torch.Generator
) -> Fooling:
    """Shares of images whose label changes: at `x_adv`, and at a random border point each.

    A change of label is not an error, unless the model gets every given image right; images that it
    does not are best left out: attacks return them as they came, so they count as unchanged.
    """
    anything = torch.zeros(len(x), dtype=torch.long, device=x.device)
    labels = look(model, x, mistaken, anything)[0].argmax(1)
    ways = [torch.randn(x.shape[1:], generator=stream) for stream in streams(len(x), rng)]
    noisy = threat.summit(x, torch.stack(ways).to(x)) if ways else x
    return Fooling(
        images=len(x),
        universal=_changed(model, x_adv, labels),
        noise=_changed(model, noisy, labels),
    )


def _changed(model: Model, points: Tensor, labels: Tensor) -> float:
    logits, _ = look(model, points, mistaken, labels)
    changed = ~stands(model, points, logits, labels)
    return float(changed.double().mean()) if len(points) else 0.0


def _clipped(logits: Tensor, y: Tensor) -> Tensor:
    return ce(logits, y).clamp(max=BETA)


def _to_ball(threat: ThreatModel, v: Tensor) -> Tensor:
    """The projection of v (1, ...) to the ball around zero, where no pixel range is in the way."""
    return v.sign() * threat.project(torch.zeros_like(v), v.abs())


def _by_deepfool(
    model: Model, x: Tensor, threat: ThreatModel, rng: torch.Generator, v: Tensor, passes: int
) -> Tensor:
    anything = torch.zeros(len(x), dtype=torch.long, device=x.device)
    labels = look(model, x, mistaken, anything)[0].argmax(1)
    for _ in range(passes):
        order = torch.randperm(len(x), generator=rng, device=rng.device).tolist()
        # One after the other: each image starts from where the last one has brought v.
        for i in order:
            point = (x[i : i + 1] + v).clamp(0, 1)
            v = _to_ball(threat, v + _deepfool_step(model, point, labels[i : i + 1]))
        _, changed = look(model, (x + v).clamp(0, 1), mistaken, labels)
        if changed.mean() >= ENOUGH:
            break
    return v


def _deepfool_step(model: Model, point: Tensor, label: Tensor) -> Tensor:
    """What DeepFool adds to `point` (1, ...) to change its label; zero where it cannot."""
    step = torch.zeros_like(point)
    logits, changed = look(model, point, mistaken, label)
    if changed[0]:
        return step
    others = logits.scatter(1, label[:, None], -float("inf"))
    rivals = others.topk(min(RIVALS, others.shape[1] - 1)).indices[0]
    for _ in range(DEEPFOOL_STEPS):
        here = (point + (1 + OVERSHOOT) * step).clamp(0, 1).expand(len(rivals), *point.shape[1:])
        logits, leads, slopes = differentiate(model, here, _lead, rivals, label.expand_as(rivals))
        if logits[0].argmax() != label[0]:
            return (1 + OVERSHOOT) * step
        steep = slopes.flatten(1).square().sum(1)
        nearest = torch.where(steep > 0, leads.abs() / steep.sqrt(), float("inf")).argmin()
        if steep[nearest] == 0:
            break
        # A little more than the border's distance, or rounding may leave it on this side.
        step = step + (leads[nearest].abs() + 1e-4) / steep[nearest] * slopes[nearest]
    return torch.zeros_like(step)


def _lead(logits: Tensor, rival: Tensor, label: Tensor) -> Tensor:
    """How far a class is ahead of the label, (B,)."""
    return (logits.gather(1, rival[:, None]) - logits.gather(1, label[:, None]))[:, 0]
