"""The real command, as a user starts it, on a configuration that takes seconds."""

import copy
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from flows.__main__ import main
from flows.chain import load as load_dataset
from flows.chain import run_chain
from flows.config import load
from flows.sources import find_data, find_sources
from flows.subjects import Sources, find_subjects
from flows.validate import validate
from hardening.evidence import RunEvidence
from hardening.log import Silent
from hardening.verdict import Gate, judge
from tasks.server import begin
from tasks.settings import store_uri
from tasks.store import open_store

TEMPER = Path(sys.executable).with_name("temper")

TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"name": "small_cnn", "params": {"width": 8}},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": {"epochs": 4, "batch_size": 64},
    "evaluation": {
        "images": 60,
        "curve": [0.5, 2],
        "attacks": [
            {"name": "apgd", "params": {"steps": 20, "loss": "ce"}},
            {"name": "apgd", "params": {"steps": 20, "loss": "dlr"}},
            {"name": "transfer", "params": {"steps": 10}, "source": "parent"},
            {"name": "diva", "params": {"steps": 20}, "source": "parent"},
            {"name": "square", "params": {"queries": 100}},
        ],
    },
    "candidates": {
        "tuned": [{"name": "n_fgsm", "params": {"epochs": 4, "batch_size": 64}}],
        "tuned-int8": [
            {"name": "n_fgsm", "params": {"epochs": 4, "batch_size": 64}},
            {"name": "quantization", "params": {"calibration_images": 64}},
        ],
    },
    "gate": {"clean_accuracy": 0.5, "robust_accuracy": 0.01, "max_alarms": 9},
    "registry": {"name": "tiny"},
}


OTHERS = ("PREFECT_", "MLFLOW_", "TEMPER_", "AWS_", "DO_NOT_TRACK")


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def cached(self):
        return {line.removesuffix(": cached") for line in self.err.splitlines() if "cached" in line}

    @property
    def ran(self):
        return {line.split(": done in")[0] for line in self.err.splitlines() if ": done in" in line}


class Place:
    """A folder in which `temper` is used: its home, its runs, its configurations."""

    def __init__(self, root):
        self.root = root
        # What other tests set in this process is not what a user has.
        self.env = {n: v for n, v in os.environ.items() if not n.startswith(OTHERS)}
        self.env |= {
            "TEMPER_HOME": str(root / "home"),
            "TEMPER_SERVER_LINGER": "5",
            "OMP_NUM_THREADS": "1",
        }

    def write(self, **changes):
        """A configuration like TINY; `a__b=c` changes key b of a; None removes a key."""
        content = copy.deepcopy(TINY)
        for path, value in changes.items():
            *parents, last = path.split("__")
            inner = content
            for name in parents:
                inner = inner.setdefault(name, {})
            if value is None:
                inner.pop(last)
            else:
                inner[last] = value
        (self.root / "run.yaml").write_text(yaml.safe_dump(content))
        return "run.yaml"

    def start(self, *arguments):
        return subprocess.Popen(
            [TEMPER, *arguments],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def temper(self, *arguments):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return Done(process.returncode, out, err)

    @contextmanager
    def inside(self):
        """This process as one that was started here; afterwards it is as it was."""
        before = os.environ.copy()
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(OTHERS)]:
                del os.environ[name]
            os.environ.update(self.env)
            patch.chdir(self.root)
            try:
                yield
            finally:
                os.environ.clear()
                os.environ.update(before)

    def main(self, capsys, *arguments):
        """The command in this process: seconds quicker, as everything is imported."""
        capsys.readouterr()
        with self.inside():
            return Done(main([*arguments]), *capsys.readouterr())

    def evidence(self, name="tiny"):
        return json.loads((self.root / "runs" / name / "latest" / "evidence.json").read_text())

    def runs(self, name="tiny"):
        folder = self.root / "runs" / name
        return sorted(p.name for p in folder.iterdir() if p.name != "latest")


class Now:
    """A Runner that does every step at once, without Prefect; `outputs` are what each left."""

    def __init__(self):
        self.outputs = {}

    def __call__(self, step, label, /, *inputs, **settings):
        made = Made(step._run(label, inputs, settings))
        self.outputs[label] = made.outputs
        return made


class Made:
    def __init__(self, outputs):
        self.outputs = getattr(outputs, "data", outputs)

    def result(self):
        return self.outputs


@pytest.fixture
def now():
    return Now()


class Judged(NamedTuple):
    """What a chain left: its evidence, the files as they were attacked, the report's page."""

    evidence: bytes
    run: RunEvidence
    files: dict
    page: str

    def verdict(self, **limits):
        return judge(self.run, Gate(**limits))


@pytest.fixture
def chain(now, monkeypatch):
    """Runs the chain of a configuration in a home, perhaps with the bytes of a champion."""

    def run(config, home, champion=None):
        monkeypatch.setenv("TEMPER_HOME", str(home))
        validate(config)
        store = open_store(store_uri())
        sources = find_sources(config, store, Silent())
        if champion is not None:
            sources = sources._replace(champion=store.put(champion))
        made = run_chain(config, now, sources)
        evidence = store.get(made.evidence)
        run = RunEvidence.model_validate_json(evidence)
        files = {name: store.get(artifact) for name, artifact in made.files.items()}
        return Judged(evidence, run, files, store.get(made.report).decode())

    return run


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def first(place):
    """The first run of the tiny configuration, from nothing."""
    return place.temper("harden", place.write())


@pytest.fixture(scope="module")
def own_place(tmp_path_factory):
    """A place that the tests of one file share."""
    return Place(tmp_path_factory.mktemp("own"))


@pytest.fixture
def elsewhere(tmp_path):
    """A place where nothing has run."""
    return Place(tmp_path)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory):
    """The folder of a Prefect server that the places of several files share."""
    folder = tmp_path_factory.mktemp("prefect").resolve()
    yield folder
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is not ours
            if Path(os.readlink(process / "cwd")) == folder:
                os.kill(int(process.name), signal.SIGTERM)


@pytest.fixture(scope="module")
def here(own_place, prefect):
    """The module's place as this process's own, with a Prefect API that runs until the end."""
    home = own_place.root / "home"
    home.mkdir()
    (home / "prefect").symlink_to(prefect)
    own_place.env["TEMPER_SERVER_LINGER"] = "60"  # so that the next file finds it warm
    with own_place.inside(), begin() as api:
        api.wait()
        yield own_place


@pytest.fixture(scope="module")
def trained(here):
    """Makes an ONNX file: the control of the tiny configuration, trained from a seed."""

    def make(seed):
        config = load(here.write(seed=seed, training={"epochs": 2}, candidates=None, registry=None))
        go, located = Now(), find_data(config, Silent())
        data = load_dataset(config, go, located)
        (control,) = find_subjects(config, go, Sources(located, None, None), data)
        return open_store(store_uri()).get(control.onnx)

    return make
