"""Silence for libraries that talk while they work."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

TALKERS = ("", "torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxruntime")


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, third-party chatter goes nowhere: prints, warnings, and records of `TALKERS`.

    Only records logged directly on these loggers are dropped, so our own lines (and other threads')
    still arrive. Errors are exceptions and pass.
    """
    root = logging.getLogger()
    handlers = list(root.handlers)
    loggers = [logging.getLogger(name) for name in TALKERS]
    for logger in loggers:
        logger.addFilter(_refuse)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        for logger in loggers:
            logger.removeFilter(_refuse)
        # A library's `logging.warning` installs a handler on the root logger when it has none.
        root.handlers[:] = handlers


def _refuse(_: logging.LogRecord) -> bool:
    return False
