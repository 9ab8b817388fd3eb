"""Weights from a file that somebody else wrote: tensors are read, code never runs."""

import io
from collections.abc import Iterable, Mapping
from copy import deepcopy

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from hardening.errors import ModelError
from hardening.models.architecture import Classifier

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts nest the state dict of a checkpoint."""


def read_state(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a file that `torch.save` wrote.

    A checkpoint that nests its state dict is unwrapped; the prefix `module.` of data-parallel
    training is removed. `name` is the file's, for messages.

    Raises:
        ModelError: The bytes are neither, are truncated, or hold anything but plain tensors.
    """
    content = _safetensors(data, name) if data[8:9] == b"{" else _torch(data, name)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{name}: got {type(content).__name__}, expected a state dict of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(f"{name}: got {type(value).__name__} under {key!r}, expected tensors")
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def load_weights(model: Classifier, state: Mapping[str, Tensor], name: str) -> Classifier:
    """A new classifier like `model` whose network has the weights and buffers of `state`.

    Raises:
        ModelError: Keys are missing, unexpected or of another shape (the first three of each are
            named), or a weight is not finite.
    """
    own = model.net.state_dict()
    # Files older than PyTorch 0.4.1 lack these counters, which no inference uses.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    misshapen = [
        f"{k} (got {_kind(state[k])}, expected {_kind(own[k])})"
        for k in own
        if k in state and _kind(state[k]) != _kind(own[k])
    ]
    problems = [
        f"{what} {_first(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", misshapen),
        )
        if keys
    ]
    if problems:
        raise ModelError(
            f"{name}: weights do not fit {model.architecture.name}: {'; '.join(problems)}"
        )
    for key, value in state.items():
        if not value.isfinite().all():
            raise ModelError(f"{name}: got values that are not finite in {key}")
    loaded = deepcopy(model)
    loaded.net.load_state_dict(dict(state))
    return loaded


def _safetensors(data: bytes, name: str) -> object:
    try:
        return load_tensors(data)
    except Exception as error:
        raise ModelError(f"{name}: not a readable safetensors file: {_line(error)}") from error


def _torch(data: bytes, name: str) -> object:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{name}: truncated, or holds more than tensors (code is never run), expected "
            f"safetensors or a state dict: {_line(error)}"
        ) from error


def _kind(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else 'integer'} {list(tensor.shape)}"


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
