"""What every file costs, beside the file it is to be compared with; one column a model."""

from collections.abc import Callable

from hardening.evidence import Evidence, Latency
from hardening.report import numbers
from hardening.report.matrices import Cell, Line, Matrix


def cost_matrix(models: list[Evidence]) -> Matrix:
    """Size, time of a call, images per second and memory of every file.

    Each is also told as a multiple of a quantized file's float32 parent where the run has it, else
    of the control.
    """
    control = next(model for model in models if model.role == "control")
    others = [parent(model, models) or control for model in models]
    lines = [_line("Size", models, others, lambda m: m.file.bytes, lambda v: numbers.size(int(v)))]
    for batch in sorted({entry.batch for model in models for entry in model.latency}):
        images = f"{batch} image{'s' if batch > 1 else ''}"
        lines += [
            _line(f"Time of {images}, median", models, others, _median(batch), _milliseconds),
            _line(f"Time of {images}, 95 % of calls", models, others, _tail(batch), _milliseconds),
            _line(f"Images per second, by {batch}", models, others, _rate(batch), _per_second),
        ]
    if any(model.memory for model in models):
        sizes = {model.memory.batch for model in models if model.memory}
        head = f"Memory, by {', '.join(map(str, sorted(sizes)))}"
        lines.append(_line(head, models, others, _memory, lambda v: numbers.size(int(v))))
    return Matrix([model.name for model in models], lines)


def parent(model: Evidence, models: list[Evidence]) -> Evidence | None:
    """The float32 file that a quantized one was made from, where the run evaluates it too."""
    digests = {row.disagreement.parent for row in model.attacks if row.disagreement}
    return next((other for other in models if other.file.sha256 in digests), None)


Read = Callable[[Evidence], float | None]


def _line(
    head: str,
    models: list[Evidence],
    others: list[Evidence],
    read: Read,
    write: Callable[[float], str],
) -> Line:
    return Line(
        head, "", "", [_cell(*pair, read, write) for pair in zip(models, others, strict=True)]
    )


def _cell(model: Evidence, other: Evidence, read: Read, write: Callable[[float], str]) -> Cell:
    own, reference = read(model), read(other)
    if own is None:
        return Cell("", numbers.NOT_MEASURED)
    if not reference or other.name == model.name:
        return Cell(write(own))
    return Cell(write(own), "", f"{own / reference:.2f} × {other.name}")


def _at(model: Evidence, batch: int) -> Latency | None:
    return next((entry for entry in model.latency if entry.batch == batch), None)


def _median(batch: int) -> Read:
    return lambda model: found.p50_ms if (found := _at(model, batch)) else None


def _tail(batch: int) -> Read:
    return lambda model: found.p95_ms if (found := _at(model, batch)) else None


def _rate(batch: int) -> Read:
    return lambda model: found.images_per_second if (found := _at(model, batch)) else None


def _memory(model: Evidence) -> float | None:
    return model.memory.peak_bytes if model.memory else None


def _milliseconds(value: float) -> str:
    return f"{numbers.milliseconds(value)} ms"


def _per_second(value: float) -> str:
    return numbers.count(round(value))
