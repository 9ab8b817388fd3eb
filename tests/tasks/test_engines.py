"""Steps on a cluster: what the environment may say, and what is refused before anything starts."""

import pickle
import sys

import pytest

from hardening.errors import ConfigError, DigestError, ServiceError
from hardening.spec import Spec
from tasks import engines
from tasks.data import choose_images, load_data
from tasks.engines import Work, perform
from tasks.settings import Cluster, cluster, step_gpus, workers
from tasks.step import Located
from tasks.store import Artifact, open_store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_STORE", tmp_path.as_uri())
    return open_store(tmp_path.as_uri())


@pytest.fixture
def pickled(monkeypatch):
    """An engine whose worker is this process; what goes there and back is pickled, as by any."""
    sent = []

    def call(address, function, *arguments):
        sent.append(address)
        return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))

    monkeypatch.setitem(engines.ENGINES, "dask", call)
    monkeypatch.setenv("TEMPER_RUNNER", "dask://there:1")
    return sent


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("threads", None),
        ("", None),
        ("dask://127.0.0.1:8786", Cluster("dask", "tcp://127.0.0.1:8786")),
        ("dask+tls://dask.example:8786", Cluster("dask", "tls://dask.example:8786")),
        ("ray://[::1]:10001", Cluster("ray", "ray://[::1]:10001")),
    ],
)
def test_the_environment_says_where_steps_run(monkeypatch, said, found):
    monkeypatch.setenv("TEMPER_RUNNER", said)
    assert cluster() == found
    assert workers() == (64 if found else 1)


@pytest.mark.parametrize(
    "said",
    ["ray", "dask", "slurm://a:1", "ray://a", "dask://a:0", "dask://a:70000", "dask://a:1/b"],
)
def test_what_is_no_address_is_refused(monkeypatch, said):
    monkeypatch.setenv("TEMPER_RUNNER", said)
    with pytest.raises(ConfigError, match=r"^TEMPER_RUNNER: got .*, expected threads, dask://HOST"):
        cluster()


@pytest.mark.parametrize("said", ["-1", "one", "nan", "1e3"])
def test_a_number_of_gpus_is_a_number(monkeypatch, said):
    monkeypatch.setenv("TEMPER_STEP_GPUS", said)
    with pytest.raises(ConfigError, match=r"^TEMPER_STEP_GPUS: got"):
        step_gpus()


@pytest.mark.parametrize(("engine", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_is_named(monkeypatch, store, engine, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("TEMPER_RUNNER", f"{engine}://127.0.0.1:1")
    with pytest.raises(ConfigError, match=rf"pip install 'temper-hardening\[{engine}\]'$"):
        engines.check()


def test_a_cluster_that_does_not_answer_costs_seconds(monkeypatch, store):
    pytest.importorskip("distributed")
    monkeypatch.setattr(engines, "PATIENCE", 1)
    monkeypatch.setenv("TEMPER_RUNNER", "dask://127.0.0.1:1")
    with pytest.raises(ServiceError, match=r"^TEMPER_RUNNER: tcp://127.0.0.1:1 does not answer"):
        engines.check()


def test_a_worker_with_other_code_or_libraries_does_nothing(store):
    work = Work(choose_images.function.__module__, "choose_images", "x", (), {}, store.uri)
    mine = engines._likeness(work.module)
    for other, said in [
        (mine._replace(code="0" * 64), "has other code of tasks.data"),
        (mine._replace(libraries={"torch": "1.0"}), "has torch .*, expected 1.0 as here"),
    ]:
        with pytest.raises(ServiceError, match=said):
            perform(work, other)


def test_a_worker_that_sees_another_store_is_refused(tmp_path, store):
    probe = store.put(b"temper")
    mine = engines._likeness(engines.__name__)
    engines.find(store.uri, probe, mine)
    with pytest.raises(ServiceError, match=r"^TEMPER_STORE: got .*, expected a folder that all"):
        engines.find((tmp_path / "other").as_uri(), probe, mine)


def test_what_a_step_raises_there_is_raised_here(pickled, store):
    lost = Artifact(uri=f"{store.uri}/x", sha256="0" * 64, size=1)
    with pytest.raises(DigestError, match=r"is missing, expected 1 B$"):
        choose_images._run("choose", (lost,), {"images": 3, "seed": 0})
    assert pickled == ["tcp://there:1"]


def test_what_lies_on_this_machine_is_read_here(pickled, store):
    """The rest is done there, with the same outputs, and known there the next time."""
    how = {"dataset": Spec(name="digits"), "validation": 0.1, "test": 0.2, "seed": 0}
    loaded = load_data._run("load", (Located(path="", sha256=""),), how)
    assert not pickled
    chosen = choose_images._run("choose", (loaded["test"],), {"images": 9, "seed": 0})
    again = choose_images._run("choose", (loaded["test"],), {"images": 9, "seed": 0})
    assert len(pickled) == 2
    assert again.name == "Cached"
    assert again.data == chosen
