import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardening.data import DATASETS
from hardening.data.checks import check
from hardening.errors import ConfigError, DataError
from hardening.spec import Spec, bind

npz = DATASETS["npz"]


def arrays(**changes):
    """A good dataset of six training and three test images, 4 x 5 pixels, with `changes`."""
    rng = np.random.default_rng(0)
    found = {
        "train_images": rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
        "test_labels": np.array([0, 1, 2]),
        **changes,
    }
    return {name: array for name, array in found.items() if array is not None}


@pytest.fixture
def saved(tmp_path):
    def save(**changes):
        path = tmp_path / "data.npz"
        np.savez_compressed(path, **arrays(**changes))
        return path

    return save


def read_or_message(path):
    try:
        return npz(path), ""
    except DataError as error:
        return None, str(error)


def test_bytes_are_read_unchanged_and_turned_to_channels_first(saved):
    raw = npz(saved())
    given_arrays = arrays()

    assert raw.train.images.dtype == torch.uint8
    assert (raw.train.images.numpy() == given_arrays["train_images"].transpose(0, 3, 1, 2)).all()
    assert raw.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert raw.test is not None
    assert raw.test.images.shape == (3, 3, 4, 5)
    assert raw.classes == ("0", "1", "2")
    assert raw.groups is None
    assert check(raw)["train"]["duplicates"] == 0


def test_all_layouts_of_one_picture_give_the_same_tensor(saved):
    grey = arrays()["train_images"][..., :1]
    scaled = grey.astype(np.float64) / 255
    layouts = [grey, grey[..., 0], grey.transpose(0, 3, 1, 2)]
    floats = [scaled, scaled[..., 0], scaled.transpose(0, 3, 1, 2), scaled.astype(">f4")]
    read = [npz(saved(train_images=images)).train for images in [*layouts, *floats]]

    assert all(torch.equal(part.floats(), read[0].floats()) for part in read)
    assert all(part.images.shape == (6, 1, 4, 5) for part in read)
    assert {str(part.images.dtype) for part in read} == {"torch.uint8", "torch.float32"}


def test_a_file_without_a_test_split_has_none(saved):
    assert npz(saved(test_images=None, test_labels=None)).test is None


def test_a_file_that_unpacks_to_more_than_allowed_is_refused_before_it_is_unpacked(saved):
    path = saved(train_images=np.zeros((6, 1000, 1000, 3), dtype=np.uint8))
    assert path.stat().st_size < 100_000

    with pytest.raises(DataError, match=r"data\.npz: unpacks to 18000\d+ B, .* 1000000 B \(max_b"):
        npz(path, max_bytes=1_000_000)
    assert npz(path, max_bytes=20_000_000).train.images.shape == (6, 3, 1000, 1000)


def test_the_classes_array_names_the_classes(saved):
    assert npz(saved(classes=np.array(["stop", "go", "rot"]))).classes == ("stop", "go", "rot")


def test_groups_are_read_and_several_arrays_name_a_group_together(saved):
    path = saved(track=np.array([4, 4, 4, 4, 9, 9]))
    one = bind(DATASETS, Spec(name="npz", params={"groups": "track"}))(path).groups
    both = bind(DATASETS, Spec(name="npz", params={"groups": "train_labels+track"}))(path).groups

    assert one is not None
    assert one.tolist() == [0, 0, 0, 0, 1, 1]
    assert both is not None
    assert both.dtype == torch.int64
    # (0, 4) twice; (1, 4), (2, 4), (1, 9), (2, 9) once each.
    assert both[0] == both[3]
    assert len(both.unique()) == 5


MANY = np.zeros((6, 3, 5, 3), dtype=np.uint8)
CASES = {
    "no train images": (
        {"train_images": None, "train_image": MANY},
        "got test_images, test_labels, train_image, train_labels, "
        "expected an array 'train_images', did you mean 'train_image'",
    ),
    "no train labels": ({"train_labels": None}, "expected an array 'train_labels'"),
    "images of a test split only": ({"test_labels": None}, "expected an array 'test_labels'"),
    "labels of a test split only": ({"test_images": None}, "expected an array 'test_images'"),
    "float 0..255": (
        {"train_images": arrays()["train_images"].astype(np.float32)},
        r"train_images: got float values from [\d.]+ to 25\d, expected \[0, 1\]",
    ),
    "NaN": ({"test_images": np.full((3, 4, 5, 3), np.nan)}, "test_images: got NaN .* in 3 images"),
    "integers": (
        {"train_images": arrays()["train_images"].astype(np.int64)},
        "train_images: got int64, expected uint8 in 0..255 or float",
    ),
    "both axes": ({"train_images": MANY}, r"\(6, 3, 5, 3\), whose axes 1 and 3 could both be"),
    "no axis": (
        {"train_images": np.zeros((6, 4, 4, 4), dtype=np.uint8)},
        r"\(6, 4, 4, 4\), whose axes 1 and 3 are both not",
    ),
    "two axes": ({"train_images": np.zeros((6, 60))}, r"train_images: got shape \(6, 60\)"),
    "float labels": ({"train_labels": np.zeros(6)}, r"train_labels: got float64 of shape \(6,\)"),
    "one-hot labels": ({"test_labels": np.eye(3, dtype=int)}, r"test_labels: got int64 .*\(3, 3\)"),
    "stray label": (
        {"train_labels": np.array([0, 1, 2, 0, 1, 10**15])},
        "train_labels: got labels up to 1000000000000000 for 6 images, expected 0..K-1",
    ),
    "pickled objects": (
        {"test_images": np.array([{}, []], dtype=object)},
        "array test_images cannot be read",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_array_is_refused_in_one_line_naming_file_and_array(saved, case):
    changes, message = CASES[case]
    path = saved(**changes)

    with pytest.raises(DataError) as caught:
        npz(path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("tracks", "expected an array 'tracks', did you mean 'track'"),
        ("track+", "expected an array ''"),
        ("short", "short: got 5 groups, expected 6"),
        ("names", "names: got <U1 of shape"),
    ],
)
def test_wrong_groups_are_refused(saved, groups, message):
    path = saved(track=np.arange(6), short=np.arange(5), names=np.array(list("abcdef")))

    with pytest.raises(DataError, match=message):
        bind(DATASETS, Spec(name="npz", params={"groups": groups}))(path)


def test_labels_that_the_loader_lets_through_are_refused_by_the_checks(saved):
    for change in ({"test_labels": np.array([0, 1, 3])}, {"train_labels": np.array([-1] * 6)}):
        raw = npz(saved(**change))
        with pytest.raises(DataError, match=r"labels: got .* out of range"):
            check(raw)


def test_an_unknown_parameter_is_a_configuration_error():
    with pytest.raises(ConfigError, match="did you mean 'groups'"):
        bind(DATASETS, Spec(name="npz", params={"group": "track"}))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npz: no such file"):
        npz(tmp_path / "absent.npz")


def test_a_file_that_is_not_zipped_arrays_is_named(tmp_path):
    for name, content in {"a.npz": b"", "b.npz": b"\x80\x04K\x01.", "c.npz": b"hello" * 99}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: truncated or not an .npz file"):
            npz(tmp_path / name)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("train_images.npy", "no array")
    with pytest.raises(DataError, match=r"d\.npz: got no arrays, expected an array"):
        npz(tmp_path / "d.npz")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.floats(0, 0.999))
def test_a_truncated_file_is_named(saved, cut):
    path = saved()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])

    with pytest.raises(DataError, match=r"data\.npz: truncated or not an \.npz file"):
        npz(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 0.999), mask=st.integers(1, 255), compressed=st.booleans())
def test_a_damaged_byte_never_changes_a_pixel_and_never_ends_in_another_error(
    tmp_path, place, mask, compressed
):
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    damaged = bytearray(path.read_bytes())
    damaged[int(place * len(damaged))] ^= mask
    path.write_bytes(bytes(damaged))

    raw, message = read_or_message(path)

    if raw is None:
        assert str(path) in message
    else:
        assert (raw.train.images.numpy() == arrays()["train_images"].transpose(0, 3, 1, 2)).all()
        assert raw.train.labels.tolist() == arrays()["train_labels"].tolist()


def test_a_damaged_table_of_contents_never_hides_the_test_split(tmp_path):
    """Every byte of the list of arrays, which no checksum covers."""
    path = tmp_path / "data.npz"
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 255
        path.write_bytes(bytes(damaged))
        raw, _ = read_or_message(path)

        assert raw is None or raw.test is not None
