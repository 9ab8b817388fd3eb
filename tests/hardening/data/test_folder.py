import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from hardening.data import DATASETS
from hardening.data.checks import check
from hardening.errors import ConfigError, DataError
from hardening.spec import Spec, bind


def load(root, **params):
    return bind(DATASETS, Spec(name="folder", params=params))(root)


def write(path, seed=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode=None).convert(mode).save(path)
    return pixels


def png(width, height, depth=8, colour=0):
    """A PNG file that claims to be large and holds next to nothing."""

    def chunk(kind, body):
        check_sum = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check_sum

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    body = zlib.compress(bytes(64))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture
def classes(tmp_path):
    """Two classes of two images and no split."""
    for index, name in enumerate(["cat/b.png", "cat/a.png", "dog/z.png", "dog/y.png"]):
        write(tmp_path / name, index)
    return tmp_path


def test_class_folders_are_read_in_name_order_pixel_for_pixel(classes):
    raw = load(classes, size=8)
    expected = [write(classes / name, i) for i, name in enumerate(["cat/b.png", "cat/a.png"])]

    assert raw.classes == ("cat", "dog")
    assert raw.test is None
    assert raw.groups is None
    assert raw.train.labels.tolist() == [0, 0, 1, 1]
    assert raw.train.images.dtype == torch.uint8
    assert (raw.train.images[0].permute(1, 2, 0).numpy() == expected[1]).all()
    assert (raw.train.images[1].permute(1, 2, 0).numpy() == expected[0]).all()
    assert check(raw)["train"]["duplicates"] == 0


def test_train_and_test_folders_are_the_splits_and_share_labels(tmp_path):
    for name in ["train/ant/1.png", "train/bee/1.png", "train/cow/1.png", "test/cow/1.png"]:
        write(tmp_path / name, len(name))
    raw = load(tmp_path)

    assert raw.classes == ("ant", "bee", "cow")
    assert raw.train.labels.tolist() == [0, 1, 2]
    assert raw.test is not None
    assert raw.test.labels.tolist() == [2]
    assert raw.test.images.shape == (1, 3, 32, 32)


def test_a_train_folder_alone_has_no_test_split(tmp_path):
    for name in ["train/ant/1.png", "train/bee/1.png"]:
        write(tmp_path / name)

    assert load(tmp_path).test is None


def test_classes_may_be_called_train_and_test(tmp_path):
    for name in ["train/1.png", "test/1.png", "bus/1.png"]:
        write(tmp_path / name)

    assert load(tmp_path).classes == ("bus", "test", "train")


def test_all_formats_sizes_and_modes_become_one_shape(tmp_path):
    write(tmp_path / "a/1.JPG", size=(40, 20))
    write(tmp_path / "a/2.bmp", mode="L")
    write(tmp_path / "a/3.webp", size=(5, 5))
    write(tmp_path / "b/1.png", mode="RGBA")
    write(tmp_path / "b/2.jpeg", mode="CMYK")
    write(tmp_path / "b/deep/3.ppm")
    write(tmp_path / "b/.hidden/4.png")
    write(tmp_path / ".git/5.png")
    (tmp_path / "b" / "notes.txt").write_text("no image")

    assert load(tmp_path, size=16).train.images.shape == (6, 3, 16, 16)
    assert load(tmp_path, size=16, channels=1).train.images.shape == (6, 1, 16, 16)


def test_grey_is_the_luminance_and_a_flat_colour_survives_resizing(tmp_path):
    for name in ["a", "b"]:
        (tmp_path / name).mkdir()
        Image.new("RGB", (50, 70), (200, 100, 50)).save(tmp_path / name / "1.png")

    assert load(tmp_path).train.images[0, :, 5, 5].tolist() == [200, 100, 50]
    grey = load(tmp_path, channels=1).train.images
    assert grey.unique().tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


def test_a_broken_image_is_named(classes):
    path = classes / "dog" / "y.png"
    path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(DataError, match=r"dog/y\.png: cannot be read as an image"):
        load(classes)


def test_a_text_file_called_png_is_named(classes):
    (classes / "cat" / "a.png").write_text("not a picture")

    with pytest.raises(DataError, match=r"cat/a\.png: cannot be read as an image"):
        load(classes)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(classes, side):
    """Pillow only warns of the first and refuses the second."""
    (classes / "cat" / "a.png").write_bytes(png(side, side))

    with pytest.raises(DataError, match=r"cat/a\.png: cannot be read .* decompression bomb"):
        load(classes)


def test_sixteen_bits_per_channel_are_refused_and_not_clipped(classes):
    path = classes / "cat" / "a.png"
    Image.fromarray(np.full((8, 8), 30_000, dtype=np.uint16)).save(path)

    with pytest.raises(DataError, match=r"cat/a\.png: got pixels of mode 'I;16', expected 8 bits"):
        load(classes)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent: no such folder"):
        load(tmp_path / "absent")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="got no folders in it, expected one per class"):
        load(tmp_path)


def test_a_class_without_images_is_named(classes):
    (classes / "emu").mkdir()

    with pytest.raises(DataError, match=r"emu: got no images, expected files ending in \.bmp"):
        load(classes)


def test_a_test_class_without_training_images_is_named(tmp_path):
    for name in ["train/ant/1.png", "train/bee/1.png", "test/cow/1.png"]:
        write(tmp_path / name)

    with pytest.raises(DataError, match=r"test/cow: got a class without training images"):
        load(tmp_path)


def test_a_third_split_is_refused_and_not_forgotten(tmp_path):
    for name in ["train/ant/1.png", "train/bee/1.png", "val/bee/1.png"]:
        write(tmp_path / name)

    with pytest.raises(DataError, match="got folders train, val, expected train and test"):
        load(tmp_path)


@pytest.mark.parametrize("params", [{"size": 0}, {"size": 2000}, {"channels": 2}])
def test_wrong_parameters_are_configuration_errors(classes, params):
    with pytest.raises(ConfigError, match=next(iter(params))):
        load(classes, **params)
