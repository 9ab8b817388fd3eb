"""The chain of steps from a configuration to a verdict, written once for running and planning.

1. load, check and split the dataset      4. export every model to ONNX
2. train the baseline or fetch it         5. attack every file, and measure it
3. apply each candidate's defenses        6. put the evidence together, judge it, report it
"""

import platform
from typing import NamedTuple

from pydantic import JsonValue

from flows.config import Config
from flows.declarations import declared, training_passes
from flows.measure import Campaign, Measured, measure
from flows.subjects import Sources, find_subjects, gather
from hardening.spec import Spec
from tasks.code import library_versions, processor
from tasks.collect import collect_evidence
from tasks.data import choose_images, load_data
from tasks.judge import assemble_run, judge_run, write_report
from tasks.step import Located, Outputs, Result, Runner
from tasks.store import Artifact


class Finished(NamedTuple):
    """What a chain leaves in the store: `files` as exported and `parents` of quantized ones.

    A model that does not survive export leaves no file: the one without its last defense is
    another model, with other numbers, and a candidate of its own where it is wanted.
    """

    evidence: Artifact
    verdict: Artifact
    report: Artifact
    catalogue: Artifact | None
    files: dict[str, Artifact]
    parents: dict[str, Artifact]


def run_chain(config: Config, go: Runner, sources: Sources) -> Finished:
    """Do everything `config` asks for, step by step, with `go`; what is known is not redone."""
    data = load(config, go, sources.data)
    images = go(
        choose_images,
        "choose images",
        data["test"],
        images=config.evaluation.images,
        seed=config.data.seed,
    ).result()
    subjects = find_subjects(config, go, sources, data)
    campaign = measure(config, go, subjects, images["images"])
    return _conclude(config, go, sources, data, images, campaign)


def load(config: Config, go: Runner, source: Located) -> Outputs:
    """The dataset, checked and split."""
    return go(
        load_data,
        "load data",
        source,
        dataset=Spec(name=config.data.name, params=config.data.params),
        validation=config.data.validation,
        test=config.data.test,
        seed=config.data.seed,
    ).result()


def _conclude(
    config: Config,
    go: Runner,
    sources: Sources,
    data: Outputs,
    images: Outputs,
    campaign: Campaign,
) -> Finished:
    measured = campaign.measured
    evidences = gather(
        (file.subject.name, _collect(config, go, file, images["images"])) for file in measured
    )
    evidence = go(
        assemble_run,
        "evidence",
        data["training"],
        data["test"],
        data["facts"],
        images["indices"],
        campaign.decision,
        tuple(made["evidence"] for made in evidences.values()),
        name=config.name,
        seed=config.seed,
        config=recorded(config, sources.model),
        threat=config.attack_threat,
        environment=environment(),
    ).result()["evidence"]
    verdict = go(judge_run, "verdict", evidence, gate=config.gate).result()["verdict"]
    adversarial = tuple(
        made["adversarial"] for file in measured for parts in file.attacks for made in parts
    )
    written = go(
        write_report, "report", evidence, verdict, images["images"], adversarial, gate=config.gate
    ).result()
    subjects = [file.subject for file in measured if not file.subject.ships]
    return Finished(
        evidence,
        verdict,
        written["report"],
        written.get("catalogue"),
        {subject.name: subject.onnx for subject in subjects},
        {subject.name: subject.parent for subject in subjects if subject.parent is not None},
    )


def _collect(config: Config, go: Runner, file: Measured, images: Artifact) -> Result:
    subject = file.subject
    return go(
        collect_evidence,
        f"{subject.name}: evidence",
        images,
        file.seen["seen"],
        file.parent_no_twin,
        tuple(tuple(parts) for parts in file.attacks),
        tuple(curve["falls_at"] for curve in file.curves),
        file.nearest,
        file.alarms,
        tuple(made["survey"] for made in file.surveys),
        tuple(made["certificate"] for made in file.certificates),
        tuple(made["naive"] for made in file.naive),
        file.cost["measured"],
        subject.parity,
        subject.costs,
        name=subject.name,
        role=subject.role,
        defenses=list(subject.defenses),
        declared=declared(subject.defenses),
        passes=training_passes(config, subject),
        due=list(subject.due),
        parent_known=subject.same_weights not in (None, subject.float_form),
        ships=subject.ships,
        threat=config.attack_threat,
        factors=config.evaluation.curve,
        limits=config.evaluation.limits,
        statements=config.evaluation.statements,
    )


def recorded(config: Config, model: Located | None) -> dict[str, JsonValue]:
    """What evidence says of a configuration: what the numbers come from, digests for addresses."""
    hidden: dict[str, bool | set[str]] = {
        "gate": True,
        "registry": True,
        "intake": True,
        "retrain": True,
        "data": {"path"},
        "model": {"weights", "onnx"},
    }
    said: dict[str, JsonValue] = config.model_dump(mode="json", exclude=hidden)
    return said | {"model_sha256": model.sha256 if model else None}


def environment() -> dict[str, str]:
    """What the numbers were measured with: libraries, interpreter, system and processor."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        **library_versions(),
    }
