import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardening.data import Labelled, RawData
from hardening.data.checks import check
from hardening.errors import DataError


def part(labels, seed=0, shape=(1, 4, 4)):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), *shape), generator=rng, dtype=torch.uint8)
    return Labelled(images, torch.tensor(labels, dtype=torch.int64))


def good():
    return RawData(part([0, 1, 2, 0, 1, 2], 1), part([2, 1, 0], 2), ("a", "b", "c"), None)


def floats(labelled, *values):
    """The same images as floats, the first pixels replaced by `values`."""
    images = labelled.floats().clone()
    for index, value in enumerate(values):
        images[index, 0, 0, 0] = value
    return Labelled(images, labelled.labels)


def broken(**changes):
    return dataclasses.replace(good(), **changes)


PAIR, TEST = good().train, good().test
CASES = {
    "NaN": (broken(train=floats(PAIR, float("nan"))), "train images: got NaN .* in 1 images"),
    "infinity": (
        broken(test=floats(TEST, float("inf"), -float("inf"))),
        "test images: got NaN or infinity in 2 images, expected finite",
    ),
    "floats in 0..255": (
        broken(train=floats(PAIR, 255.0)),
        r"train images: got float values from .* to 255, expected \[0, 1\]",
    ),
    "negative floats": (broken(test=floats(TEST, -0.5)), "test images: got float values from -0.5"),
    "label too large": (
        broken(test=part([0, 3, 1], 2)),
        r"test labels: got 3 at index 1 \(1 out of range\), expected 0..2",
    ),
    "negative label": (
        broken(train=part([0, 1, 2, -1], 1)),
        "train labels: got -1 at index 3 .*expected 0..2",
    ),
    "one class": (
        broken(train=part([0, 0]), test=None, classes=("a",)),
        "train labels: got images of 1 class, expected at least 2",
    ),
    "one class of three present": (broken(train=part([1, 1])), "got images of 1 class"),
    "class missing": (
        broken(train=part([0, 2, 2])),
        r"train labels: got no image of 1 of 3 classes \('b'\), expected every class",
    ),
    "no training images": (broken(train=part([])), r"train images: got shape \(0, 1, 4, 4\)"),
    "no test images": (broken(test=part([])), r"test images: got shape \(0, 1, 4, 4\)"),
    "no pixels": (broken(test=part([0, 1], shape=(1, 0, 4))), "test images: got shape"),
    "lengths": (
        broken(test=Labelled(TEST.images, TEST.labels[:2])),
        "test: got 3 images and 2 labels, expected pairs",
    ),
    "shapes of the splits": (
        broken(test=part([0, 1], shape=(3, 4, 4))),
        r"test images: got shape \(3, 4, 4\), expected train's \(1, 4, 4\)",
    ),
    "no channel axis": (
        broken(train=Labelled(PAIR.images[:, 0], PAIR.labels)),
        r"train images: got uint8 of shape \(6, 4, 4\), expected .*\(N, C, H, W\)",
    ),
    "dtype of images": (
        broken(train=Labelled(PAIR.images.double() / 255, PAIR.labels)),
        "train images: got float64 .*expected uint8 or float32",
    ),
    "dtype of labels": (
        broken(train=Labelled(PAIR.images, PAIR.labels.float())),
        "train labels: got float32 .*expected int64",
    ),
    "names": (broken(classes=("a", "b", "a")), "classes: got the name 'a' twice"),
    "groups": (broken(groups=torch.arange(5)), r"train groups: got shape \(5,\), expected \(6,\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_dataset_is_refused_in_one_line_with_split_got_and_expected(case):
    raw, message = CASES[case]

    with pytest.raises(DataError) as caught:
        check(raw)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_facts_are_json_and_describe_both_splits():
    facts = check(broken(train=part([0, 1, 1, 2, 2, 2])))

    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    train, images = facts["train"], part([0, 1, 1, 2, 2, 2]).images
    assert train["counts"] == {"a": 1, "b": 2, "c": 3}
    assert train["imbalance"] == 3
    assert train["shape"] == [1, 4, 4]
    assert train["dtype"] == "uint8"
    assert (train["min"], train["max"]) == (int(images.min()), int(images.max()))
    assert facts["test"]["images"] == 3
    assert "groups" not in facts


def test_a_test_split_may_lack_a_class_and_says_so():
    facts = check(broken(test=part([0, 0], 3)))

    assert facts["test"]["counts"] == {"a": 2, "b": 0, "c": 0}
    assert facts["test"]["imbalance"] is None


def test_duplicates_are_reported_and_not_refused():
    raw = good()
    train = Labelled(raw.train.images[[0, 0, 0, 1, 2, 5]], torch.tensor([0, 0, 0, 1, 2, 2]))
    # Of the test images two are training images, one of them under another label.
    images = torch.cat([raw.train.images[[1, 2]], raw.test.images[:1]])
    facts = check(RawData(train, Labelled(images, torch.tensor([1, 0, 2])), raw.classes, None))

    assert facts["train"]["duplicates"] == 2
    assert facts["test"]["duplicates"] == 0
    assert facts["duplicates_across_splits"] == 2
    assert facts["duplicates_with_other_label"] == 1


@settings(max_examples=50, deadline=None)
@given(
    train=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=2, max_size=20),
    test=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=20),
)
def test_duplicates_are_counted_exactly(train, test):
    """Four different images, so that most are repeated; counted here by comparing all pairs."""
    train = [*train, (9, 0), (9, 1)]  # both classes are present

    def labelled(pairs):
        pixels = torch.tensor([value for value, _ in pairs], dtype=torch.uint8)
        images = pixels.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        return Labelled(images, torch.tensor([label for _, label in pairs]))

    facts = check(RawData(labelled(train), labelled(test), ("a", "b"), None))
    values = [value for value, _ in train]
    shared = [(v, k) for v, k in test if v in values]
    other = [1 for v, k in shared if any(v == w and k != label for w, label in train)]

    assert facts["train"]["duplicates"] == sum(v in values[:i] for i, v in enumerate(values))
    assert facts["duplicates_across_splits"] == len(shared)
    assert facts["duplicates_with_other_label"] == len(other)


def test_groups_are_counted_and_those_of_several_classes_too():
    facts = check(broken(groups=torch.tensor([7, 7, 7, -1, -1, 3])))

    assert facts["groups"] == 3
    assert facts["largest_group"] == 3
    assert facts["groups_of_several_classes"] == 2


def test_sixty_thousand_small_images_are_digested_one_by_one():
    """An exact count on a size at which comparing all pairs would never end."""
    pixels = np.random.default_rng(0).integers(0, 256, (60_000, 1, 28, 28), dtype=np.uint8)
    pixels[-5:] = pixels[:5]
    labels = torch.arange(60_000) % 10
    facts = check(
        RawData(Labelled(torch.from_numpy(pixels), labels), None, tuple("abcdefghij"), None)
    )

    assert facts["train"]["duplicates"] == 5
