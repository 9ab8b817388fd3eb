"""Smooth activations for adversarial training, https://arxiv.org/abs/2006.14536.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from defenses.attacked import still
from defenses.declaration import declares
from hardening.data import TrainingData
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Log
from hardening.models.form import Form
from hardening.spec import Spec
from hardening.threat import ThreatModel

Activation = Literal["silu", "gelu", "softplus", "elu"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": lambda: nn.Softplus(beta=10),
    "elu": nn.ELU,
}
"""None of them has parameters."""

RELUS = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


@declares(
    "smooth activations in place of ReLU, for adversarial training to follow",
    due=("white-box", "gradient-free"),
    status="NO DEFENSE",
    passes=lambda _: 0,
    claim="smooth activations let adversarial training find harder images, at no cost in accuracy",
)
def smooth_activation(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,  # noqa: ARG001
    log: Log,
    /,
    *,
    activation: Activation = "silu",
) -> "Smooth":
    """Replace every ReLU, in forward and backward pass alike; train adversarially afterwards.

    Alone it is no defense, and costs accuracy: the weights were trained for ReLU. The gradients
    of a smooth model make better adversarial images in training.

    Args:
        activation: silu gained most in the paper; softplus is the one nearest to ReLU, log(1 +
            exp(10 x)) / 10.

    Raises:
        ModelError: There is no ReLU, it is written as a function inside the model's code, or the
            model is an ONNX file.
    """
    if any(isinstance(module, Twin) for module in model.modules()):
        raise ModelError(
            "smooth_activation: got an ONNX file, expected an architecture: name one as "
            "model.name, with its weights as model.weights"
        )
    replaced = sum(isinstance(module, nn.ReLU) for module in model.modules())
    smooth = Smooth([deepcopy(model)], activation).eval()
    if not replaced:
        raise ModelError(
            "smooth_activation: got a model without ReLU, expected some: use "
            "adversarial_training on it as it is"
        )
    device = next((p.device for p in model.parameters()), None)
    with still(smooth), torch.no_grad(), _Functions() as called:
        smooth(data.train.first(2).floats().to(device))
    if called.relus:
        raise ModelError(
            f"smooth_activation: got {called.relus} ReLUs inside the model's code, which cannot be "
            "replaced: use adversarial_training on it as it is, or another architecture"
        )
    log.line(f"{replaced} ReLU replaced by {activation}")
    return smooth


def with_smooth_activation(parts: Sequence[nn.Module], *, activation: Activation) -> "Smooth":
    """A model without ReLU, as its file describes it."""
    return Smooth(parts, activation)


class Smooth(Form):
    """Its only part, in which every ReLU has become another activation."""

    def __init__(self, parts: Sequence[nn.Module], activation: Activation) -> None:
        spec = Spec(name="smooth_activation", params={"activation": activation})
        super().__init__(spec, parts)
        for module in [*self.modules()]:
            # By place and not by child: one ReLU may stand in several places.
            for name, child in [*module._modules.items()]:
                if isinstance(child, nn.ReLU):
                    setattr(module, name, ACTIVATIONS[activation]())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.parts[0](x)
        return logits


class _Functions(TorchFunctionMode):
    """Counts the ReLUs that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.relus = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.relus += function in RELUS
        return function(*args, **(kwargs or {}))
