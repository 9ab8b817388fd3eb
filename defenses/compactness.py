"""ADR: features of images of one class kept together, https://arxiv.org/abs/2007.05123.

Shapes: B images, C channels, H x W pixels, K classes, F features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.declaration import declares
from defenses.inner import worst
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.errors import ModelError
from hardening.log import Log
from hardening.threat import ThreatModel

SIMILARITY = 0.99
"""Share of the pull between images of one class that a pair of different classes is spared of."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@declares(
    "keeps adversarial features near those of their own image and of its class",
    due=("white-box", "gradient-free"),
    status="AT-BASED",
    passes=lambda params: params["loop"].passes(params["steps"] + 2),
    claim="compact representations add robustness to adversarial training",
)
def compactness(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    beta: Weight = 1.0,
    local: Weight = 1.0,
    smoothness: Weight = 1.0,
    overall: Weight = 1.0,
    confidence: Weight = 1.0,
    steps: Annotated[int, Field(ge=1)] = 7,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise clean and adversarial cross entropy and what divides features and outputs.

    Features are what enters the last linear layer. As half of the loss is clean it compares with
    training on both halves, not with `adversarial_training`; confident outputs flatten gradients of
    the cross entropy, so its figure needs a margin loss and `square`.

    Args:
        beta: Weight of the adversarial cross entropy.
        local: Of the distance between the features of an image and of its adversarial one.
        smoothness: Of the cross entropy between their outputs.
        overall: Of the distance between adversarial features and those of all images of the class.
        confidence: Of the entropy of adversarial outputs.
        steps: Of PGD, each 2.5 eps / steps long; a training step costs steps + 2 plain ones.

    Raises:
        ModelError: The model has no linear layer, an ONNX file's twin, say.
    """
    weights = (beta, local, smoothness, overall, confidence)
    last_linear(model)
    score = robust_accuracy(threat, rng)
    loss = compact(rng, weights, steps=steps)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat)


def compact(
    rng: torch.Generator, weights: tuple[float, float, float, float, float], *, steps: int
) -> Loss:
    """CE(x) + the five terms of `terms`, each times its weight."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        x_adv = worst(model, x, y, threat.sample(x, rng), threat, steps=steps)
        with watched(last_linear(model)) as seen:
            clean, adversarial = model(x), model(x_adv)
        parts = terms(clean, adversarial, seen[0], seen[1], y)
        extra = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        return F.cross_entropy(clean, y) + extra

    return loss


def terms(
    clean: Tensor, adversarial: Tensor, features: Tensor, moved: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Adversarial cross entropy, local distance, smoothness, global distance, entropy.

    Args:
        clean: Logits (B, K) of images, `adversarial` those of their adversarial ones.
        features: (B, F) of images, which stand still; `moved` those of the adversarial ones.
        y: Labels (B,).
    """
    target, outputs = clean.detach().softmax(1), adversarial.log_softmax(1)
    features = features.detach()
    apart = torch.cdist(moved, features, p=1) / features.shape[1]
    pull = torch.where(y[:, None] == y, 1.0, 1 - 1 / SIMILARITY)
    return (
        F.cross_entropy(adversarial, y),
        (features - moved).abs().mean(),
        -(target * outputs).sum(1).mean(),
        (pull * apart).mean(),
        -(outputs.exp() * outputs).sum(1).mean(),
    )


def last_linear(model: nn.Module) -> nn.Linear:
    """The layer that turns features into logits."""
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ModelError(
            "compactness: got a model without a linear layer, expected one at its end: use trades, "
            "which holds outputs together instead of features"
        )
    return found[-1]


@contextmanager
def watched(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What enters `layer` inside the block, flat (B, F), a tensor for each pass."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    try:
        yield seen
    finally:
        handle.remove()
