import bz2
import csv
import gzip
import hashlib
import os
import pickle
import re
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from hardening.data import DATASETS
from hardening.data.checks import check
from hardening.data.split import split
from hardening.data.torchvision_sets import TORCHVISION
from hardening.errors import ConfigError, DataError
from hardening.spec import Spec, bind, parameters

NOWHERE = "http://127.0.0.1:9"


def load(name, root, **params):
    return bind(DATASETS, Spec(name=name, params=params))(root)


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    """The file format of MNIST: type, number of axes, lengths, big-endian values."""
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    values = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return bytes([0, 0, kind, array.ndim]) + lengths + values


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


LABELS = np.arange(20, dtype=np.uint8) % 10
TRAIN, TEST = random_bytes(20, 28, 28, seed=1), random_bytes(10, 28, 28, seed=2)
MNIST_FILES = {
    "train-images-idx3-ubyte": idx(TRAIN),
    "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(TEST),
    "t10k-labels-idx1-ubyte": idx(LABELS[:10]),
}


@pytest.fixture
def offline(monkeypatch):
    """Every address leads to a port where nobody listens."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    nowhere = urllib.request.ProxyHandler({"http": NOWHERE, "https": NOWHERE})
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(nowhere))


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")],
)
def test_sets_in_mnists_format_are_read_pixel_for_pixel(tmp_path, offline, name, folder):
    for file, content in MNIST_FILES.items():
        write(tmp_path / folder / "raw" / file, content)
    raw = load(name, tmp_path)

    assert (raw.train.images.numpy() == TRAIN[:, None]).all()
    assert (raw.test.images.numpy() == TEST[:, None]).all()
    assert raw.train.labels.tolist() == LABELS.tolist()
    assert raw.train.labels.dtype == torch.int64
    assert len(raw.classes) == 10
    assert check(raw)["test"]["dtype"] == "uint8"


def test_emnist_letters_count_from_zero(tmp_path, offline):
    """The file counts a..z from 1, and torchvision calls class 0 `N/A`."""
    labels = np.arange(1, 27, dtype=np.uint8)
    for part in ("train", "test"):
        write(
            tmp_path / f"EMNIST/raw/emnist-letters-{part}-images-idx3-ubyte",
            idx(random_bytes(26, 28, 28)),
        )
        write(tmp_path / f"EMNIST/raw/emnist-letters-{part}-labels-idx1-ubyte", idx(labels))
    raw = load("emnist", tmp_path, split="letters")

    assert raw.classes == tuple("abcdefghijklmnopqrstuvwxyz")
    assert raw.train.labels.tolist() == list(range(26))
    assert check(raw)["train"]["counts"]["z"] == 1


def test_qmnist_keeps_the_class_and_leaves_the_writer_out(tmp_path, offline):
    details = np.stack([LABELS.astype(np.int32)] + [np.arange(20, dtype=np.int32)] * 7, 1)
    for part in ("train", "test"):
        write(tmp_path / f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte", idx(TRAIN))
        write(tmp_path / f"QMNIST/raw/qmnist-{part}-labels-idx2-int", idx(details))
    raw = load("qmnist", tmp_path)

    assert raw.train.labels.tolist() == LABELS.tolist()
    assert (raw.train.images.numpy() == TRAIN[:, None]).all()


def test_usps_counts_classes_itself(tmp_path, offline):
    rows = [f"{k + 1} " + " ".join(f"{i + 1}:{k / 9:.3f}" for i in range(256)) for k in range(10)]
    for file in ("usps.bz2", "usps.t.bz2"):
        write(tmp_path / file, bz2.compress("\n".join(rows).encode()))
    raw = load("usps", tmp_path)

    assert raw.classes == tuple("0123456789")
    assert raw.train.images.shape == (10, 1, 16, 16)
    assert int(raw.train.images[9].min()) == 255


@pytest.mark.parametrize(("name", "key"), [("CIFAR10", "labels"), ("CIFAR100", "fine_labels")])
def test_cifar_images_are_read_pixel_for_pixel(tmp_path, offline, monkeypatch, name, key):
    """The published digests are replaced by those of the files that stand in for the real ones."""
    source = getattr(torchvision.datasets, name)
    pixels = random_bytes(20, 3, 32, 32)
    batch = {"data": pixels.reshape(20, -1), key: LABELS.tolist()}
    names = {source.meta["key"]: [f"class {k}" for k in range(10)]}
    folder = tmp_path / source.base_folder
    md5 = write(folder / "batch", pickle.dumps(batch))
    monkeypatch.setattr(source, "train_list", [["batch", md5]])
    monkeypatch.setattr(source, "test_list", [["batch", md5]])
    meta = {**source.meta, "md5": write(folder / source.meta["filename"], pickle.dumps(names))}
    monkeypatch.setattr(source, "meta", meta)
    raw = load(name.lower(), tmp_path)

    assert (raw.train.images.numpy() == pixels).all()
    assert raw.test.labels.tolist() == LABELS.tolist()
    assert raw.classes[3] == "class 3"


class Touch:
    """Pickled code: whoever unpickles it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_cifar_file_with_other_bytes_than_published_is_never_unpickled(tmp_path, offline):
    source = torchvision.datasets.CIFAR10
    for file, _ in [*source.train_list, *source.test_list, [source.meta["filename"], ""]]:
        bomb = pickle.dumps(Touch(str(tmp_path / "touched")))
        write(tmp_path / source.base_folder / file, bomb)

    with pytest.raises(DataError, match=r"cifar10 in .*: could not be downloaded"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "touched").exists()


def test_svhn_images_are_read_pixel_for_pixel(tmp_path, offline, monkeypatch):
    pixels = random_bytes(32, 32, 3, 20)
    lists = {}
    for part in ("train", "test"):
        path = tmp_path / f"{part}.mat"
        savemat(path, {"X": pixels, "y": np.where(LABELS == 0, 10, LABELS)[:, None]})
        lists[part] = [NOWHERE, path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    raw = load("svhn", tmp_path)

    assert (raw.train.images.numpy() == pixels.transpose(3, 2, 0, 1)).all()
    assert raw.train.labels.tolist() == LABELS.tolist()
    assert raw.classes == tuple("0123456789")


def test_stl10_reads_its_labelled_training_images(tmp_path, offline, monkeypatch):
    pixels = random_bytes(20, 3, 96, 96)
    folder = tmp_path / "stl10_binary"
    digests = [
        ["X.bin", write(folder / "X.bin", pixels.tobytes())],
        ["y.bin", write(folder / "y.bin", (LABELS + 1).tobytes())],
    ]
    write(folder / "class_names.txt", b"\n".join(b"kind %d" % k for k in range(10)))
    monkeypatch.setattr(torchvision.datasets.STL10, "train_list", digests)
    monkeypatch.setattr(torchvision.datasets.STL10, "test_list", digests)
    raw = load("stl10", tmp_path)

    # The file stores columns first.
    assert (raw.train.images.numpy() == pixels.transpose(0, 1, 3, 2)).all()
    assert raw.train.labels.tolist() == LABELS.tolist()
    assert raw.classes[0] == "kind 0"


@pytest.fixture
def signs(tmp_path):
    """Two classes of three signs, each photographed four times, at many sizes; six test images."""
    for label in range(2):
        for track in range(3):
            for frame in range(4):
                name = f"Training/{label:05d}/{track:05d}_{frame:05d}.ppm"
                path = tmp_path / "gtsrb/GTSRB" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random_bytes(15 + 9 * track, 20 + frame, 3, seed=frame)
                Image.fromarray(pixels).save(path)
    tests = tmp_path / "gtsrb/GTSRB/Final_Test/Images"
    tests.mkdir(parents=True)
    with (tmp_path / "gtsrb/GT-final_test.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Filename", "ClassId"])
        for index in range(6):
            Image.fromarray(random_bytes(30, 30, 3, seed=index)).save(tests / f"{index:05d}.ppm")
            rows.writerow([f"{index:05d}.ppm", index % 2])
    return tmp_path


def test_gtsrb_is_resized_and_keeps_a_physical_sign_on_one_side(signs, offline):
    raw = load("gtsrb", signs, size=24)
    facts = check(raw)
    training, _ = split(raw, validation=0.3, seed=0)

    assert raw.train.images.shape == (24, 3, 24, 24)
    assert raw.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert (facts["groups"], facts["largest_group"]) == (6, 4)
    assert facts["groups_of_several_classes"] == 0
    assert training.validation.labels.tolist() == [0] * 4 + [1] * 4


def test_images_of_the_asked_size_are_not_touched(signs, offline):
    raw = load("gtsrb", signs, size=30)

    assert (raw.test.images[2].permute(1, 2, 0).numpy() == random_bytes(30, 30, 3, seed=2)).all()


def test_eurosat_has_no_test_split_of_its_own(tmp_path, offline):
    for name in ["Forest", "River"]:
        folder = tmp_path / "eurosat/2750" / name
        folder.mkdir(parents=True)
        Image.fromarray(random_bytes(64, 64, 3)).save(folder / f"{name}_1.jpg")
    raw = load("eurosat", tmp_path)

    assert raw.test is None
    assert raw.classes == ("Forest", "River")
    assert raw.train.images.shape == (2, 3, 32, 32)


def test_imagenette_uses_the_first_of_each_classs_names(tmp_path, offline):
    for part in ("train", "val"):
        for name in ("n01440764", "n03028079"):
            folder = tmp_path / "imagenette2-160" / part / name
            folder.mkdir(parents=True)
            Image.fromarray(random_bytes(160, 200, 3)).save(folder / "1.JPEG")
    raw = load("imagenette", tmp_path)

    assert raw.classes == ("tench", "church")
    assert raw.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", TORCHVISION)
def test_an_unreachable_download_is_one_line_naming_set_and_folder(tmp_path, offline, name):
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    expected = f"{name} in {re.escape(str(tmp_path))}: could not be downloaded \\("
    assert re.match(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_an_error_of_reading(tmp_path, offline):
    for file, content in MNIST_FILES.items():
        write(tmp_path / "MNIST" / "raw" / file, content[: len(content) // 2])

    with pytest.raises(DataError, match=r"mnist in .*: could not be read \(RuntimeError"):
        load("mnist", tmp_path)


def test_a_folder_that_is_a_file_is_an_error_of_reading(tmp_path, offline):
    (tmp_path / "downloads").write_text("not a folder")

    with pytest.raises(DataError, match=r"mnist in .*: could not be read \("):
        load("mnist", tmp_path / "downloads")


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An HTTP server that offers a small MNIST, and torchvision told to ask it."""
    site = tmp_path / "site"
    packed = {f"{name}.gz": gzip.compress(content) for name, content in MNIST_FILES.items()}
    resources = [(name, write(site / name, content)) for name, content in packed.items()]
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(urllib.request, "_opener", direct)
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_set_is_downloaded_once_and_then_read_from_the_folder(mirror, tmp_path):
    first = load("mnist", tmp_path / "data")
    for file in mirror.iterdir():
        file.unlink()
    second = load("mnist", tmp_path / "data")

    assert (first.train.images.numpy() == TRAIN[:, None]).all()
    assert torch.equal(first.train.images, second.train.images)


def test_a_download_with_other_bytes_than_published_is_refused(mirror, tmp_path):
    write(mirror / "train-images-idx3-ubyte.gz", gzip.compress(b"something else"))

    with pytest.raises(DataError, match=r"mnist in .*: could not be downloaded .* corrupted"):
        load("mnist", tmp_path / "data")


def test_every_set_explains_its_parameters():
    found = {name: parameters(function) for name, function in TORCHVISION.items()}

    assert [p.name for p in found["gtsrb"]] == ["size"]
    assert [p.name for p in found["emnist"]] == ["split"]
    assert found["mnist"] == []
    assert all(p.meaning for listed in found.values() for p in listed)
    assert all(function.__name__ == name for name, function in TORCHVISION.items())


def test_a_wrong_parameter_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"emnist\.split"):
        load("emnist", tmp_path, split="all")
    with pytest.raises(ConfigError, match="mnist: unknown parameter 'size'"):
        load("mnist", tmp_path, size=32)
