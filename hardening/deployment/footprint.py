"""A process of its own that runs one file and says how much memory that took.

Started by path, not imported: it knows numpy and ONNX Runtime and nothing else, so that what it
measures is the file. Reads the file's bytes from standard input, prints bytes of memory.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

CALLS = 3


def main(shape: tuple[int, ...]) -> None:
    """Print how far the peak of resident memory rises above what the libraries alone take."""
    data = sys.stdin.buffer.read()
    x = np.full(shape, 0.5, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    before = _resident("VmRSS")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for _ in range(CALLS):
        session.run(None, {session.get_inputs()[0].name: x})
    sys.stdout.write(str(_resident("VmHWM") - before))


def _resident(field: str) -> int:
    """Bytes of resident memory: now (`VmRSS`) or at most so far (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]))
