"""Cutting a dataset into what training may see and what only the evaluation may see.

Shapes: N images, K classes, G groups.
"""

import numpy as np
import torch
from torch import Tensor

from hardening.data.raw import RawData
from hardening.data.types import TestData, TrainingData
from hardening.errors import ConfigError, DataError


def split(
    raw: RawData, *, validation: float = 0.1, test: float = 0.3, seed: int = 0
) -> tuple[TrainingData, TestData]:
    """Take the test part (where the dataset brings none), then validation; the rest trains.

    Each part keeps the dataset's order and its share of every class; a class with two images or
    groups is in both parts of a cut. Groups stay whole, which comes before equal shares.

    Args:
        validation: Share of the training images held out to choose a model.
        test: Share of all images held out for the evaluation, unless there is a test split.
        seed: The same seed gives the same cut.

    Raises:
        ConfigError: A share is not between 0 and 1.
        DataError: A part would be empty.
    """
    rng = torch.Generator().manual_seed(seed)
    rest = torch.arange(len(raw.train))
    if raw.test is None:
        held_out, rest = _cut(raw, rest, test, rng, "test")
        test_data = TestData(raw.train.take(held_out), raw.classes)
    else:
        test_data = TestData(raw.test, raw.classes)
    chosen, rest = _cut(raw, rest, validation, rng, "validation")
    train, validation_part = raw.train.take(rest), raw.train.take(chosen)
    return TrainingData(train, validation_part, raw.classes), test_data


def choose(test: TestData, images: int, seed: int) -> Tensor:
    """Indices (n,) of `images` test images in random order, every class in proportion; 0: all.

    In random order, so that any first part of them is a fair sample of them, too.

    Raises:
        ConfigError: `images` is negative.
    """
    if images < 0:
        raise ConfigError(f"images: got {images}, expected a number of test images, or 0 for all")
    rng = torch.Generator().manual_seed(seed)
    if images == 0 or images >= len(test.test):
        return torch.randperm(len(test.test), generator=rng)
    labels = test.test.labels
    counts = labels.bincount(minlength=len(test.classes))
    chosen = _draw(labels, _shares(counts, images, rng), rng).nonzero().flatten()
    return chosen[torch.randperm(len(chosen), generator=rng)]


def _cut(
    raw: RawData, pool: Tensor, share: float, rng: torch.Generator, name: str
) -> tuple[Tensor, Tensor]:
    """Indices (n,) taken from `pool` and those left, both in order."""
    if not 0 < share < 1:
        raise ConfigError(f"{name}: got {share}, expected a share between 0 and 1")
    labels = raw.train.labels[pool]
    counts = labels.bincount(minlength=len(raw.classes))
    if raw.groups is None:
        shares = _shares(counts, round(share * len(pool)), rng)
        # One image of each class on either side, where there are two.
        shares = shares.clamp(min=1).minimum(counts - 1).clamp(min=0)
        taken = _draw(labels, shares, rng)
    else:
        member = torch.from_numpy(np.unique(raw.groups[pool].numpy(), return_inverse=True)[1])
        table = torch.zeros(int(member.max()) + 1, len(raw.classes), dtype=torch.float64)
        table.index_put_((member, labels), torch.ones(1, dtype=torch.float64), accumulate=True)
        taken = _whole_groups(table, share, rng)[member]
    if not taken.any():
        what = "images" if raw.groups is None else "whole groups"
        raise DataError(
            f"{name} split too small: got 0 of {len(pool)} images at share {share}, expected at "
            f"least 1 (no class has {what} to spare)"
        )
    return pool[taken], pool[~taken]


def _shares(counts: Tensor, total: int, rng: torch.Generator) -> Tensor:
    """Divide `total` among K classes in proportion to `counts` (K,): largest remainders, (K,)."""
    exact = counts.double() * total / counts.sum()
    shares = exact.floor().long()
    # In random order, so that equal remainders do not always favour the first classes.
    order = torch.randperm(len(counts), generator=rng)
    ranked = order[(exact - shares)[order].argsort(descending=True, stable=True)]
    shares[ranked[: total - int(shares.sum())]] += 1
    return shares


def _draw(labels: Tensor, shares: Tensor, rng: torch.Generator) -> Tensor:
    """Mark `shares[k]` random images of each class k among `labels` (N,); (N,) of bool."""
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for k, share in enumerate(shares.tolist()):
        members = (labels == k).nonzero().flatten()
        order = torch.randperm(len(members), generator=rng)
        taken[members[order[:share]]] = True
    return taken


def _whole_groups(table: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Mark groups whose images together are near `share` of every class; (G,) of bool.

    `table` (G, K) counts images. In random order, a group is taken when that brings the taken
    counts nearer to the wanted ones (squared distance, relative to the class) and leaves images
    of all its classes; then each class still absent gets the group that disturbs least.
    """
    available = table.sum(0)
    weight = 1 / available.clamp(min=1)
    wanted, have = share * available, torch.zeros_like(available)
    taken = torch.zeros(len(table), dtype=torch.bool)
    for group in torch.randperm(len(table), generator=rng).tolist():
        row = table[group]
        nearer = float(((2 * (wanted - have) - row) * row) @ weight) > 0
        if nearer and _leaves_some(available - have, row):
            have += row
            taken[group] = True
    for k in range(table.shape[1]):
        if have[k] > 0:
            continue
        spare = _leaves_some(available - have, table) & (table[:, k] > 0)
        if spare.any():
            change = ((table - 2 * (wanted - have)) * table) @ weight
            group = int(change.masked_fill(~spare, torch.inf).argmin())
            have += table[group]
            taken[group] = True
    return taken


def _leaves_some(left: Tensor, rows: Tensor) -> Tensor:
    """Whether images of every class of `rows` (..., K) remain when a row is taken from `left`."""
    return ((rows == 0) | (rows < left)).all(-1)
