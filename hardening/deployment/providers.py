"""Where ONNX Runtime computes: on CUDA when it really works, else on the CPU."""

import ctypes
from functools import cache
from typing import Any

import onnxruntime
from onnx import TensorProto, helper

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

Provider = str | tuple[str, dict[str, Any]]


@cache
def providers() -> tuple[Provider, ...]:
    """Execution providers in order of preference, found out once per process and silently.

    What the wheel was compiled with says nothing about the machine: the driver is asked for a
    device first, then a session of one node is tried, because ONNX Runtime falls back to the CPU
    with noise on stderr but without an exception.
    """
    if CUDA not in onnxruntime.get_available_providers() or not cuda_devices():
        return (CPU,)
    # TensorFloat-32 keeps 10 bits of mantissa: its logits would not be the CPU's.
    cuda: tuple[Provider, ...] = ((CUDA, {"use_tf32": 0}), CPU)
    return cuda if _starts(cuda) else (CPU,)


def cuda_devices() -> int:
    """Devices that the CUDA driver sees; 0 without a driver."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def _starts(wanted: tuple[Provider, ...]) -> bool:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnxruntime.set_default_logger_severity(4)  # fatal only; what fails here is not an error
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=list(wanted))
        return bool(session.get_providers()[0] == CUDA)
    finally:
        onnxruntime.set_default_logger_severity(2)  # warnings, the library's default
