"""What must hold of a dataset before anything is trained on it, and what a reader should know.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from hashlib import blake2b

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from hardening.data.raw import RawData
from hardening.data.types import Labelled
from hardening.errors import DataError


def check(raw: RawData) -> dict[str, JsonValue]:
    """Refuse a dataset that cannot be trained on; return what was counted, ready for a report.

    Exact duplicates are reported, not refused: `duplicates` of a split repeat an earlier image of
    it; `duplicates_across_splits` are test images that also are training images.

    Raises:
        DataError: Names the split, what was got and what was expected.
    """
    parts = {"train": raw.train} if raw.test is None else {"train": raw.train, "test": raw.test}
    for name, part in parts.items():
        _refuse_bad_form(name, part)
        refuse_bad_values(f"{name} images", part.images)
        _refuse_bad_labels(name, part.labels, len(raw.classes))
    _refuse_bad_classes(raw)
    if raw.test is not None and raw.test.images.shape[1:] != raw.train.images.shape[1:]:
        got, expected = tuple(raw.test.images.shape[1:]), tuple(raw.train.images.shape[1:])
        raise DataError(f"test images: got shape {got}, expected train's {expected} (C, H, W)")
    digests = {name: _digests(part.images) for name, part in parts.items()}
    facts: dict[str, JsonValue] = {
        name: _facts(part, raw.classes, digests[name]) for name, part in parts.items()
    }
    if raw.test is not None:
        facts |= _overlap(raw.train, digests["train"], raw.test, digests["test"])
    return facts | _group_facts(raw)


def refuse_bad_values(where: str, images: Tensor) -> None:
    """Refuse float images that are not finite or not in [0, 1]; `where` starts the message."""
    if images.dtype == torch.uint8 or not images.numel():
        return
    low, high = (float(value) for value in images.aminmax())
    if not images.new_tensor([low, high]).isfinite().all():
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise DataError(f"{where}: got NaN or infinity in {bad} images, expected finite values")
    if low < 0 or high > 1:
        raise DataError(
            f"{where}: got float values from {low:.6g} to {high:.6g}, expected [0, 1] "
            f"(or uint8 in 0..255)"
        )


def _refuse_bad_form(name: str, part: Labelled) -> None:
    images, labels = part.images, part.labels
    if images.ndim != 4 or images.dtype not in {torch.uint8, torch.float32}:
        got = f"{images.dtype} of shape {tuple(images.shape)}".removeprefix("torch.")
        raise DataError(f"{name} images: got {got}, expected uint8 or float32 (N, C, H, W)")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}".removeprefix("torch.")
        raise DataError(f"{name} labels: got {got}, expected int64 (N,)")
    if len(images) != len(labels):
        raise DataError(
            f"{name}: got {len(images)} images and {len(labels)} labels, expected pairs"
        )
    if not images.numel():
        raise DataError(f"{name} images: got shape {tuple(images.shape)}, expected some images")


def _refuse_bad_labels(name: str, labels: Tensor, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise DataError(
            f"{name} labels: got {int(labels[first])} at index {first} "
            f"({int(wrong.sum())} out of range), expected 0..{classes - 1}"
        )


def _refuse_bad_classes(raw: RawData) -> None:
    counts = raw.train.labels.bincount(minlength=len(raw.classes))
    present = int((counts > 0).sum())
    if present < 2:
        raise DataError(f"train labels: got images of {present} class, expected at least 2")
    if len(set(raw.classes)) < len(raw.classes):
        repeated = next(name for name in raw.classes if raw.classes.count(name) > 1)
        raise DataError(f"classes: got the name {repeated!r} twice, expected different names")
    missing = [raw.classes[k] for k in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        some = ", ".join(repr(name) for name in missing[:5]) + (
            "" if missing[5:] == [] else ", ..."
        )
        raise DataError(
            f"train labels: got no image of {len(missing)} of {len(raw.classes)} classes ({some}), "
            f"expected every class (labels count from 0)"
        )
    if raw.groups is not None and raw.groups.shape != raw.train.labels.shape:
        got, expected = tuple(raw.groups.shape), tuple(raw.train.labels.shape)
        raise DataError(f"train groups: got shape {got}, expected {expected}")


def _digests(images: Tensor) -> list[bytes]:
    """One digest per image: equal bytes, equal digest."""
    rows = images.contiguous().numpy().reshape(len(images), -1)
    return [blake2b(row.data, digest_size=16).digest() for row in rows]


def _facts(part: Labelled, classes: tuple[str, ...], digests: list[bytes]) -> JsonValue:
    counts = part.labels.bincount(minlength=len(classes)).tolist()
    low, high = (value.item() for value in part.images.aminmax())
    return {
        "images": len(part),
        "shape": list(part.images.shape[1:]),
        "dtype": str(part.images.dtype).removeprefix("torch."),
        "min": low,
        "max": high,
        "counts": dict(zip(classes, counts, strict=True)),
        # Largest class over smallest; None when a test split lacks a class.
        "imbalance": max(counts) / min(counts) if min(counts) else None,
        "duplicates": len(digests) - len(set(digests)),
    }


def _overlap(
    train: Labelled, train_digests: list[bytes], test: Labelled, test_digests: list[bytes]
) -> dict[str, JsonValue]:
    labels: dict[bytes, set[int]] = {}
    for digest, label in zip(train_digests, train.labels.tolist(), strict=True):
        labels.setdefault(digest, set()).add(label)
    pairs = zip(test_digests, test.labels.tolist(), strict=True)
    shared = [(labels[digest], label) for digest, label in pairs if digest in labels]
    return {
        "duplicates_across_splits": len(shared),
        "duplicates_with_other_label": sum(known != {label} for known, label in shared),
    }


def _group_facts(raw: RawData) -> dict[str, JsonValue]:
    if raw.groups is None:
        return {}
    _, member, sizes = np.unique(raw.groups.numpy(), return_inverse=True, return_counts=True)
    pairs = np.unique(np.stack([member, raw.train.labels.numpy()], 1), axis=0)
    return {
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "groups_of_several_classes": int((np.bincount(pairs[:, 0]) > 1).sum()),
    }
