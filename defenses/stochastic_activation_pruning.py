"""Stochastic activation pruning, https://arxiv.org/abs/1803.01442.

Shapes: B images (B, C, H, W), n activations of an image behind one ReLU, K classes.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.adaptive import expectation, majority
from defenses.attacked import still
from defenses.declaration import declares
from hardening.data import TrainingData
from hardening.errors import ModelError
from hardening.log import Log
from hardening.models.form import Form
from hardening.randomness import draw_seed
from hardening.spec import Spec
from hardening.threat import Model, ThreatModel

Share = Annotated[float, Field(gt=0)]

DRAWS = 20
"""Passes whose mean an informed adversary follows: one alone follows noise."""

RELUS = frozenset(
    {nn.functional.relu, nn.functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
)


@declares(
    "keeps random activations, by their size",
    due=("expectation", "transfer", "gradient-free"),
    status="BROKEN",
    passes=lambda _: 0,
    ships="an ONNX graph has no random numbers that every runtime draws alike; the model without "
    "the pruning ships instead",
    claim="pruning activations at random makes a trained network more robust without any training",
)
def stochastic_activation_pruning(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,
    log: Log,
    /,
    *,
    share: Share = 1.0,
) -> nn.Module:
    """Draw activations after every ReLU by their size, keep the drawn ones and scale them up.

    Nothing is trained. Broken by gradients in the mean over draws (Athalye et al. 2018,
    https://arxiv.org/abs/1802.00420), and by adversarial images of the model without the pruning.

    Args:
        share: Draws with replacement, in multiples of the activations there are: 1 is SAP-100.

    Raises:
        ModelError: The model has no ReLU.
    """
    # A seed of 53 bits stays what it is in the header, which is JSON.
    pruned = pruning([deepcopy(model)], share=share, seed=draw_seed(rng) % 2**53)
    pruned.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    behind = pruned.relus(data.train.first(1).floats().to(device))
    if not behind:
        raise ModelError(
            "stochastic_activation_pruning: got a model without any ReLU, expected one to prune "
            "after: apply it before its activations are replaced or its file is quantized"
        )
    log.line(f"prunes after {behind} ReLUs")
    return pruned


def pruning(parts: Sequence[nn.Module], *, share: Share, seed: int) -> "Pruned":
    """The form: `share` as above, and the seed of the first draw."""
    return Pruned(parts, share, seed)


class Pruned(Form):
    """A model that answers differently each time; restored, it starts the same row of answers."""

    through = (Spec(name="expectation", params={"draws": DRAWS}),)

    def __init__(self, parts: Sequence[nn.Module], share: float, seed: int) -> None:
        spec = Spec(name="stochastic_activation_pruning", params={"share": share, "seed": seed})
        super().__init__(spec, parts)
        self.share = share
        self.rng = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """One draw of the logits (B, K)."""
        with _AfterRelu(self._prune):
            logits: Tensor = self.parts[0](x)
        return logits

    def judge(self) -> Model:
        """The majority of many answers."""
        return majority(self)

    def informed(self) -> Model:
        """The mean over draws."""
        return expectation(self, draws=DRAWS)

    @torch.no_grad()
    def relus(self, x: Tensor) -> int:
        """How many ReLUs an image of `x` passes."""
        with still(self), _AfterRelu(lambda activations: activations) as mode:
            self.parts[0](x)
        seen: int = mode.seen
        return seen

    def _prune(self, activations: Tensor) -> Tensor:
        """Activations (B, ...), those drawn divided by their chance to be drawn, the others zero.

        One of size h_j among n is drawn at least once in r = share * n draws with replacement with
        chance 1 - (1 - |h_j| / sum |h|)^r; each is kept with that chance, independently. The chance
        counts as a constant: so the mean of the gradients is that of the model without pruning.
        """
        sizes = activations.detach().flatten(1).abs()
        parts = sizes / sizes.sum(1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
        draws = max(1, round(self.share * sizes.shape[1]))
        chance = -torch.expm1(draws * torch.log1p(-parts)).view_as(activations)
        kept = torch.rand(activations.shape, generator=self.rng).to(activations) < chance
        zero = torch.zeros_like(activations)
        return torch.where(kept, activations / torch.where(kept, chance, 1), zero)


class _AfterRelu(TorchFunctionMode):
    """Inside, every ReLU gives what `change` makes of it, be it a module or a function."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.seen = change, 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function not in RELUS:
            return result
        self.seen += 1
        return self.change(result)
