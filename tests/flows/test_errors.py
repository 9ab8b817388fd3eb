"""Wrong input ends in one line and exit code 2, with nothing half-written."""

import io
import pickle

import numpy as np
import pytest
import torch

from flows.__main__ import main
from hardening.models.architecture import Architecture, build


@pytest.fixture
def refused(elsewhere, capsys):
    """Runs a command in this process and checks that it was refused with `says`."""

    def run(*arguments, says):
        done = elsewhere.main(capsys, *arguments)
        _check(elsewhere, done.code, done.err, says)

    return run


def _check(place, code, err, says):
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("temper: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in err
    assert not (place.root / "runs" / "tiny").exists()
    assert not list((place.root / "home" / "store" / "steps").glob("*"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sead": 1}, "sead: unknown key, did you mean 'seed'?"),
        ({"threat__eps": 0}, "threat.eps: Input should be greater than 0, got 0"),
        ({"evaluation__attacks": [{"name": "pdg"}]}, "did you mean 'pgd'?"),
    ],
)
def test_a_wrong_configuration(elsewhere, refused, changes, says):
    refused("check", elsewhere.write(**changes), says=says)


def test_wrong_usage_is_exit_code_2(elsewhere):
    assert elsewhere.temper("hardne").code == 2


def test_evaluate_without_weights(elsewhere):
    """In a process of its own, as a user sees it."""
    done = elsewhere.temper("evaluate", elsewhere.write())
    _check(elsewhere, done.code, done.err, "model.weights: got nothing")


def test_a_missing_dataset(elsewhere, refused):
    path = elsewhere.write(data={"name": "npz", "path": "none.npz"})
    refused("check", path, says="none.npz")


def test_a_wrong_digest(elsewhere, refused):
    _arrays(elsewhere.root)
    path = elsewhere.write(data={"name": "npz", "path": "d.npz", "sha256": "0" * 64})
    refused("check", path, says="expected " + "0" * 64)


def test_an_mlflow_that_does_not_answer(elsewhere, refused):
    elsewhere.env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    refused("check", elsewhere.write(), says="http://127.0.0.1:9")


def test_a_store_that_does_not_answer(elsewhere, refused):
    elsewhere.env |= {
        "TEMPER_STORE": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    refused("check", elsewhere.write(), says="http://127.0.0.1:9")


def test_a_prefect_server_that_does_not_answer(elsewhere, refused):
    elsewhere.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    refused("harden", elsewhere.write(), says="http://127.0.0.1:9")


@pytest.fixture
def harden(here, capsys):
    """Runs `temper harden` in this process until it is refused; returns its last line."""

    def run(*arguments, **changes):
        code = main(["harden", here.write(name="bad", **changes), *arguments])
        err = capsys.readouterr().err
        assert code == 2, err
        assert "Traceback" not in err
        assert not (here.root / "runs" / "bad").exists()
        return err.splitlines()[-1]

    return run


def test_an_output_folder_that_cannot_be_written(here, harden):
    (here.root / "taken").write_text("a file")
    assert "taken/runs" in harden("--output", "taken/runs")


def test_a_truncated_dataset(here, harden):
    _arrays(here.root)
    file = here.root / "d.npz"
    file.write_bytes(file.read_bytes()[:-200])
    assert "d.npz" in harden(data={"name": "npz", "path": "d.npz"})


def test_data_that_cannot_be_trained_on(here, harden):
    """The step that reads the data runs, the ones after it never do."""
    says = _arrays(here.root, bad_label=True)
    assert says in harden(data={"name": "npz", "path": "d.npz"})


def test_weights_of_another_architecture_name_the_first_keys(here, harden):
    other = build(_architecture("small_cnn", (1, 8, 8), {"width": 16}), seed=0)
    torch.save(other.net.state_dict(), here.root / "w.pt")
    line = harden(model__weights="w.pt", training=None)
    assert "w.pt" in line
    assert any(key in line for key in other.net.state_dict())


def test_a_pickle_with_code_in_it_is_never_executed(here, harden):
    trace = here.root / "executed"
    (here.root / "w.pt").write_bytes(pickle.dumps(_Hostile(str(trace))))
    assert "w.pt" in harden(model__weights="w.pt", training=None)
    assert not trace.exists()


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def _architecture(name, shape, params):
    return Architecture(name=name, params=params, shape=shape, classes=10, mean=(0.0,), std=(1.0,))


def _arrays(root, *, bad_label=False):
    """Write d.npz; returns what the error must say."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    images = rng.integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    if bad_label:
        labels[3] = -1
    buffer = io.BytesIO()
    np.savez(
        buffer,
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    (root / "d.npz").write_bytes(buffer.getvalue())
    return "-1"
