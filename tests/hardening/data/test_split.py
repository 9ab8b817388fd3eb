import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardening.data import Labelled, RawData, TestData
from hardening.data.split import choose, split
from hardening.errors import ConfigError, DataError

SEEDS = st.integers(0, 2**32)


def numbered(labels):
    """Image i holds the number i, so that a split can be traced back."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    numbers = torch.arange(len(labels), dtype=torch.float32) / 2**16
    return Labelled(numbers.view(-1, 1, 1, 1), labels)


def raw_data(labels, groups=None, test=None):
    classes = tuple(str(k) for k in range(1 + max(labels)))
    return RawData(numbered(labels), test, classes, groups)


def numbers(part):
    return (part.images.flatten() * 2**16).long().tolist()


def parts(raw, **shares):
    training, test = split(raw, **shares)
    return [numbers(part) for part in (training.train, training.validation, test.test)]


labels_of_few_classes = st.lists(st.integers(0, 4), min_size=12, max_size=120).map(
    lambda some: [0, 0, 0, 1, 1, 1, *some]
)


@settings(max_examples=60, deadline=None)
@given(labels=labels_of_few_classes, seed=SEEDS, share=st.floats(0.05, 0.6))
def test_parts_are_disjoint_complete_and_in_the_datasets_order(labels, seed, share):
    train, validation, test = found = parts(raw_data(labels), validation=share, seed=seed)

    assert sorted(train + validation + test) == list(range(len(labels)))
    assert all(part == sorted(part) for part in found)


@settings(max_examples=60, deadline=None)
@given(labels=labels_of_few_classes, seed=SEEDS, share=st.floats(0.05, 0.95))
def test_validation_holds_its_share_of_every_class_to_one_image(labels, seed, share):
    raw = raw_data(labels, test=numbered([0, 1]))
    training, _ = split(raw, validation=share, seed=seed)
    counts = raw.train.labels.bincount(minlength=len(raw.classes))
    taken = training.validation.labels.bincount(minlength=len(raw.classes))

    assert ((taken - counts * share).abs() <= 1 + 1e-6).all()
    assert (taken[counts >= 2] >= 1).all()
    assert (taken < counts)[counts > 0].all()
    assert abs(len(training.validation) - share * len(labels)) <= len(raw.classes)


@settings(max_examples=20, deadline=None)
@given(labels=labels_of_few_classes, seed=SEEDS)
def test_the_same_seed_gives_the_same_bytes(labels, seed):
    first, second = (split(raw_data(labels), seed=seed) for _ in range(2))

    assert first[0].to_bytes() == second[0].to_bytes()
    assert first[1].to_bytes() == second[1].to_bytes()


def test_the_split_of_a_seed_stays_what_it_is():
    """A golden split: evidence of earlier runs names its images by their places."""
    _, validation, test = parts(raw_data([0, 1] * 10), validation=0.2, test=0.3, seed=0)

    assert validation == [5, 16, 19]
    assert test == [3, 4, 6, 7, 13, 18]


def test_different_seeds_give_different_splits():
    found = {tuple(parts(raw_data([0, 1] * 50), seed=seed)[2]) for seed in range(20)}

    assert len(found) == 20


def test_a_split_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    split(raw_data([0, 1] * 10), seed=3)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_test_split_of_the_datasets_own_is_kept_as_it_is():
    test = numbered([1, 0, 1, 1])
    training, held_out = split(raw_data([0, 1] * 10, test=test), validation=0.2)

    assert held_out.test is test
    assert len(training.train) == 16
    assert len(training.validation) == 4


def test_shares_of_a_balanced_dataset_are_exact():
    train, validation, test = parts(raw_data(list(range(10)) * 100), validation=0.1, test=0.3)

    assert (len(train), len(validation), len(test)) == (630, 70, 300)


grouped = st.lists(
    st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 3)),
    min_size=6,
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(found=grouped, seed=SEEDS, share=st.floats(0.1, 0.5), own_test=st.booleans())
def test_no_group_is_ever_cut(found, seed, share, own_test):
    """Groups of one or several classes, numbered arbitrarily, in any order."""
    pairs = [(k, 1000 - 7 * g) for g, (row, times) in enumerate(found) for k in row * times]
    pairs += [(k, 5000 + 4 * j + k) for j in range(4) for k in range(2)]
    shuffled = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    pairs = [pairs[i] for i in shuffled.tolist()]
    groups = torch.tensor([g for _, g in pairs])
    test = numbered([0, 1]) if own_test else None
    raw = raw_data([k for k, _ in pairs], groups, test)
    train, validation, held_out = parts(raw, validation=share, test=share, seed=seed)
    sides = [train, validation] if own_test else [train, validation, held_out]
    members = [set(groups[side].tolist()) for side in sides]

    assert sum(len(side) for side in members) == len(set(groups.tolist()))
    assert sorted(i for side in sides for i in side) == list(range(len(pairs)))
    # Training never loses the last image of a class.
    assert {pairs[i][0] for i in train} == {k for k, _ in pairs}


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, sizes=st.lists(st.integers(1, 8), min_size=40, max_size=60))
def test_groups_of_one_class_are_shared_out_near_the_wanted_share(seed, sizes):
    pairs = [(g % 2, g) for g, size in enumerate(sizes) for _ in range(size)]
    groups = torch.tensor([g for _, g in pairs])
    raw = raw_data([k for k, _ in pairs], groups, numbered([0, 1]))
    training, _ = split(raw, validation=0.25, seed=seed)
    counts = raw.train.labels.bincount(minlength=2)
    taken = training.validation.labels.bincount(minlength=2)

    # Half the largest group is the nearest that whole groups can promise.
    assert ((taken - 0.25 * counts).abs() <= max(sizes) / 2).all()


def test_a_class_of_two_large_groups_is_in_training_and_in_validation():
    """A group far above the class's share is taken when the class would be absent otherwise."""
    labels = [0] * 40 + [1] * 20
    groups = torch.tensor([*range(40), *[100] * 10, *[101] * 10])
    training, _ = split(raw_data(labels, groups, numbered([0, 1])), validation=0.1, seed=0)

    assert training.validation.labels.bincount().tolist() == [4, 10]
    assert training.train.labels.bincount().tolist() == [36, 10]


def test_validation_without_anything_to_spare_is_refused():
    with pytest.raises(DataError, match=r"validation split too small: got 0 of 2 images"):
        split(raw_data([0, 1], test=numbered([0, 1])))


def test_validation_without_a_group_to_spare_is_refused():
    raw = raw_data([0, 0, 1, 1], torch.tensor([5, 5, 6, 6]), numbered([0, 1]))

    with pytest.raises(DataError, match=r"validation split too small: .*no class has whole groups"):
        split(raw)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan"), 30])
@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_share_that_is_none_is_refused(name, share):
    with pytest.raises(ConfigError, match=f"{name}: got .*, expected a share between 0 and 1"):
        split(raw_data([0, 1] * 10), **{name: share})


def of_labels(labels):
    return TestData(numbered(labels), tuple(str(k) for k in range(1 + max(labels))))


@settings(max_examples=60, deadline=None)
@given(labels=labels_of_few_classes, images=st.integers(1, 150), seed=SEEDS)
def test_a_choice_is_distinct_of_the_asked_size_and_in_proportion(labels, images, seed):
    data = of_labels(labels)
    chosen = choose(data, images, seed)
    size = min(images, len(labels))
    counts = data.test.labels.bincount(minlength=len(data.classes))
    taken = data.test.labels[chosen].bincount(minlength=len(data.classes))

    assert len(chosen) == size
    assert len(chosen.unique()) == size
    assert chosen.dtype == torch.int64
    assert ((taken - counts * size / len(labels)).abs() < 1 + 1e-9).all()
    assert torch.equal(chosen, choose(data, images, seed))


def test_a_choice_of_zero_or_too_many_is_everything():
    data = of_labels([0, 1, 1, 0])

    assert sorted(choose(data, 0, 0).tolist()) == [0, 1, 2, 3]
    assert sorted(choose(data, 99, 0).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("images", [0, 400])
def test_any_first_part_of_a_choice_is_a_fair_sample_of_it(images):
    """An early decision looks at the first images only."""
    data = of_labels([0] * 250 + [1] * 250)
    firsts = torch.stack([choose(data, images, seed)[:50] for seed in range(40)])
    share = data.test.labels[firsts].float().mean()
    assert abs(float(share) - 0.5) < 4 * (0.25 / firsts.numel()) ** 0.5


def test_choices_of_different_seeds_differ_and_favour_no_class():
    data = of_labels(list(range(10)) * 20)
    choices = [choose(data, 15, seed) for seed in range(200)]
    totals = torch.stack([data.test.labels[c].bincount(minlength=10) for c in choices]).sum(0)

    assert len({tuple(c.tolist()) for c in choices}) == 200
    # 300 per class expected; the extra five images of each choice go to random classes.
    assert (totals - 300).abs().max() < 50


def test_a_negative_choice_is_refused():
    with pytest.raises(ConfigError, match="images: got -1, expected"):
        choose(of_labels([0, 1]), -1, 0)
