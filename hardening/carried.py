"""An attack across models: others lead it, and the model under attack judges every step.

Shapes: B images (B, C, H, W), K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hardening.attack import stands
from hardening.errors import ModelError, NumericsError
from hardening.threat import Model

BATCH = 64
"""Images a model judges at a time; larger batches leave a processor's cache and are slower."""


class Carried:
    """A target under attack by the gradients of a surrogate.

    Whether an image has fallen is asked of the target at every step, whatever the surrogate
    believes: nothing stops at the surrogate's border, which is seldom the target's, and nothing
    that fools the target on the way is passed by.
    """

    def __init__(self, target: Model, surrogate: Model) -> None:
        """Attack `target` with the gradients of `surrogate`."""
        self.target, self.surrogate = target, surrogate
        self.draws = draws(target, surrogate)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K): the surrogate's where gradients are asked for, else the target's."""
        return self.surrogate(x) if x.requires_grad else self.target(x)

    @torch.no_grad()
    def stands(
        self,
        points: Tensor,
        logits: Tensor,  # noqa: ARG002
        y: Tensor,
    ) -> Tensor:
        """Whether the target still says `y` at each point (B, ...), (B,) of bool.

        `logits` may be the surrogate's and count for nothing: the target is asked.

        Raises:
            NumericsError: A logit of the target is not finite.
        """
        points = points.detach()
        answers = torch.cat([self.target(part).to(points.device) for part in points.split(BATCH)])
        if not answers.isfinite().all():
            bad = int((~answers.isfinite()).any(1).sum())
            raise NumericsError(f"logits of the target are not finite for {bad} of {len(y)} images")
        return stands(self.target, points, answers, y)


class Beside:
    """A file under attack, and beside it the file it was made from, its `parent`."""

    def __init__(self, target: Model, parent: Model) -> None:
        """Attack `target`, with `parent` to look at."""
        self.target, self.parent = target, parent
        self.draws = draws(target)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the target."""
        return self.target(x)

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """As the target judges, (B,) of bool."""
        return stands(self.target, points, logits, y)


class Ensemble:
    """Several models as one surrogate: logits are the mean of the members' log-probabilities.

    Of ensembles in logits, in probabilities and in loss, the one in logits carries furthest in
    Dong et al. (2018), https://arxiv.org/abs/1710.06081; log-probabilities are logits without each
    member's offset.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        """Average `models`.

        Raises:
            ValueError: There is none.
        """
        if not models:
            raise ValueError("got no models, expected at least one")
        self.models = tuple(models)
        self.draws = draws(*models)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K), with gradients to `x` where the members have them.

        Raises:
            ModelError: Two members disagree on the number of classes.
        """
        answers = [model(x) for model in self.models]
        classes = {logits.shape[-1] for logits in answers}
        if len(classes) > 1:
            got = ", ".join(str(count) for count in sorted(classes))
            raise ModelError(f"ensemble: got members with {got} outputs, expected the same number")
        return torch.stack([logits.log_softmax(-1) for logits in answers]).mean(0)


def draws(*models: Model) -> int:
    """How many passes make one answer of `models` asked together: the most any of them wants."""
    return max(int(getattr(model, "draws", 1)) for model in models)
