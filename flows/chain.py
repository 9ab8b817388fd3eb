"""The chain of steps from a configuration to a verdict, written once for running and planning.

1. load, check and split the dataset      4. export every model to ONNX
2. train the baseline or fetch it         5. attack every file, then time it
3. apply each candidate's defenses        6. put the evidence together, judge it, report it
"""

import platform
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from attacks.cost import cost
from attacks.profiles import PROFILES, labels
from defenses import DEFENSES
from defenses.declaration import declaration
from flows.config import Config
from hardening.evidence import Kind
from hardening.spec import Spec
from tasks.attack import attack_file, curve_file, inspect_file, measure_file
from tasks.code import library_versions, processor
from tasks.data import choose_images, load_data
from tasks.judge import assemble_run, collect_evidence, judge_run, write_report
from tasks.models import defend, export_file, fetch_weights, train_control
from tasks.step import Located, Outputs, Result, Runner
from tasks.store import Artifact

CONTROL_DUE: tuple[Kind, ...] = ("white-box", "gradient-free")

Role = Literal["control", "candidate", "champion"]


class Sources(NamedTuple):
    """What a run reads from outside, fetched and digested before anything starts."""

    data: Located
    weights: Located | None
    champion: Artifact | None


class Subject(NamedTuple):
    """One exported file under evaluation."""

    name: str
    role: Role
    defenses: tuple[Spec, ...]
    due: tuple[Kind, ...]
    onnx: Artifact
    parity: Artifact | None
    parent: Artifact | None
    costs: tuple[Artifact, ...]


class Finished(NamedTuple):
    """What a chain leaves in the store; `files` are the exported ones by name."""

    evidence: Artifact
    verdict: Artifact
    report: Artifact
    files: dict[str, Artifact]


def run_chain(config: Config, go: Runner, sources: Sources) -> Finished:
    """Do everything `config` asks for, step by step, with `go`; what is known is not redone."""
    data = _data(config, go, sources)
    images = go(
        choose_images,
        "choose images",
        data["test"],
        images=config.evaluation.images,
        seed=config.data.seed,
    ).result()
    subjects = _subjects(config, go, sources, data)
    measured = _measure(config, go, subjects, images["images"])
    return _conclude(config, go, sources, data, images, measured)


def attack_list(config: Config) -> tuple[Spec, ...]:
    """The attacks of the configuration: the user's own or its profile's."""
    own = config.evaluation.attacks
    return tuple(own) if own is not None else PROFILES[config.evaluation.profile]


def _data(config: Config, go: Runner, sources: Sources) -> Outputs:
    return go(
        load_data,
        "load data",
        sources.data,
        dataset=Spec(name=config.data.name, params=config.data.params),
        validation=config.data.validation,
        test=config.data.test,
        seed=config.data.seed,
    ).result()


def _subjects(config: Config, go: Runner, sources: Sources, data: Outputs) -> list[Subject]:
    """Train and export the control and every candidate; the champion comes as a file."""
    control = _control(config, go, sources, data)
    models = _harden(config, go, control, data)
    chains = {"control": (), **{name: tuple(specs) for name, specs in config.candidates.items()}}
    wanted = {*map(_id, chains.values()), *(_id(c[:-1]) for c in chains.values() if _quantized(c))}
    labels = {_id(chain): name for name, chain in reversed(chains.items())}
    exports = _all(
        (
            chain,
            go(export_file, _export_label(chain, labels), models[chain]["model"], data["training"]),
        )
        for chain in models
        if chain in wanted
    )
    subjects = []
    for name, chain in chains.items():
        made = exports[_id(chain)]
        subjects.append(
            Subject(
                name=name,
                role="control" if name == "control" else "candidate",
                defenses=chain,
                due=_due(chain),
                onnx=made["onnx"],
                parity=made["parity"],
                parent=exports[_id(chain[:-1])]["onnx"] if _quantized(chain) else None,
                costs=tuple(
                    models[_id(chain[:depth])]["facts"]
                    for depth in (range(1, len(chain) + 1) if chain else [0])
                ),
            )
        )
    if sources.champion is not None:
        subjects.append(
            Subject("champion", "champion", (), CONTROL_DUE, sources.champion, None, None, ())
        )
    return subjects


def _control(config: Config, go: Runner, sources: Sources, data: Outputs) -> Outputs:
    model = Spec(name=config.model.name, params=config.model.params)
    normalisation = {"mean": config.model.mean, "std": config.model.std}
    if sources.weights is not None:
        return go(
            fetch_weights,
            "fetch weights",
            data["training"],
            sources.weights,
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
                )
        models |= _all(started.items())
    return models


def _measure(
    config: Config, go: Runner, subjects: list[Subject], images: Artifact
) -> list[tuple[Subject, dict[str, Outputs]]]:
    """Attack every file, all at once if there are workers; time them afterwards, one by one."""
    started = [(subject, _attacks(config, go, subject, images)) for subject in subjects]
    done = [(subject, _all(results.items())) for subject, results in started]
    for subject, outputs in done:
        timed = go(measure_file, f"{subject.name}: latency", subject.onnx, images)
        outputs["latency"] = timed.result()
    return done


def _attacks(config: Config, go: Runner, subject: Subject, images: Artifact) -> dict[str, Result]:
    name, onnx = subject.name, subject.onnx
    started = {"seen": go(inspect_file, f"{name}: inspect", onnx, images)}
    attacks = attack_list(config)
    for row, attack in zip(labels(attacks), attacks, strict=True):
        # What needs no gradient asks the file itself; only gradients are worth carrying over.
        carried = subject.parent is not None and cost(attack, config.attack_threat).backwards > 0
        for parent in (None, subject.parent) if carried else (None,):
            title = row if parent is None else f"transfer-{row}"
            started[f"attack {title}"] = go(
                attack_file,
                f"{name}: {title}",
                onnx,
                parent,
                images,
                name=title,
                attack=attack,
                threat=config.attack_threat,
                seed=config.seed,
            )
    started["curve"] = go(
        curve_file,
        f"{name}: curve",
        onnx,
        images,
        threat=config.attack_threat,
        factors=config.evaluation.curve,
        seed=config.seed,
    )
    return started


def _conclude(
    config: Config,
    go: Runner,
    sources: Sources,
    data: Outputs,
    images: Outputs,
    measured: list[tuple[Subject, dict[str, Outputs]]],
) -> Finished:
    evidences = _all(
        (subject.name, _collect(config, go, subject, outputs, images["images"]))
        for subject, outputs in measured
    )
    evidence = go(
        assemble_run,
        "evidence",
        data["training"],
        data["test"],
        data["facts"],
        images["indices"],
        tuple(made["evidence"] for made in evidences.values()),
        name=config.name,
        seed=config.seed,
        config=_recorded(config, sources),
        threat=config.attack_threat,
        environment=environment(),
    ).result()["evidence"]
    verdict = go(judge_run, "verdict", evidence, gate=config.gate).result()["verdict"]
    adversarial = tuple(
        made["adversarial"]
        for _, outputs in measured
        for name, made in outputs.items()
        if name.startswith("attack ")
    )
    report = go(
        write_report, "report", evidence, verdict, images["images"], adversarial, gate=config.gate
    ).result()["report"]
    return Finished(evidence, verdict, report, {s.name: s.onnx for s, _ in measured})


def _collect(
    config: Config, go: Runner, subject: Subject, outputs: dict[str, Outputs], images: Artifact
) -> Result:
    attacks = [made for name, made in outputs.items() if name.startswith("attack ")]
    return go(
        collect_evidence,
        f"{subject.name}: evidence",
        images,
        outputs["seen"]["seen"],
        outputs["curve"]["falls_at"],
        outputs["latency"]["latency"],
        subject.parity,
        tuple(made["row"] for made in attacks),
        tuple(made["answers"] for made in attacks),
        subject.costs,
        name=subject.name,
        role=subject.role,
        defenses=list(subject.defenses),
        due=list(subject.due),
        threat=config.attack_threat,
        factors=config.evaluation.curve,
    )


def _recorded(config: Config, sources: Sources) -> dict[str, JsonValue]:
    """What evidence says of the configuration: digests for addresses, nothing of the gate."""
    hidden: dict[str, bool | set[str]] = {
        "gate": True,
        "registry": True,
        "data": {"path"},
        "model": {"weights"},
    }
    said: dict[str, JsonValue] = config.model_dump(mode="json", exclude=hidden)
    return said | {"weights_sha256": sources.weights.sha256 if sources.weights else None}


def environment() -> dict[str, str]:
    """What the numbers were measured with: libraries, interpreter, system and processor."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        **library_versions(),
    }


def _due(chain: tuple[Spec, ...]) -> tuple[Kind, ...]:
    """All kinds of attack that are due against a chain of defenses."""
    declared = (declaration(DEFENSES[spec.name]).due for spec in chain)
    return tuple(dict.fromkeys(kind for due in (CONTROL_DUE, *declared) for kind in due))


def _quantized(chain: tuple[Spec, ...]) -> bool:
    return bool(chain) and "transfer" in declaration(DEFENSES[chain[-1].name]).due


def _id(chain: tuple[Spec, ...]) -> str:
    return "/".join(spec.model_dump_json() for spec in chain)


def _export_label(chain: str, labels: dict[str, str]) -> str:
    return f"{labels[chain]}: export" if chain in labels else "float parent: export"


def _all(started: Iterable[tuple[str, Result]]) -> dict[str, Any]:
    """Wait for all: first every step is handed out, then the results are gathered."""
    return {name: result.result() for name, result in list(started)}
