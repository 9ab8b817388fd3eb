"""From what single shards of images said to one row of the evidence."""

from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from hardening.evidence import AttackRow, Disagreement, Fooling, Kind
from hardening.spec import Record
from hardening.statistics import accuracy


class Part(Record):
    """An AttackRow of one shard: passes are totals, places are in all evaluated images."""

    name: str
    attack: str
    params: dict[str, JsonValue]
    source: str
    through: list[dict[str, JsonValue]]
    kind: Kind
    attacked: int
    sampled: bool
    fell: list[int]
    step: list[int]
    distance: list[float]
    unconfirmed: int
    lost_in_8_bits: int
    fooling: Fooling | None
    disagreement: Disagreement | None = None
    forwards: int
    backwards: int
    budget_forwards: int
    budget_backwards: int
    starts: int
    seconds: float
    adversarial: str


def merge(parts: Sequence[Part], standing: set[int], images: int) -> AttackRow:
    """The row of one attack over all shards; what fell is taken from `standing` (of `images`).

    Raises:
        ValueError: There is no part.
    """
    if not parts:
        raise ValueError("got no part of a row, expected at least one")
    first = parts[0]
    attacked = sum(part.attacked for part in parts)
    standing.difference_update(*(part.fell for part in parts))
    return AttackRow(
        **first.model_dump(include={"name", "attack", "params", "source", "through", "kind"}),
        accuracy=accuracy([image in standing for image in range(images)]),
        attacked=attacked,
        sampled=any(part.sampled for part in parts),
        fell=[place for part in parts for place in part.fell],
        step=[step for part in parts for step in part.step],
        distance=[distance for part in parts for distance in part.distance],
        unconfirmed=sum(part.unconfirmed for part in parts),
        lost_in_8_bits=sum(part.lost_in_8_bits for part in parts),
        fooling=_mean_fooling([part for part in parts if part.fooling is not None]),
        disagreement=_sum_of([part.disagreement for part in parts if part.disagreement]),
        forwards=sum(part.forwards for part in parts) / max(attacked, 1),
        backwards=sum(part.backwards for part in parts) / max(attacked, 1),
        budget_forwards=first.budget_forwards,
        budget_backwards=first.budget_backwards,
        starts=first.starts,
        seconds=round(sum(part.seconds for part in parts), 3),
        adversarial=[part.adversarial for part in parts],
    )


def merge_all(shards: Iterable[Sequence[Part]], correct: Sequence[bool]) -> list[AttackRow]:
    """One row per attack, in the order they ran; each shard lists its attacks in that order."""
    standing = {image for image, right in enumerate(correct) if right}
    return [merge(parts, standing, len(correct)) for parts in zip(*shards, strict=True)]


def _sum_of(parts: Sequence[Disagreement]) -> Disagreement | None:
    if not parts:
        return None
    return Disagreement(
        parent=parts[0].parent,
        images=sum(part.images for part in parts),
        flips=sum(part.flips for part in parts),
        evasive=sum(part.evasive for part in parts),
    )


def _mean_fooling(parts: Sequence[Part]) -> Fooling | None:
    """Weighted by the images that each shard counted."""
    said = [part.fooling for part in parts if part.fooling is not None]
    total = sum(each.images for each in said)
    if not total:
        return None
    return Fooling(
        images=total,
        universal=sum(each.images * each.universal for each in said) / total,
        noise=sum(each.images * each.noise for each in said) / total,
    )
