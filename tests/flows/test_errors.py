"""Wrong input ends in one line and exit code 2, with nothing half-written."""

import io
import pickle

import numpy as np
import pytest
import torch

from flows.__main__ import main
from hardening.models.architecture import Architecture, build


def _refused(place, *arguments, says):
    """The command itself, in a process of its own."""
    done = place.temper(*arguments)
    return _check(place, done.code, done.err, says)


def _refused_early(place, monkeypatch, capsys, *, says, path):
    """`temper check`, here: it finds what is wrong with a configuration and its sources."""
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.root)
    return _check(place, main(["check", path]), capsys.readouterr().err, says)


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
def test_a_wrong_configuration(elsewhere, monkeypatch, capsys, changes, says):
    path = elsewhere.write(**changes)
    _refused_early(elsewhere, monkeypatch, capsys, says=says, path=path)


def test_wrong_usage_is_exit_code_2(elsewhere):
    assert elsewhere.temper("hardne").code == 2


def test_evaluate_without_weights(elsewhere):
    _refused(elsewhere, "evaluate", elsewhere.write(), says="model.weights: got nothing")


def test_a_missing_dataset(elsewhere, monkeypatch, capsys):
    path = elsewhere.write(data={"name": "npz", "path": "none.npz"})
    _refused_early(elsewhere, monkeypatch, capsys, says="none.npz", path=path)


def test_a_wrong_digest(elsewhere, monkeypatch, capsys):
    _arrays(elsewhere.root)
    path = elsewhere.write(data={"name": "npz", "path": "d.npz", "sha256": "0" * 64})
    _refused_early(elsewhere, monkeypatch, capsys, says="expected " + "0" * 64, path=path)


def test_a_truncated_dataset(elsewhere):
    _arrays(elsewhere.root)
    file = elsewhere.root / "d.npz"
    file.write_bytes(file.read_bytes()[:-200])
    path = elsewhere.write(data={"name": "npz", "path": "d.npz"})
    _refused(elsewhere, "harden", path, says="d.npz")


def test_an_output_folder_that_cannot_be_written(elsewhere):
    (elsewhere.root / "taken").write_text("a file")
    path = elsewhere.write()
    _refused(elsewhere, "harden", path, "--output", "taken/runs", says="taken/runs")


def test_an_mlflow_that_does_not_answer(elsewhere, monkeypatch, capsys):
    elsewhere.env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    path = elsewhere.write()
    _refused_early(elsewhere, monkeypatch, capsys, says="http://127.0.0.1:9", path=path)


def test_a_store_that_does_not_answer(elsewhere, monkeypatch, capsys):
    elsewhere.env |= {
        "TEMPER_STORE": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    path = elsewhere.write()
    _refused_early(elsewhere, monkeypatch, capsys, says="http://127.0.0.1:9", path=path)


def test_a_prefect_server_that_does_not_answer(elsewhere):
    elsewhere.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    _refused(elsewhere, "harden", elsewhere.write(), says="http://127.0.0.1:9")


def test_data_that_cannot_be_trained_on(place):
    """In the shared place: the step that reads the data runs, the ones after it never do."""
    says = _arrays(place.root, bad_label=True)
    done = place.temper("harden", place.write(name="bad", data={"name": "npz", "path": "d.npz"}))
    assert done.code == 2, done.err
    assert says in done.err.splitlines()[-1]
    assert not (place.root / "runs" / "bad").exists()


def test_weights_of_another_architecture_name_the_first_keys(place):
    shape = (1, 8, 8)
    other = build(_architecture("small_cnn", shape, {"width": 16}), seed=0)
    torch.save(other.net.state_dict(), place.root / "w.pt")
    changes = {"name": "bad", "model__weights": "w.pt", "training": None}
    done = place.temper("harden", place.write(**changes))
    assert done.code == 2, done.err
    assert "w.pt" in done.err.splitlines()[-1]
    assert any(key in done.err.splitlines()[-1] for key in other.net.state_dict())


def test_a_pickle_with_code_in_it_is_never_executed(place):
    trace = place.root / "executed"
    (place.root / "w.pt").write_bytes(pickle.dumps(_Hostile(str(trace))))
    changes = {"name": "bad", "model__weights": "w.pt", "training": None}
    done = place.temper("harden", place.write(**changes))
    assert done.code == 2, done.err
    assert "w.pt" in done.err.splitlines()[-1]
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
