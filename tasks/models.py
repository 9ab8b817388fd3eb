"""Steps that make models: train the baseline, fetch a user's weights, apply a defense, export."""

import hashlib
import json
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from defenses import DEFENSES, FORMS
from defenses.standard import standard
from hardening.data import TrainingData
from hardening.data.statistics import channel_statistics
from hardening.deployment.contract import Contract, check_channels, with_contract
from hardening.deployment.export import export
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.deployment.unstamped import unstamp
from hardening.errors import DigestError, ModelError
from hardening.evaluation import generator
from hardening.models import files
from hardening.models.architecture import Architecture, build
from hardening.models.weights import load_weights, read_state
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel
from tasks.data import device, read_training
from tasks.foreign import check_sizes
from tasks.step import Located, Run, step
from tasks.store import Artifact

ONNX_START = b"\x08"
"""First byte of an ONNX file: its first field, the version; a header of safetensors may, too."""

PARITY_IMAGES = 256
"""Validation images on which an exported file is compared with the module it came from."""


@step
def train_control(
    run: Run,
    training: Artifact,
    /,
    *,
    model: Spec,
    mean: list[float] | None,
    std: list[float] | None,
    training_options: dict[str, JsonValue],
    seed: int,
    processes: int,  # noqa: ARG001  they are started before this, each of them is told of 1
) -> dict[str, bytes]:
    """Train the unhardened baseline; normalised by the training images unless told otherwise."""
    data = read_training(run, training)
    if mean is None or std is None:
        measured_mean, measured_std = channel_statistics(data.train)
        mean, std = list(measured_mean), list(measured_std)
    start = build(_architecture(data, model, mean, std), seed)
    train = bind({"training": standard}, Spec(name="training", params=training_options))
    with run.slot():
        return _packed(run, train(start.to(device()), data, generator(seed, "control"), run))


@step
def fetch_weights(
    run: Run,
    training: Artifact,
    source: Located,
    /,
    *,
    model: Spec,
    mean: list[float] | None,
    std: list[float] | None,
) -> dict[str, bytes]:
    """Put a user's weights into an architecture; not normalised unless told so."""
    data = read_training(run, training)
    channels = data.train.images.shape[1]
    architecture = _architecture(data, model, mean or [0.0] * channels, std or [1.0] * channels)
    weights = _read(source)
    if weights.startswith(ONNX_START) and weights[8:9] != b"{":
        raise ModelError(
            f"{source.path}: got an ONNX file as model.weights, expected safetensors or a state "
            "dict: name it as model.onnx, instead of model.name"
        )
    state = read_state(weights, source.path)
    return _packed(run, load_weights(build(architecture, seed=0), state, source.path))


@step
def fetch_onnx(
    run: Run, training: Artifact, source: Located, /, *, contract: Contract
) -> dict[str, bytes]:
    """Put what the user says of an ONNX file into it; it must take and tell the dataset's images.

    Raises:
        ModelError: It is refused, carries another contract, or does not fit the dataset.
    """
    data = read_training(run, training)
    shape, name = tuple(data.train.images.shape[1:]), Path(source.path).name
    check_channels(contract, shape[0], name)
    # One that was shipped comes back as it was measured, so that nothing known is measured again.
    file = with_contract(unstamp(_read(source)), contract, name)
    session = Session(file)
    if any(has not in (0, wanted) for has, wanted in zip(session.image_shape, shape, strict=True)):
        raise ModelError(
            f"{name}: takes images {session.image_shape} (C, H, W), the dataset's are {shape}; "
            f"model.layout is {session.contract.layout}"
        )
    channels, height, width = shape
    check_sizes(session, name, (channels, height, width))
    classes = session(data.validation.first(2).floats()).shape[1]
    if classes != len(data.classes):
        raise ModelError(
            f"{name}: got {classes} outputs, expected {len(data.classes)}, the dataset's classes"
        )
    run.line(f"{len(file):,} B, images {list(shape)}, {classes} classes")
    return {"model": file, "facts": _facts(run)}


@step
def defend(
    run: Run,
    model: Artifact,
    training: Artifact,
    /,
    *,
    defense: Spec,
    threat: ThreatModel,
    seed: int,
    processes: int,  # noqa: ARG001  as above
) -> dict[str, bytes]:
    """Apply one defense to a model."""
    function = bind(DEFENSES, defense, "candidates")
    rng = generator(seed, defense.name)
    start, data = restore(run.read(model)), read_training(run, training)
    with run.slot():
        return _packed(run, function(start.to(device()), data, threat, rng, run))


@step
def export_file(run: Run, model: Artifact, training: Artifact, /) -> dict[str, bytes]:
    """Export a model to ONNX; its logits on validation images must be the module's."""
    module = restore(run.read(model)).eval()
    data = read_training(run, training)
    channels, height, width = data.train.images.shape[1:]
    file = export(module, (channels, height, width))
    x = data.validation.take(torch.arange(min(PARITY_IMAGES, len(data.validation)))).floats()
    parity = prove(run.label, module, Session(file).logits, x)
    run.line(
        f"{len(file)} B, largest logit difference {parity.max_difference:.1e} "
        f"on {parity.images} images, argmax agreement {parity.agreement:.1%}"
    )
    return {"onnx": file, "parity": parity.model_dump_json().encode()}


def restore(data: bytes) -> nn.Module:
    """A model as a step left it: safetensors of a Classifier or a Form, or a Twin's ONNX file."""
    return files.load(data, forms=FORMS) if files.is_saved(data) else Twin(data)


def _bytes(model: nn.Module) -> bytes:
    """Inverse of `restore`."""
    return model.data if isinstance(model, Twin) else files.save(model)


def _packed(run: Run, model: nn.Module) -> dict[str, bytes]:
    return {
        "model": _bytes(model.cpu()),
        "facts": _facts(run),
    }


def _facts(run: Run) -> bytes:
    return json.dumps({"seconds": round(run.seconds, 3), "choices": run.choices}).encode()


def _read(source: Located) -> bytes:
    data = Path(source.path).read_bytes()
    if (now := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise DigestError(
            f"{source.path}: got sha256 {now} now, expected {source.sha256} as before"
        )
    return data


def _architecture(
    data: TrainingData, model: Spec, mean: list[float], std: list[float]
) -> Architecture:
    channels, height, width = data.train.images.shape[1:]
    if len(mean) != channels or len(std) != channels:
        raise ModelError(
            f"model.mean, model.std: got {len(mean)} and {len(std)} values, "
            f"expected {channels}, the dataset's channels"
        )
    return Architecture(
        name=model.name,
        params=model.params,
        shape=(channels, height, width),
        classes=len(data.classes),
        mean=tuple(mean),
        std=tuple(std),
    )
