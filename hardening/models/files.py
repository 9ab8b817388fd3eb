"""A model as one safetensors file: the weights, and in the header what they are the weights of.

A classifier's header is its architecture. A form's header is its name, its options and the headers
of its parts; names of tensors start with the places of the parts they belong to. A part may be the
twin of an ONNX file: its tensor is the file.
"""

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from hardening.data.types import metadata
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.models.architecture import Architecture, Classifier, build
from hardening.models.form import Form, Forms, make
from hardening.models.weights import load_weights, read_state
from hardening.spec import Record, Spec, one_line

OWN = "own."
"""Before the names of tensors that belong to a form itself."""

FILE = "file"
"""Name of the tensor that holds an ONNX file as bytes."""


class Header(Record):
    """What a file says of its model: one of the three; `parts` are a form's."""

    architecture: Architecture | None = None
    form: Spec | None = None
    onnx: bool = False
    parts: list["Header"] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one(self) -> Self:
        said = [self.architecture is not None, self.form is not None, self.onnx]
        if sum(said) != 1 or (self.parts and self.form is None):
            raise ValueError("expected an architecture, an ONNX file, or a form with its parts")
        return self


def save(model: nn.Module) -> bytes:
    """The same bytes for the same weights, on whatever device they are.

    Raises:
        TypeError: It is no Classifier or Form, or made of anything but these and Twins.
    """
    header, tensors = _written(model)
    if isinstance(model, Classifier):
        return save_tensors(tensors, {"architecture": model.architecture.model_dump_json()})
    return save_tensors(tensors, {"form": header.model_dump_json(exclude_defaults=True)})


def is_saved(data: bytes) -> bool:
    """Whether `data` starts as what `save` gives does, and not as an ONNX file.

    First comes the length of a JSON header, eight bytes that in an ONNX file are an absurd one.
    """
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def load(data: bytes, name: str = "model file", forms: Forms | None = None) -> nn.Module:
    """Inverse of `save`, bit for bit; the model comes in eval mode.

    Args:
        name: What errors call the file.
        forms: The forms that the file may be of.

    Raises:
        ModelError: The bytes are truncated, do not say what they are, or do not fit it.
        ConfigError: The architecture, the form or an option is one that this version does not know.
    """
    state, said = read_state(data, name), metadata(data) if data[8:9] == b"{" else {}
    try:
        if "form" in said:
            header = Header.model_validate_json(said["form"])
        elif "architecture" in said:
            architecture = Architecture.model_validate_json(said["architecture"])
            header = Header(architecture=architecture)
        else:
            raise ModelError(f"{name}: got no architecture in its header, expected a saved model")
    except ValidationError as error:
        raise ModelError(one_line(error, f"{name}: header")) from error
    return _read(header, state, name, forms or {}).eval()


def _written(model: nn.Module) -> tuple[Header, dict[str, Tensor]]:
    if isinstance(model, Twin):
        return Header(onnx=True), {FILE: torch.frombuffer(bytearray(model.data), dtype=torch.uint8)}
    if isinstance(model, Classifier):
        return Header(architecture=model.architecture), _plain(model.net)
    if not isinstance(model, Form):
        raise TypeError(f"got a {type(model).__name__}, expected a Classifier, a Twin or a Form")
    written = [_written(part) for part in model.parts]
    tensors = {
        OWN + key: value for key, value in _plain(model).items() if not key.startswith("parts.")
    }
    for place, (_, held) in enumerate(written):
        tensors |= {f"{place}.{key}": value for key, value in held.items()}
    return Header(form=model.spec, parts=[header for header, _ in written]), tensors


def _plain(module: nn.Module) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses two names for one memory, which tied weights are.
    return {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}


def _read(header: Header, state: Mapping[str, Tensor], name: str, forms: Forms) -> nn.Module:
    if header.architecture is not None:
        return load_weights(build(header.architecture, seed=0), state, name)
    if header.onnx:
        if [*state] != [FILE]:
            raise ModelError(f"{name}: got tensors {[*state][:3]}, expected the one named {FILE}")
        return Twin(state[FILE].numpy().tobytes())
    assert header.form is not None
    parts = [
        _read(part, _under(f"{place}.", state), name, forms)
        for place, part in enumerate(header.parts)
    ]
    form = make(forms, header.form, parts)
    own = _under(OWN, state)
    try:
        unknown = form.load_state_dict(own, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name}: tensors do not fit {header.form.name}: {reason}") from error
    missing = [key for key in unknown.missing_keys if not key.startswith("parts.")]
    if missing or unknown.unexpected_keys:
        raise ModelError(
            f"{name}: tensors do not fit {header.form.name}: missing {missing[:3]}, "
            f"unexpected {unknown.unexpected_keys[:3]}"
        )
    return form


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
