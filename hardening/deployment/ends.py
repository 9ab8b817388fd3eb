"""Which of a file's outputs may be its answer."""

from onnx import TensorProto

from hardening.deployment.contract import KEY, Contract, with_contract
from hardening.deployment.untrusted import parse, read_model
from hardening.errors import ModelError


def forms(data: bytes, name: str) -> list[bytes]:
    """The file itself if it is clear which output answers, else once for each that may.

    An output may answer that is FLOAT (batch, K) and passes the gate; each form says in a contract
    which one it is.

    Raises:
        ModelError: It is no ONNX file, or has several outputs of which none may answer; the text
            starts with `name`.
    """
    model = parse(data, name)
    outputs = list(model.graph.output)
    carries = any(entry.key == KEY for entry in model.metadata_props)
    if len(outputs) < 2 or carries:
        return [data]
    found = []
    refusal: ModelError | None = None
    for value in outputs:
        tensor = value.type.tensor_type
        other = tensor.HasField("shape") and len(tensor.shape.dim) != 2
        if tensor.elem_type != TensorProto.FLOAT or other:
            continue
        form = with_contract(data, Contract(output=value.name), name)
        try:
            read_model(form, name)
        except ModelError as error:
            refusal = error
        else:
            found.append(form)
    if refusal is not None and not found:
        raise refusal
    if not found:
        names = [value.name for value in outputs]
        raise ModelError(f"{name}: got outputs {names}, expected one that is FLOAT (batch, K)")
    return found
