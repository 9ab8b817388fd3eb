"""Each loss is per image, and says who wins."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from attacks.losses import LOSSES, ce, dlr, dlr_targeted, margin, rivals


def logits_of(seed, classes, count=16):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=rng) * 3
    return logits, torch.randint(classes, (count,), generator=rng)


@given(seed=st.integers(0, 10_000), classes=st.sampled_from([2, 3, 4, 10]))
def test_margin_and_dlr_are_positive_exactly_where_the_label_loses(seed, classes):
    logits, y = logits_of(seed, classes)
    loses = logits.argmax(1) != y
    assert torch.equal(margin(logits, y) > 0, loses)
    assert torch.equal(dlr(logits, y) > 0, loses)


@given(seed=st.integers(0, 10_000), classes=st.sampled_from([3, 4, 10]))
def test_dlr_is_the_papers_ratio(seed, classes):
    logits, y = logits_of(seed, classes)
    for row, label, got in zip(logits.tolist(), y.tolist(), dlr(logits, y).tolist(), strict=True):
        first, _, third = sorted(row, reverse=True)[:3]
        best_other = max(value for j, value in enumerate(row) if j != label)
        assert got == pytest.approx(-(row[label] - best_other) / (first - third), rel=1e-4)


def test_dlr_of_two_classes_is_the_margin():
    logits, y = logits_of(0, 2)
    assert torch.equal(dlr(logits, y), margin(logits, y))


@given(seed=st.integers(0, 10_000), classes=st.sampled_from([4, 5, 10]))
def test_targeted_dlr_is_the_papers_ratio(seed, classes):
    logits, y = logits_of(seed, classes)
    target = (y + 1) % classes
    got = dlr_targeted(logits, y, target).tolist()
    for row, label, aim, value in zip(
        logits.tolist(), y.tolist(), target.tolist(), got, strict=True
    ):
        first, _, third, fourth = sorted(row, reverse=True)[:4]
        expected = -(row[label] - row[aim]) / (first - 0.5 * (third + fourth))
        assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_targeted_dlr_of_few_classes_is_the_margin_to_the_target(classes):
    logits, y = logits_of(0, classes)
    target = (y + 1) % classes
    expected = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    assert torch.equal(dlr_targeted(logits, y, target), expected[:, 0])


@given(seed=st.integers(0, 10_000), classes=st.sampled_from([2, 3, 10]))
def test_rivals_are_all_others_in_falling_order(seed, classes):
    logits, y = logits_of(seed, classes)
    for row, label, others in zip(logits.tolist(), y.tolist(), rivals(logits, y), strict=True):
        assert sorted([label, *others.tolist()]) == list(range(classes))
        assert [row[j] for j in others] == sorted((row[j] for j in others), reverse=True)


def test_cross_entropy_is_per_image():
    logits, y = logits_of(0, 5)
    assert torch.equal(ce(logits, y), F.cross_entropy(logits, y, reduction="none"))


@pytest.mark.parametrize(
    "loss", [*LOSSES.values(), partial(dlr_targeted, target=torch.ones(4).long())]
)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_an_image_of_ties_has_a_finite_loss_and_gradient(loss, classes):
    logits = torch.zeros(4, classes, requires_grad=True)
    losses = loss(logits, torch.zeros(4, dtype=torch.long))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
