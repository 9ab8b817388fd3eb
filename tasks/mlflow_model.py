"""ONNX files in MLflow's model format, byte for byte, and model files out of it.

Shapes: B images (any number), C channels, H x W pixels, K classes.
"""

import hashlib
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hardening.deployment.contract import contract_of
from hardening.errors import BrokenPromise, ModelError, ServiceError
from hardening.evidence import DataFacts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from onnx import ModelProto

FILE = "model.onnx"
"""Where MLflow's ONNX flavor keeps the graph."""

SUFFIXES = ((".onnx",), (".safetensors", ".pt", ".pth"))
"""What a model file may be called, the preferred kind first."""

MOST = 1_000
"""Files and folders that a model may have; MLflow's flavors make some ten."""


def log_model(
    client: "MlflowClient", run_id: str, name: str, onnx_file: bytes, data: DataFacts
) -> str:
    """Keep `onnx_file` as a model of the run; returns its address `models:/m-...`.

    Raises:
        BrokenPromise: The bytes that MLflow gives back are others.
    """
    with warnings.catch_warnings():
        # It complains about its own type hints while it is imported.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc  # noqa: PLC0415
    import mlflow.onnx  # noqa: PLC0415
    import onnx  # noqa: PLC0415
    from mlflow.entities import LoggedModelOutput  # noqa: PLC0415

    digest = hashlib.sha256(onnx_file).hexdigest()
    # Made by hand, because MLflow would else put it where its process-wide active run is.
    model = client.create_logged_model(
        client.get_run(run_id).info.experiment_id,
        name=re.sub(r"[^\w-]", "-", name),
        source_run_id=run_id,
        tags={"temper.sha256": digest},
    )
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    mlflow.onnx.log_model(
        onnx.load_model_from_string(onnx_file),
        name=model.name,
        model_id=model.model_id,
        signature=_signature(onnx.load_model_from_string(onnx_file), data),
        pip_requirements=_requirements(),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    uri = f"models:/{model.model_id}"
    if _digest(uri) != digest:
        # MLflow parses and writes the graph again, which need not give the same bytes.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, FILE)
            path.write_bytes(onnx_file)
            client.log_model_artifact(model.model_id, str(path))
        if (got := _digest(uri)) != digest:
            raise BrokenPromise(f"model {name!r} in MLflow: got sha256 {got}, expected {digest}")
    return uri


def fetch(uri: str) -> bytes:
    """The one model file of the model at `uri`: ONNX if it has one, else its weights.

    Raises:
        ModelError: It holds no model file, or several.
        ServiceError: It holds nothing at all.
    """
    import mlflow.artifacts  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        there = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        for suffixes in SUFFIXES:
            found = [path for path in there if path.suffix in suffixes]
            if len(found) == 1:
                return found[0].read_bytes()
            if found:
                break
        names = ", ".join(str(path.relative_to(folder)) for path in there)
    if not names:
        # Of a store that is away, MLflow says the same as of a model without files.
        raise ServiceError(f"{uri}: MLflow lists no file of it, expected a model file")
    expected = " or ".join(suffix for suffixes in SUFFIXES for suffix in suffixes)
    raise ModelError(f"{uri}: got {names}, expected one file that ends in {expected}")


def listed_size(uri: str) -> int:
    """Bytes of all files of the version `models:/NAME/N`, as MLflow lists them.

    Raises:
        ModelError: There are more files and folders than a model has.
    """
    import mlflow.artifacts  # noqa: PLC0415

    size, folders, seen = 0, [uri], {uri}
    while folders:
        for entry in mlflow.artifacts.list_artifacts(artifact_uri=folders.pop()):
            address = f"{uri}/{entry.path}"
            if address in seen:
                continue  # a folder of S3 whose name is empty lists itself
            seen.add(address)
            size += entry.file_size or 0
            folders += [address] if entry.is_dir else []
        if len(seen) > MOST:
            raise ModelError(f"{uri}: got more than {MOST} files and folders, expected a model")
    return size


def _digest(uri: str) -> str:
    return hashlib.sha256(fetch(uri)).hexdigest()


def _signature(model: "ModelProto", data: DataFacts) -> "ModelSignature":
    """Images in the file's layout in, answers (B, K) out, float32."""
    import numpy as np  # noqa: PLC0415
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415

    channels, height, width = data.shape
    nhwc = contract_of(model).layout == "NHWC"
    images = (height, width, channels) if nhwc else (channels, height, width)
    kind = np.dtype("float32")
    return ModelSignature(
        inputs=Schema([TensorSpec(kind, (-1, *images))]),
        outputs=Schema([TensorSpec(kind, (-1, len(data.classes)))]),
    )


def _requirements() -> list[str]:
    """What serving needs; given, because MLflow would else run the model to find out."""
    import mlflow  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    # Both wheels of ONNX Runtime carry one version; the one without a GPU serves everywhere.
    modules = {"mlflow": mlflow, "onnx": onnx, "onnxruntime": onnxruntime, "numpy": np}
    return [f"{name}=={module.__version__}" for name, module in modules.items()]
