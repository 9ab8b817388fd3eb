"""Clusters that run steps: the engine's own tasks, each of which a thread of this process awaits.

A Prefect task in a remote worker costs 100 ms and needs the Prefect API there; the engine's own
costs a few. So the flow's tasks stay here, as threads that wait, and the engine does their work.
A step is a pure function of its key and leaves its outputs in the store: workers need the same
code and the same store, nothing else, and a step whose worker is lost runs again on another.
"""

import importlib
import logging
import socket
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import cache
from typing import Any, NamedTuple

import torch

from hardening.errors import ConfigError, DigestError, ServiceError
from tasks import settings
from tasks.code import code_digest, library_versions
from tasks.console import say
from tasks.store import Artifact, open_store

LOSSES = 3
"""Times that a step may lose its worker before it is given up; Dask's own limit is the same."""

PATIENCE = 20
"""Seconds that a cluster may take to answer."""


class Work(NamedTuple):
    """A step to be done: where its function is, its arguments, and the store for its outputs."""

    module: str
    name: str
    label: str
    inputs: tuple[Any, ...]
    settings: dict[str, Any]
    store: str


class Done(NamedTuple):
    """What a step left in the store; `told` is empty if it was known already."""

    outputs: Mapping[str, Artifact]
    told: str


class Likeness(NamedTuple):
    """What a worker must share with the process that asks it, for the same bits."""

    code: str
    libraries: dict[str, str]
    threads: int


def elsewhere(where: settings.Cluster, work: Work) -> Done:
    """Have `work` done by a worker of the cluster, and say here what it said there.

    Raises:
        ServiceError: Its workers were lost again and again, or the cluster itself was.
        HardeningError: What the step raised.
    """
    done, lines = ENGINES[where.engine](where.address, perform, work, _likeness(work.module))
    for line in lines:
        say(line)
    return Done(*done)


def check() -> None:
    """Ask the cluster of the environment, if there is one, whether it can do what comes.

    Raises:
        ConfigError: Its engine is not installed here, or it has nothing as large as a step asks.
        ServiceError: It does not answer, has other code, or does not see the store.
    """
    where = settings.cluster()
    if where is None:
        return
    store = open_store(settings.store_uri())
    probe = store.put(b"temper")
    ENGINES[where.engine](where.address, find, store.uri, probe, _likeness(__name__))


def perform(work: Work, likeness: Likeness) -> tuple[Done, list[str]]:
    """On a worker: do one step as the process that asks would; also the lines that it said."""
    _become(work.module, likeness)
    lines: list[str] = []
    step = getattr(importlib.import_module(work.module), work.name)
    return step.perform(work, lines.append), lines


def find(store: str, probe: Artifact, likeness: Likeness) -> None:
    """On a worker: read what the process that asks has put into the store.

    Raises:
        ServiceError: It is not there.
    """
    _become(__name__, likeness)
    try:
        open_store(store).get(probe)
    except DigestError as error:
        raise ServiceError(
            f"{settings.STORE}: got {store}, which is another one on worker {_host()}, expected a "
            "folder that all machines share, or s3://bucket/prefix"
        ) from error


def _likeness(module: str) -> Likeness:
    return Likeness(code_digest(module), library_versions(), torch.get_num_threads())


def _become(module: str, wanted: Likeness) -> None:
    """Compute as the process that asks does, to the bit, or refuse."""
    got = _likeness(module)
    if got.code != wanted.code:
        raise ServiceError(
            f"{settings.RUNNER}: worker {_host()} has other code of {module}, expected the same "
            "as here: install it there and restart the worker"
        )
    for name, version in wanted.libraries.items():
        if got.libraries.get(name) != version:
            raise ServiceError(
                f"{settings.RUNNER}: worker {_host()} has {name} {got.libraries.get(name)}, "
                f"expected {version} as here"
            )
    torch.set_num_threads(wanted.threads)


def _host() -> str:
    return socket.gethostname()


def _on_dask(address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    client, gpus = _dask(address), settings.step_gpus()
    from distributed import KilledWorker  # noqa: PLC0415
    from distributed.comm.core import CommClosedError  # noqa: PLC0415

    resources = {"GPU": gpus} if gpus else None
    future = client.submit(function, *arguments, pure=False, resources=resources)
    try:
        return future.result()
    except (KilledWorker, CancelledError, CommClosedError) as error:
        raise _lost(address, error) from error


@cache
def _dask(address: str) -> Any:
    """A connection that lasts as long as this process; it has what a step asks for."""
    try:
        from distributed import Client  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing("dask", error) from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    gpus = [worker["resources"].get("GPU", 0.0) for worker in workers]
    _enough(address, [float(worker["nthreads"]) for worker in workers], 1.0, gpus)
    return client


def _on_ray(address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    ray, asked = _ray(address), torch.get_num_threads()
    remote = ray.remote(num_cpus=asked, num_gpus=settings.step_gpus(), max_retries=LOSSES)
    try:
        return ray.get(remote(function).remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        # Its text is a remote traceback; the cause is the step's own error, one line.
        raise error.cause from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise _lost(address, error) from error


@cache
def _ray(address: str) -> Any:
    """Ray itself, connected for as long as this process lasts; it has what a step asks for."""
    try:
        import ray  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing("ray", error) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns of what it then raises
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(address, error) from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = [node.get("GPU", 0.0) for node in nodes]
    _enough(address, cpus, float(torch.get_num_threads()), gpus)
    return ray


def _enough(address: str, cpus: list[float], asked: float, gpus: list[float]) -> None:
    """A step that asks for more than any worker has would wait for ever."""
    if not cpus:
        raise ServiceError(f"{settings.RUNNER}: {address} has no workers, expected at least one")
    if asked > max(cpus):
        raise ConfigError(
            f"OMP_NUM_THREADS: got {asked:g} threads a step here, expected at most {max(cpus):g}, "
            f"the processors of the largest node of {address}"
        )
    if settings.step_gpus() > max(gpus):
        raise ConfigError(
            f"{settings.STEP_GPUS}: got {settings.step_gpus():g}, expected at most {max(gpus):g}, "
            f"what a worker of {address} has"
        )


def _missing(engine: str, error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(
        f"{settings.RUNNER}: {error.name} is not installed, expected "
        f"pip install 'temper-hardening[{engine}]'"
    )


def _unreachable(address: str, error: Exception) -> ServiceError:
    why = str(error).strip().splitlines() or [type(error).__name__]
    return ServiceError(f"{settings.RUNNER}: {address} does not answer ({why[0]})")


def _lost(address: str, error: BaseException) -> ServiceError:
    why = str(error).strip().splitlines() or [type(error).__name__]
    return ServiceError(f"{settings.RUNNER}: {address} lost a step with its worker ({why[0]})")


ENGINES: dict[str, Callable[..., Any]] = {"dask": _on_dask, "ray": _on_ray}
