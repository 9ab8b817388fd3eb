"""The chain of steps from a configuration to a verdict, written once for running and planning.

1. load, check and split the dataset      4. export every model to ONNX
2. train the baseline or fetch it         5. attack every file, then time it
3. apply each candidate's defenses        6. put the evidence together, judge it, report it
"""

import platform
from typing import NamedTuple

from pydantic import JsonValue

from attacks.cost import cost
from attacks.profiles import PROFILES, labels
from flows.config import Config
from flows.subjects import Sources, Subject, find_subjects, gather
from hardening.spec import Spec
from tasks.attack import attack_file, curve_file, inspect_file, measure_file
from tasks.code import library_versions, processor
from tasks.data import choose_images, load_data
from tasks.judge import assemble_run, collect_evidence, judge_run, write_report
from tasks.step import Outputs, Result, Runner
from tasks.store import Artifact


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
    subjects = find_subjects(config, go, sources, data)
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


def _measure(
    config: Config, go: Runner, subjects: list[Subject], images: Artifact
) -> list[tuple[Subject, dict[str, Outputs]]]:
    """Attack every file, all at once if there are workers; time them afterwards, one by one."""
    started = [(subject, _attacks(config, go, subject, images)) for subject in subjects]
    done = [(subject, gather(results.items())) for subject, results in started]
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
    evidences = gather(
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
