"""A step: a Prefect task whose results are kept under everything they depend on.

A step's key is the sha256 of its name, its code, the libraries that compute, its settings and the
digests of its inputs; never a path, a time or a tensor. A step with a known key is not run again.
"""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import BaseModel
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hardening.data.types import metadata
from hardening.log import Checkpoint, Progress
from hardening.spec import Record
from tasks import console
from tasks.code import code_digest, library_versions, processor
from tasks.engines import Done, Work, elsewhere
from tasks.launch import PROCESSES, launch
from tasks.settings import cluster, store_uri
from tasks.slot import slot
from tasks.store import Artifact, Store, open_store

Outputs = Mapping[str, Artifact]
"""What a step leaves in the store, by name."""


class Located(Record):
    """Something on this machine's disk: found by its path, known by its digest."""

    path: str
    sha256: str


class Result(Protocol):
    """Something whose outputs can be waited for."""

    def result(self) -> Outputs:
        """Wait, and return the outputs."""


class Runner(Protocol):
    """Runs or plans a step: the flow is written once against this."""

    def __call__(self, step: "Step", label: str, /, *inputs: Any, **settings: Any) -> Result:
        """Start `step`; `label` is what a person reads."""


class Run:
    """What a step's function gets: the store to read from, and a log that can resume."""

    def __init__(
        self, store: Store, key: str, label: str, say: Callable[[str], None] = console.say
    ) -> None:
        self.store, self.key, self.label, self.say = store, key, label, say
        self.started = time.monotonic()
        self.earlier = 0.0
        self.last = ""
        self.choices: list[str] = []

    def read(self, artifact: Artifact) -> bytes:
        """The bytes of an input, checked against its digest."""
        return self.store.get(artifact)

    @property
    def seconds(self) -> float:
        """How long this step has worked, interrupted attempts up to their checkpoint included."""
        return self.earlier + time.monotonic() - self.started

    def line(self, text: str) -> None:
        """Say one thing that a reader of the log needs to know."""
        self.say(f"  {self.label}: {text}")

    def chose(self, text: str) -> None:
        """Say what was chosen for the user, and why, and keep it for the step's facts."""
        self.choices.append(text)
        self.line(text)

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Open a progress bar over `total` units."""
        title = self.label if self.label.endswith(what) else f"{self.label}: {what}"
        return console.progress(title, total, unit)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold this machine's slot for training; waiting for it is not working."""
        before = time.monotonic()
        with slot(self.line):
            self.started += time.monotonic() - before
            yield

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep an epoch's numbers: the last ones are told when the step is done."""
        self.last = " " + console.metrics_line(step, values)

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint under this step's key."""
        numbers = json.dumps({**checkpoint.numbers, "seconds": self.seconds})
        data = save_tensors(dict(checkpoint.tensors), {"numbers": numbers})
        self.store.save_checkpoint(self.key, data)

    def restore(self) -> Checkpoint | None:
        """The last checkpoint of this very step, if it was interrupted."""
        data = self.store.load_checkpoint(self.key)
        if data is None:
            return None
        numbers = json.loads(metadata(data)["numbers"])
        self.earlier = numbers.pop("seconds")
        self.line("resumes from its last checkpoint")
        return Checkpoint(load_tensors(data), numbers)


class Step:
    """A function `(run, *inputs, **settings) -> {name: bytes}` made into a cached Prefect task."""

    def __init__(self, function: Callable[..., dict[str, bytes]], machine: bool) -> None:
        self.function = function
        self.machine = machine
        self.name = function.__name__
        self.task = task(
            name=self.name, task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False
        )(self._run)

    def key(self, inputs: tuple[Any, ...], settings: Mapping[str, Any]) -> str:
        """What this step depends on, as one digest."""
        bound = inspect.signature(self.function).bind(None, *inputs, **settings)
        bound.apply_defaults()
        arguments = list(bound.arguments.items())[1:]  # the first one is the run itself
        content = {
            "schema": 1,
            "step": self.name,
            "code": code_digest(self.function.__module__),
            "libraries": library_versions(),
            "machine": processor() if self.machine else "",
            "arguments": {name: canonical(value) for name, value in arguments},
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def perform(self, work: Work, say: Callable[[str], None]) -> Done:
        """Do it in this process, or find it done; what it tells goes to `say`."""
        store, key = _store(work.store), self.key(work.inputs, work.settings)
        if (known := store.lookup(key)) is not None:
            return Done(known, "")
        run = Run(store, key, work.label, say)
        if work.settings.get(PROCESSES, 1) > 1:
            made, run.last = launch(work, key, say)
        else:
            made = self.function(run, *work.inputs, **work.settings)
        outputs = {name: store.put(data) for name, data in made.items()}
        store.record(key, outputs, {"step": self.name, "seconds": run.seconds})
        store.drop_checkpoint(key)
        return Done(outputs, f"done in {run.seconds:.1f} s{run.last}")

    def _run(self, label: str, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        work = Work(self.function.__module__, self.name, label, inputs, settings, store_uri())
        # What lies on this machine's disk is read here.
        if any(isinstance(given, Located) for given in inputs) or (where := cluster()) is None:
            done = self.perform(work, console.say)
        else:
            done = elsewhere(where, work)
        console.say(f"{label}: {done.told or 'cached'}")
        return done.outputs if done.told else Completed(name="Cached", data=done.outputs)


def step(function: Callable[..., dict[str, bytes]]) -> Step:
    """Make a step of a function; its result depends on its arguments and code alone."""
    return Step(function, machine=False)


def measured(function: Callable[..., dict[str, bytes]]) -> Step:
    """Make a step of a function that runs the file: what it finds holds for this processor."""
    return Step(function, machine=True)


def submit(step: Step, label: str, /, *inputs: Any, **settings: Any) -> Result:
    """The Runner of a flow: hands the step to the flow's task runner."""
    future: Result = step.task.submit(label, inputs, settings)
    return future


class Planned(Record):
    """A step as `temper check` shows it."""

    label: str
    step: str
    cached: bool
    settings: dict[str, Any]


class Plan:
    """A Runner that runs nothing: it looks up what is known and notes what would run."""

    def __init__(self) -> None:
        self.steps: list[Planned] = []

    def __call__(self, step: Step, label: str, /, *inputs: Any, **settings: Any) -> Result:
        """Note one step; its outputs are known only if it is cached."""
        known: Outputs | None = None
        if not _unknown(inputs) and not _unknown(settings):
            known = _store(store_uri()).lookup(step.key(inputs, settings))
        shown = {name: canonical(value) for name, value in settings.items() if not _unknown(value)}
        self.steps.append(
            Planned(label=label, step=step.name, cached=known is not None, settings=shown)
        )
        return _Looked(known)


class _Looked:
    def __init__(self, known: Outputs | None) -> None:
        self.known = known

    def result(self) -> Outputs:
        return self.known if self.known is not None else _Unknown()


class _Unknown(dict[str, Any]):
    """The outputs of a step that has not run: every name leads to something unknown.

    What two steps make is taken for two things.
    """

    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__  # type: ignore[assignment]

    def __missing__(self, name: str) -> "_Unknown":
        return self


def optional(outputs: Outputs, name: str, *, expected: bool) -> Artifact | None:
    """An output that a step may leave out, if it is there; before it has run, if it is expected."""
    if isinstance(outputs, _Unknown):
        return outputs[name] if expected else None
    return outputs.get(name)


def _unknown(value: Any) -> bool:
    if isinstance(value, _Unknown):
        return True
    if isinstance(value, Mapping):
        return any(_unknown(part) for part in value.values())
    return isinstance(value, tuple | list) and any(_unknown(part) for part in value)


def canonical(value: Any) -> Any:
    """Plain JSON that stands for `value` in a key: digests for what has one."""
    if isinstance(value, Artifact | Located):
        return {"sha256": value.sha256}
    if isinstance(value, BaseModel):
        return canonical(value.model_dump())
    if isinstance(value, Mapping):
        return {str(name): canonical(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [canonical(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"got a {type(value).__name__} in a step's key, expected plain data")


@cache
def _store(uri: str) -> Store:
    return open_store(uri)
