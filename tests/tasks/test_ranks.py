"""Several processes train one model: they do what one does, and end when one of them does."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from defenses.scores import clean_accuracy, robust_accuracy
from flows.config import Config
from flows.validate import ALONE, validate
from hardening.data import TrainingData
from hardening.errors import BrokenPromise, ConfigError
from hardening.spec import Spec
from hardening.threat import ThreatModel
from tasks.data import load_data
from tasks.models import defend, restore, train_control
from tasks.settings import train_processes
from tasks.step import Located
from tasks.store import open_store

THREAT = ThreatModel(norm="linf", eps=0.1)

CLOSE = 0.04
"""Accuracy on 144 validation images: 6 of them. Random starts differ, all else is the same."""


class Workshop:
    """Digits in a store, and the steps that train on them."""

    def __init__(self, uri):
        self.store = open_store(uri)
        source, shares = Located(path="", sha256=""), {"validation": 0.1, "test": 0.2}
        how = {"dataset": Spec(name="digits"), **shares, "seed": 0}
        self.training = load_data._run("load", (source,), how)["training"]
        self.images = TrainingData.from_bytes(self.store.get(self.training)).validation

    def control(self, processes, **options):
        settings = {
            "model": Spec(name="small_cnn", params={"width": 8}),
            "mean": None,
            "std": None,
            "training_options": {"epochs": 2, "batch_size": 64, **options},
            "seed": 0,
        }
        return self._made(train_control, (self.training,), settings, processes)

    def defended(self, processes, name="adversarial_training", **params):
        settings = {"defense": Spec(name=name, params=params), "threat": THREAT, "seed": 0}
        return self._made(defend, (self.control(1), self.training), settings, processes)

    def model(self, artifact):
        return restore(self.store.get(artifact))

    def _made(self, step, inputs, settings, processes):
        done = step._run(f"{step.name} {processes}", inputs, {**settings, "processes": processes})
        return getattr(done, "data", done)["model"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    uri = tmp_path_factory.mktemp("store").as_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_STORE", uri)
        yield Workshop(uri)


def test_how_many_processes_train_is_a_number(monkeypatch):
    monkeypatch.setenv("TEMPER_TRAIN_PROCESSES", "two")
    with pytest.raises(ConfigError, match=r"^TEMPER_TRAIN_PROCESSES: got 'two', expected a pos"):
        train_processes()


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_shared_is_refused_before_anything_starts(monkeypatch, name):
    config = Config(
        name="x",
        data={"name": "digits"},
        model={"name": "small_cnn"},
        threat={"norm": "linf", "eps": 0.1},
        candidates={"one": [{"name": name}]},
    )
    validate(config)
    monkeypatch.setenv("TEMPER_TRAIN_PROCESSES", "2")
    with pytest.raises(ConfigError, match=rf"^candidates.one.0: got {name} with TEMPER_TRAIN_PRO"):
        validate(config)


@pytest.mark.slow
def test_two_processes_train_what_one_does_in_two_parts_to_the_bit(workshop):
    """Batches whole, gradients the mean of both parts; the last batch of 14 in parts of 7."""
    one = workshop.model(workshop.control(1, accumulate=2))
    two = workshop.model(workshop.control(2))
    less = workshop.model(workshop.control(1, epochs=1))
    assert _same(one, two)
    assert not _same(one, less)


@pytest.mark.slow
def test_two_processes_harden_as_one_does(workshop):
    accuracies = []
    for processes in (1, 2):
        hardened = workshop.model(
            workshop.defended(processes, steps=5, epochs=8, batch_size=64, learning_rate=1e-2)
        )
        robust = robust_accuracy(THREAT, torch.Generator().manual_seed(1))
        accuracies.append([score(hardened, workshop.images) for score in (clean_accuracy, robust)])
    one, two = accuracies
    assert one[1] > 0.6
    assert two == pytest.approx(one, abs=CLOSE)


@pytest.mark.slow
def test_what_one_process_raises_ends_the_training_in_one_line(workshop):
    with pytest.raises(ConfigError, match=r"^training: got 2 processes, expected 1 for a defense"):
        workshop.defended(2, name="free", epochs=1, batch_size=64)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_training_and_leaves_no_other(workshop):
    killed = []

    def kill_one():
        while not killed:
            time.sleep(0.2)
            killed.extend(_members()[1:])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(BrokenPromise, match=r"^defend 2: one of 2 processes ended \("):
        workshop.defended(2, epochs=200)
    killer.join()
    assert not _members()


def _same(one, two):
    return all(map(torch.equal, one.parameters(), two.parameters()))


def _members():
    """Processes of this test's own trainings, the oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"tasks.ranks" in words and b"torch.distributed.run" not in words:
            found.append(int(path.parent.name))
    return sorted(found)
