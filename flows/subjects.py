"""The exported files that a run evaluates: the control, every candidate, the reigning champion."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

from defenses import DEFENSES
from defenses.declaration import declaration
from flows.config import Config
from hardening.evidence import Kind
from hardening.spec import Spec, resolve
from tasks.models import defend, export_file, fetch_onnx, fetch_weights, train_control
from tasks.settings import train_processes
from tasks.step import Located, Outputs, Result, Runner
from tasks.store import Artifact

CONTROL_DUE: tuple[Kind, ...] = ("white-box", "gradient-free")

Key = TypeVar("Key", bound=Hashable)

Role = Literal["control", "candidate", "champion"]


class Sources(NamedTuple):
    """What a run reads from outside, fetched and digested before anything starts.

    `int8` are the roles of the ONNX files among it whose activations are rounded, `due` the attacks
    that are due against them because of the defenses that they were made with.
    """

    data: Located
    model: Located | None
    champion: Artifact | None
    int8: frozenset[Role] = frozenset()
    due: Mapping[Role, tuple[Kind, ...]] = MappingProxyType({})


class Subject(NamedTuple):
    """One exported file under evaluation, or a model that does not survive export and why.

    `parent` is the float file that it was quantized from, or else derived from, where the run made
    it; if it was `trained` afterwards, that one has other weights, less hard ones. `float_form` is
    made of an int8 file itself where no file with its weights is known otherwise. `module` is what
    the file was exported from; a user's file and a champion are their own.
    """

    name: str
    role: Role
    defenses: tuple[Spec, ...]
    due: tuple[Kind, ...]
    onnx: Artifact
    parity: Artifact | None
    parent: Artifact | None
    costs: tuple[Artifact, ...]
    trained: bool = False
    ships: str = ""
    module: Artifact | None = None
    expected_int8: bool = False
    """What a file that was brought says before it is inspected."""
    float_form: Artifact | None = None

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """The float files that lead attacks from its parent; what it was made from comes first."""
        return tuple(file for file in (self.parent, self.float_form) if file is not None)

    @property
    def same_weights(self) -> Artifact | None:
        """The float file with its weights, which it should not be harder than."""
        known = self.parent if not self.trained else None
        return known or self.float_form


def find_subjects(config: Config, go: Runner, sources: Sources, data: Outputs) -> list[Subject]:
    """Train and export the control and every candidate; the champion comes as a file."""
    control = _control(config, go, sources, data)
    models = _harden(config, go, control, data)
    chains = {"control": (), **{name: tuple(specs) for name, specs in config.candidates.items()}}
    wanted = {*map(_id, chains.values()), *(_id(c[:-1]) for c in chains.values() if _derived(c))}
    wanted -= {_id(chain) for chain in chains.values() if unshipped(chain)}
    labels = {_id(chain): name for name, chain in reversed(chains.items())}
    exports = gather(
        (
            chain,
            go(export_file, _export_label(chain, labels), models[chain]["model"], data["training"]),
        )
        for chain in models
        if chain in wanted and not (chain == _id(()) and config.model.onnx)
    )
    if config.model.onnx:
        # What a user brings is evaluated byte for byte; there is no other form to compare it with.
        exports[_id(())] = {"onnx": control["model"], "parity": None}
    for chain in chains.values():
        if unshipped(chain):
            exports[_id(chain)] = {"onnx": models[_id(chain)]["model"], "parity": None}
    subjects = []
    for name, chain in chains.items():
        made = exports[_id(chain)]
        subjects.append(
            Subject(
                name=name,
                role="control" if name == "control" else "candidate",
                defenses=chain,
                due=_due(chain, sources.due.get("control", ())),
                onnx=made["onnx"],
                parity=made["parity"],
                parent=exports[_id(chain[:-1])]["onnx"] if _derived(chain) else None,
                costs=tuple(
                    models[_id(chain[:depth])]["facts"]
                    for depth in (range(1, len(chain) + 1) if chain else [0])
                ),
                trained=_derived(chain) and _trains(chain[-1]),
                ships=unshipped(chain),
                module=models[_id(chain)]["model"],
            )
        )
    if sources.champion is not None:
        owed = sources.due.get("champion", ())
        subjects.append(_champion(sources.champion, owed, subjects))
    # What is made of an int8 file is one.
    origin = {"candidate": "control"}
    return [s._replace(expected_int8=origin.get(s.role, s.role) in sources.int8) for s in subjects]


def _champion(file: Artifact, owed: tuple[Kind, ...], subjects: list[Subject]) -> Subject:
    """The reigning file; one that this run makes again is attacked as that one is."""
    same = next((made for made in subjects if made.onnx == file), None)
    due, parent = (same.due, same.parent) if same else (_due((), owed), None)
    trained = same is not None and same.trained
    return Subject(
        "champion", "champion", (), due, file, None, parent, (), trained=trained, module=file
    )


def _control(config: Config, go: Runner, sources: Sources, data: Outputs) -> Outputs:
    if config.model.onnx is not None:
        return go(
            fetch_onnx,
            "fetch ONNX file",
            data["training"],
            sources.model,
            contract=config.model.contract,
        ).result()
    model = Spec(name=str(config.model.name), params=config.model.params)
    normalisation = {"mean": config.model.mean, "std": config.model.std}
    if sources.model is not None:
        return go(
            fetch_weights,
            "fetch weights",
            data["training"],
            sources.model,
            model=model,
            **normalisation,
        ).result()
    return go(
        train_control,
        "train control",
        data["training"],
        model=model,
        training_options=config.training or {},
        seed=config.seed,
        processes=train_processes(),
        **normalisation,
    ).result()


def _harden(config: Config, go: Runner, control: Outputs, data: Outputs) -> dict[str, Outputs]:
    """The model after every prefix of every candidate's defenses; shared prefixes run once."""
    models = {_id(()): control}
    chains = {name: tuple(specs) for name, specs in config.candidates.items()}
    for depth in range(1, max(map(len, chains.values()), default=0) + 1):
        started = {}
        for name, chain in chains.items():
            if len(chain) >= depth and _id(chain[:depth]) not in started:
                started[_id(chain[:depth])] = go(
                    defend,
                    f"{name}: {chain[depth - 1].name}",
                    models[_id(chain[: depth - 1])]["model"],
                    data["training"],
                    defense=chain[depth - 1],
                    threat=config.threat,
                    seed=config.seed,
                    processes=train_processes() if _trains(chain[depth - 1]) else 1,
                )
        models |= gather(started.items())
    return models


def _due(chain: tuple[Spec, ...], owed: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """All kinds of attack that are due against a chain of defenses, on a file that owes some."""
    declared = (declaration(DEFENSES[spec.name]).due for spec in chain)
    return tuple(dict.fromkeys(kind for due in (CONTROL_DUE, owed, *declared) for kind in due))


def unshipped(chain: Sequence[Spec]) -> str:
    """Why a chain's model does not survive export; empty when it does."""
    return declaration(DEFENSES[chain[-1].name]).ships if chain else ""


def _derived(chain: tuple[Spec, ...]) -> bool:
    """Whether the file of the chain without its last defense leads attacks on it, as a parent."""
    quantized = bool(chain) and "differential" in declaration(DEFENSES[chain[-1].name]).due
    return quantized or bool(unshipped(chain))


def _trains(spec: Spec) -> bool:
    function = DEFENSES[spec.name]
    return declaration(function).passes(resolve(function, spec.params)) > 0


def _id(chain: tuple[Spec, ...]) -> str:
    return "/".join(spec.model_dump_json() for spec in chain)


def _export_label(chain: str, labels: dict[str, str]) -> str:
    return f"{labels[chain]}: export" if chain in labels else "float parent: export"


def gather(started: Iterable[tuple[Key, Result]]) -> dict[Key, Any]:
    """Wait for all: first every step is handed out, then the results are gathered."""
    return {name: result.result() for name, result in list(started)}
