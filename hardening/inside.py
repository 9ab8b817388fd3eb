"""A model that does not ship: the torch module itself answers, in this process.

Shapes: B images (B, C, H, W), K classes, and one more, the last, where images can be rejected.
"""

import hashlib
from collections import Counter

import torch
from torch import Tensor

from hardening.attack import Attack, stands
from hardening.evidence import File
from hardening.models.form import Form
from hardening.spec import Spec
from hardening.threat import Model


class Inside:
    """In the place of a file's session; `data` is what the form was restored from."""

    def __init__(self, data: bytes, form: Form) -> None:
        """Let `form` answer and judge as it does when deployed."""
        self.data, self.form = data, form.eval()
        self.judge, self.informed = form.judge(), form.informed()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) or (B, K + 1)."""
        return self.judge(x)

    @torch.no_grad()
    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """As the form judges, (B,) of bool."""
        return stands(self.judge, points, logits, y)

    def adapted(self, attack: Attack) -> Attack:
        """The attack as an adversary who knows the form runs it."""
        return self.form.adapted(attack)

    def through(self, *, led: bool) -> list[Spec]:
        """The wrappers that an attack goes through; one `led` by others needs no mean gradient."""
        return [spec for spec in self.form.through if not (led and spec.name == "expectation")]

    def alike(self, surrogate: Model) -> Model:
        """A model that leads attacks on this one, with as many classes: it never rejects."""
        return _Trusting(surrogate) if self.form.rejects else surrogate

    def facts(self) -> File:
        """Identity of the bytes, and that no file was run."""
        layers = [module for module in self.form.modules() if not [*module.children()]]
        return File(
            sha256=hashlib.sha256(self.data).hexdigest(),
            bytes=len(self.data),
            precision="float32",
            opset=0,
            operators=dict(sorted(Counter(type(layer).__name__ for layer in layers).items())),
            providers=["torch"],
            threads=torch.get_num_threads(),
            optimization="none",
        )


class _Trusting:
    """Logits (B, K + 1) of a model (B, K), the last one always the lowest."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return torch.cat([logits, logits.amin(1, keepdim=True) - 1], 1)
