"""What happens to an image before a model sees it, as a part of the model.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn

from hardening.deployment.front import put_in_front
from hardening.deployment.twin import Twin
from hardening.models.form import Form
from hardening.spec import Spec


class Prepared(Form):
    """Images (B, C, H, W) in [0, 1] to the logits (B, K) of what `prepare` makes of them."""

    def __init__(self, spec: Spec, parts: Sequence[nn.Module], prepare: nn.Module) -> None:
        """Put `prepare`, which maps images to images, in front of the only part."""
        super().__init__(spec, parts)
        self.prepare = prepare

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.parts[0](self.prepare(x))
        return logits


def in_front(
    model: nn.Module, spec: Spec, prepare: nn.Module, shape: tuple[int, int, int]
) -> Prepared | Twin:
    """`model` behind `prepare`; of an ONNX file the twin of a file with both in one graph.

    Args:
        shape: (C, H, W) of one image.

    Raises:
        ModelError: The file's graph has no room for it.
    """
    if isinstance(model, Twin):
        return Twin(put_in_front(prepare.eval(), model.data, shape))
    device = next((tensor.device for tensor in model.state_dict().values()), None)
    return Prepared(spec, [deepcopy(model)], prepare).to(device).eval()
