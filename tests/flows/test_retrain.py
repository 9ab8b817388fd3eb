"""When a recipe runs again: for new data, a changed recipe, an old champion; else not."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

import flows.retrain
from flows.__main__ import main
from hardening.data.digits import digits
from hardening.errors import NumericsError
from tasks.champion import look
from tasks.mlflow_client import mlflow_client
from tasks.versions import VERDICT, every

NAME = "often"

SMALL = {
    "registry": {"name": NAME},
    "data": {"name": "npz", "path": "data.npz"},
    "evaluation__images": 20,
    "evaluation__curve": [],
    "evaluation__attacks": [
        {"name": "apgd", "params": {"steps": 20, "loss": "ce"}},
        {"name": "square", "params": {"queries": 100}},
    ],
    "candidates__tuned-int8": None,
    "retrain": {"max_age_days": 30},
    "gate": {"robust_accuracy": 0.0},
}


def write_data(place, images):
    raw = digits(place.root)
    x, y = raw.train.images.numpy()[:images], raw.train.labels.numpy()[:images]
    np.savez(place.root / "data.npz", train_images=x, train_labels=y)


def versions():
    with mlflow_client() as client:
        return every(client, NAME)


@pytest.fixture
def later(monkeypatch):
    """Lets a retraining believe that so many days have passed."""

    def shift(days):
        ahead = SimpleNamespace(time=lambda: time.time() + days * flows.retrain.DAY)
        monkeypatch.setattr(flows.retrain, "time", ahead)

    return shift


def retrain(capsys):
    """The command, in this process: its exit code and what it said."""
    capsys.readouterr()
    code = main(["retrain", "run.yaml"])
    return code, capsys.readouterr().err


def trained(err):
    return "tuned: n_fgsm: done" in err


@pytest.mark.slow  # trains three times
def test_it_trains_for_new_data_a_changed_recipe_and_an_old_champion_and_else_not(
    here, later, monkeypatch, capsys
):
    write_data(here, 1797)
    here.write(**SMALL)

    def fail(*arguments):
        raise NumericsError("a bad night")

    # What failed left no verdict: it is tried again.
    with monkeypatch.context() as patch:
        patch.setattr("tasks.registry.promote", fail)
        code, err = retrain(capsys)
        assert code == 3
        assert trained(err)
        assert VERDICT not in versions()[0].tags
    code, err = retrain(capsys)
    assert code == 0, err
    assert "no version was made from this data yet" in err
    assert not trained(err)  # it went on where it had stopped
    with mlflow_client() as client:
        assert look(client, NAME).champion == versions()[-1].version

    start = time.monotonic()
    code, err = retrain(capsys)
    assert code == 0
    assert "nothing new" in err
    assert time.monotonic() - start < 15
    known = len(versions())

    # A gate that is not met is a verdict, too: it is not tried every night.
    here.write(**SMALL | {"seed": 3, "gate": {"robust_accuracy": 0.999}})
    write_data(here, 1700)
    code, err = retrain(capsys)
    assert code == 1, err
    assert trained(err)
    assert versions()[-1].tags[VERDICT] == "failed"
    assert len(versions()) == known + 1
    code, err = retrain(capsys)
    assert (code, "nothing new" in err) == (0, True)

    # A recipe that makes the champion's very file again needs no second version of it.
    write_data(here, 1797)
    here.write(**SMALL | {"evaluation__images": 24})
    code, err = retrain(capsys)
    assert code == 0, err
    assert "no version was made from this recipe yet" in err
    assert len(versions()) == known + 1
    assert "nothing new" in retrain(capsys)[1]

    # An old champion: another seed, once in thirty days.
    later(29)
    assert "nothing new" in retrain(capsys)[1]
    later(31)
    code, err = retrain(capsys)
    assert code in (0, 1), err
    assert "champion is 31 days old, retrain.max_age_days is 30" in err
    assert trained(err)
    newest = versions()[-1]
    assert newest.tags["temper.recipe"] == versions()[known - 1].tags["temper.recipe"]
    assert newest.sha256 != versions()[known - 1].sha256


def test_a_configuration_without_a_registered_model_is_refused(here, capsys):
    here.write(registry=None)
    code, err = retrain(capsys)
    assert code == 2
    assert "registry: got nothing" in err
