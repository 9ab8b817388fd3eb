"""A classifier as one safetensors file: the weights, and the architecture in the header."""

from pydantic import ValidationError
from safetensors.torch import save as save_tensors

from hardening.data.types import metadata
from hardening.errors import ModelError
from hardening.models.architecture import Architecture, Classifier, build
from hardening.models.weights import load_weights, read_state
from hardening.spec import one_line


def save(model: Classifier) -> bytes:
    """The same bytes for the same weights and architecture, on whatever device they are."""
    # Cloned, because safetensors refuses two names for one memory, which tied weights are.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.net.state_dict().items()}
    return save_tensors(tensors, {"architecture": model.architecture.model_dump_json()})


def load(data: bytes, name: str = "model file") -> Classifier:
    """Inverse of `save`, bit for bit; the model comes in eval mode.

    Raises:
        ModelError: The bytes are truncated, name no architecture, or do not fit it.
        ConfigError: The architecture is one that this version does not know.
    """
    state = read_state(data, name)
    text = metadata(data).get("architecture") if data[8:9] == b"{" else None
    if text is None:
        raise ModelError(f"{name}: got no architecture in its header, expected a saved model")
    try:
        architecture = Architecture.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(one_line(error, f"{name}: architecture")) from error
    return load_weights(build(architecture, seed=0), state, name).eval()
