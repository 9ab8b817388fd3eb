"""A model made of other models: what stands before it, around it, or beside it.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from hardening.attack import Attack
from hardening.spec import Spec, bind
from hardening.threat import Model

Forms = Mapping[str, Callable[..., Any]]
"""Forms by name; each takes the models it is made of, and keyword-only options."""


class Form(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), by way of the models in `parts`.

    A defense that changes what a model is, or what happens to an image before it, gives one. `spec`
    is what its file says of it: enough to build it again around parts that were saved beside it.

    One that does not survive export is evaluated as it is, and says how: what answers and judges,
    what an informed adversary attacks and how, and what a careless one would.

    Attributes:
        through: The adaptive wrappers that `informed` and `adapted` come to, for the record.
        rejects: Whether `judge` and `informed` have one more class, the last, for what is rejected.
    """

    through: tuple[Spec, ...] = ()
    rejects: bool = False

    def __init__(self, spec: Spec, parts: Sequence[nn.Module]) -> None:
        """Put `parts` together; a subclass adds layers of its own.

        Args:
            spec: The form's name among the forms, and its options.
            parts: Models from images to logits.
        """
        super().__init__()
        self.spec = spec
        self.parts = nn.ModuleList(parts)

    def judge(self) -> Model:
        """What answers as deployed, and says whether an image has fallen."""
        return self

    def informed(self) -> Model:
        """What an adversary who knows the form follows the gradients and scores of."""
        return self

    def adapted(self, attack: Attack) -> Attack:
        """The attack as such an adversary runs it."""
        return attack

    def careless(self) -> Model:
        """What an evaluation that does not know the form follows the gradients of."""
        return self


def make(forms: Forms, spec: Spec, parts: Sequence[nn.Module]) -> Form:
    """The form that `spec` names, around `parts`.

    Raises:
        ConfigError: The name or an option is unknown.
    """
    made: Form = bind(forms, spec, "form")(parts)
    return made
