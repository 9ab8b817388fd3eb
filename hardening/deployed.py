"""A file under attack: its session answers and judges, its twin answers where gradients are asked.

Shapes: B images (B, C, H, W), K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hardening.attack import Judging, stands
from hardening.errors import HardeningError, ModelFailure
from hardening.threat import Model


class Deployed:
    """What an attack sees of an exported file.

    The twin's word that an image has fallen is only a hint: the session confirms it, or the search
    goes on. So nothing stops at a point that fools the twin alone, and the twin may compute in
    bfloat16 where that is faster. A search by scores asks thousands of times: it may be led by the
    fast twin, too.
    """

    def __init__(
        self, session: Model, twin: Model, *, fast: bool = False, scores: bool = False
    ) -> None:
        """Put the two together.

        Args:
            session: Runs the shipped bytes.
            twin: Computes the same, with gradients; the session again if there is none.
            fast: Let the twin compute in bfloat16.
            scores: Let the twin answer where no gradient is asked for, too.
        """
        self.session, self.twin, self._fast, self._scores = session, twin, fast, scores
        self.draws = int(getattr(twin, "draws", 1))

    @property
    def differentiable(self) -> bool:
        """Whether there is a twin, and so gradients."""
        return self.twin is not self.session

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) float32."""
        if not (x.requires_grad or self._scores):
            return self.session(x).to(x.device)
        if not self._fast:
            return self.twin(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.twin(x).float()

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each point is still classified as `y`, (B,) bool: asked where the twin doubts."""
        # A twin that judges for itself says first; else what the session would make of its logits.
        judge = self.twin if isinstance(self.twin, Judging) else self.session
        right = stands(judge, points, logits, y)
        doubtful = (~right).nonzero()[:, 0]
        if len(doubtful):
            asked, labels = points[doubtful], y[doubtful]
            answers = self.session(asked).to(points.device)
            right[doubtful] = stands(self.session, asked, answers, labels)
        return right


class Counted:
    """A model that counts the images it has seen, forward and backward."""

    def __init__(self, model: Model, seen: Callable[[int], None] | None = None) -> None:
        """Count on `model`; `seen` is told how many images a forward pass had."""
        self.model, self._seen = model, seen
        self.forwards = self.backwards = 0
        self.draws = int(getattr(model, "draws", 1))
        # What stands beside the model is looked at, not attacked: its passes are not counted.
        self.parent: Model | None = getattr(model, "parent", None)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        self.forwards += len(x)
        if self._seen is not None:
            self._seen(len(x))
        logits = self._ask(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """As the model itself judges, (B,) bool; a confirmation is not counted as a pass."""
        return stands(self.model, points, logits, y)

    def _ask(self, x: Tensor) -> Tensor:
        try:
            return self.model(x)
        except HardeningError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise ModelFailure(
                f"the model raised {type(error).__name__} on {len(x)} images: {said}"
            ) from error

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@contextmanager
def unchanged(name: str, model: Model) -> Iterator[None]:
    """Attack `model` inside: its state must be the same afterwards, bit for bit.

    The state is that of every module it holds: its twin, and those of a surrogate or a wrapper.

    Raises:
        ModelFailure: A parameter or a buffer changed.
    """
    held = [
        (key, tensor) for module in _modules(model) for key, tensor in module.state_dict().items()
    ]
    before = [tensor.clone() for _, tensor in held]
    yield
    for (key, after), tensor in zip(held, before, strict=True):
        if not torch.equal(tensor.nan_to_num(), after.nan_to_num()):
            raise ModelFailure(f"{name}: the model changed {key!r} of itself while under attack")


def _modules(holder: object) -> Iterator[nn.Module]:
    """The modules that `holder` is or holds, however deep among its attributes."""
    if isinstance(holder, nn.Module):
        yield holder
    elif isinstance(holder, list | tuple):
        for part in holder:
            yield from _modules(part)
    elif callable(holder) and not isinstance(holder, type):
        yield from _modules([*vars(holder).values()] if hasattr(holder, "__dict__") else [])


def bfloat16_is_faster() -> bool:
    """Whether this processor computes in bfloat16: convolutions take about 0.6 of the time."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
