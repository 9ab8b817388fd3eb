"""Signs that a robust accuracy may be wrong: what masked gradients look like from outside."""

from collections.abc import Sequence

from hardening.evidence import Alarm, AttackRow

WINS_LIMIT = 0.01
"""Share of images that a weaker attack may break although no white-box attack does
(Carlini et al. 2019, https://arxiv.org/abs/1902.06705, ask for very few instances)."""

ZERO_GRADIENT_LIMIT = 0.01
LOSS_GAP_LIMIT = 0.10
PARENT_LIMIT = 0.02
UNCONFIRMED_LIMIT = 0.001

_GRADIENT = {"white-box", "straight-through"}


def alarms(
    rows: Sequence[AttackRow], zero_gradients: float, correct: Sequence[bool]
) -> list[Alarm]:
    """All alarms of one file, the quiet ones too.

    Args:
        rows: One per attack, on the same images.
        zero_gradients: Share of images whose margin gradient is exactly zero.
        correct: Per image, whether the file gets the clean image right.
    """
    found = [
        _alarm(
            "zero gradients",
            zero_gradients,
            ZERO_GRADIENT_LIMIT,
            "share of images without any gradient: white-box attacks are blind there; "
            "attack through a differentiable stand-in",
        )
    ]
    found += [
        _alarm(
            f"{kind} beats white-box",
            _wins(rows, kind),
            WINS_LIMIT,
            f"share of images that only a {kind} attack breaks: gradients mislead; "
            "give the white-box attacks more steps, restarts or another loss",
        )
        for kind in ("gradient-free", "transfer")
        if any(row.kind == kind for row in rows)
    ]
    by_loss = [row.accuracy.value for row in rows if row.kind in _GRADIENT and "loss" in row.params]
    if len(by_loss) > 1:
        found.append(
            _alarm(
                "losses disagree",
                max(by_loss) - min(by_loss),
                LOSS_GAP_LIMIT,
                "accuracy under one loss minus accuracy under another: one of them is saturated; "
                "believe the lower number and look at the logits' scale",
            )
        )
    own = [row for row in rows if row.source == "file"]
    found.append(
        _alarm(
            "unconfirmed successes",
            max((row.unconfirmed for row in own), default=0) / len(correct),
            UNCONFIRMED_LIMIT,
            "share of images that fool the twin and not the session: the twin is not the file; "
            "its attacks stop too early",
        )
    )
    parent = [row for row in rows if row.source == "parent"]
    if parent:
        found.append(
            _alarm(
                "int8 above float",
                _worst([row.survived for row in rows if row.kind != "gradient-free"])
                - _worst([row.source_survived for row in parent]),
                PARENT_LIMIT,
                "robust accuracy of the int8 file minus that of its float parent under the same "
                "attacks: rounding hides gradients, it does not harden",
            )
        )
    return found


def _wins(rows: Sequence[AttackRow], kind: str) -> float:
    """Share of images that an attack of `kind` breaks and no gradient attack does."""
    gradient = [row.survived for row in rows if row.kind in _GRADIENT]
    other = [row.survived for row in rows if row.kind == kind]
    stands = [all(column) for column in zip(*gradient, strict=True)] if gradient else []
    falls = [not all(column) for column in zip(*other, strict=True)]
    if not gradient:
        stands = [True] * len(falls)
    return sum(a and b for a, b in zip(stands, falls, strict=True)) / len(falls)


def _worst(columns: Sequence[Sequence[bool]]) -> float:
    """Accuracy of the worst case per image."""
    stands = [all(column) for column in zip(*columns, strict=True)]
    return sum(stands) / len(stands)


def _alarm(name: str, value: float, limit: float, meaning: str) -> Alarm:
    return Alarm(name=name, fired=value > limit, value=value, limit=limit, meaning=meaning)
