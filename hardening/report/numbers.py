"""How every number of a report is written, in one place."""

from math import floor, isfinite, log10

from hardening.evidence import Accuracy
from hardening.statistics import Comparison

NOT_EVALUATED = "NOT EVALUATED"
NOT_MEASURED = "not measured"


def percent(value: float, digits: int = 1) -> str:
    """`97.4 %`; all and none are written so only when they are exact."""
    if not isfinite(value):
        return NOT_MEASURED
    text = f"{100 * value:.{digits}f}"
    exact = value in {0.0, 1.0}
    if not exact and float(text) in {0.0, 100.0}:
        text = f"{100 * value:.{digits + 1}f}"
    return f"{text} %"


def accuracy(measured: Accuracy) -> str:
    """`97.4 % [95.6, 98.5]`: the share and its 95 % interval."""
    interval = f"[{100 * measured.lower:.1f}, {100 * measured.upper:.1f}]"
    return f"{percent(measured.value)} {interval}"


def change(comparison: Comparison) -> str:
    """`+12.0 pt [+9.1, +14.9]`: percentage points and their paired 95 % interval."""
    interval = f"[{100 * comparison.lower:+.1f}, {100 * comparison.upper:+.1f}]"
    return f"{100 * comparison.difference:+.1f} pt {interval}"


def noise(comparison: Comparison) -> str:
    """`[+9.1, +14.9], p < 0.001`: the paired interval, and McNemar's p-value."""
    interval = f"[{100 * comparison.lower:+.1f}, {100 * comparison.upper:+.1f}]"
    p = "p < 0.001" if comparison.p_value < 0.001 else f"p {comparison.p_value:.3f}"
    return f"{interval}, {p}"


def size(count: int) -> str:
    """`41.2 kB`; steps of 1000."""
    if count < 1000:
        return f"{count} B"
    unit = 1 if count < 999_500 else 2
    return f"{_three_digits(count / 1000**unit)} {('kB', 'MB')[unit - 1]}"


def milliseconds(value: float) -> str:
    """`0.213`: three significant digits, without the unit."""
    return _three_digits(value) if isfinite(value) else NOT_MEASURED


def seconds(value: float) -> str:
    """`4.2 s`, `3 min 20 s`, `1 h 12 min`."""
    if not isfinite(value):
        return NOT_MEASURED
    if value < 60:
        return f"{value:.1f} s" if 0 < value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def radius(eps: float) -> str:
    """`8/255` where that is what was meant, else the decimal."""
    steps = eps * 255
    is_fraction = abs(steps - round(steps)) < 1e-6 and round(eps, 3) != eps
    return f"{round(steps)}/255" if is_fraction else f"{eps:.4g}"


def count(value: int) -> str:
    """`10,000`."""
    return f"{value:,}"


def plain(value: float | None) -> str:
    """Four significant digits; what was not measured is said to be so."""
    return NOT_MEASURED if value is None or not isfinite(value) else f"{value:.4g}"


def _three_digits(value: float) -> str:
    rounded = float(f"{value:.3g}")
    digits = 2 if rounded == 0 else max(0, 2 - floor(log10(abs(rounded))))
    return f"{value:,.{min(digits, 3)}f}"
