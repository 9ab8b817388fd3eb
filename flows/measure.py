"""What is measured on every exported file, and in which order.

inspect -> attack after attack on what still stands, the shards side by side; one after the other
        where a decision may end it -> curve, nearest images, alarms, surveys, certificates
        -> latency, one file at a time
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from attacks.profiles import AttackSpec
from attacks.registry import ATTACKS, SURVEYS
from flows.cascade import cascade, profile
from flows.config import Config
from flows.subjects import Subject
from flows.twins import Twinless, inspect_all, why_no_twin
from hardening.attack import facts
from hardening.spec import resolve
from tasks.decide import decide_early
from tasks.diagnose import diagnose_file
from tasks.inspect import check_answers, measure_file
from tasks.naive import naive_file
from tasks.radii import curve_file, nearest_file
from tasks.step import Outputs, Runner, optional
from tasks.store import Artifact
from tasks.survey import certify_file, survey_file


class Measured(NamedTuple):
    """What was measured on one file; `attacks` and `curves` have an entry a shard.

    `parent_no_twin` is why its float parent leads no attack, if it has one and that does not.
    """

    subject: Subject
    seen: Outputs
    attacks: list[list[Outputs]]
    curves: list[Outputs]
    nearest: Outputs
    alarms: Outputs
    surveys: list[Outputs]
    certificates: list[Outputs]
    naive: list[Outputs]
    cost: Outputs
    parent_no_twin: Artifact | None


class Campaign(NamedTuple):
    """The measurements of all files, and the early decision that ended the attacks, if one did."""

    measured: list[Measured]
    decision: Artifact | None


def measure(config: Config, go: Runner, subjects: list[Subject], images: Artifact) -> Campaign:
    """Measure every file, side by side if there are workers; time them afterwards, one by one."""
    seen, twinless = inspect_all(config, go, subjects, images)
    subjects = [_with_float_form(subject, seen[subject.name]) for subject in subjects]
    if config.model.onnx is not None:
        go(check_answers, "control: clean accuracy", seen["control"]["seen"], images).result()
    attacks: dict[str, list[list[Outputs]]] = {subject.name: [] for subject in subjects}
    decision, parts = None, list(shards(config))
    # A decision between two shards must know the first before the second costs anything.
    waves = [parts] if config.evaluation.early_decision is None else [[part] for part in parts]
    for wave in waves:
        for name, done in cascade(config, go, subjects, seen, twinless, images, wave).items():
            attacks[name] += done
        decision = _decide(config, go, subjects, seen, attacks, wave[-1])
        if decision is not None:
            break
    others = _others(config, go, subjects, seen, twinless, attacks, images)
    measured = [
        Measured(
            subject,
            seen[subject.name],
            attacks[subject.name],
            *others[subject.name],
            go(measure_file, f"{subject.name}: latency", subject.onnx, images).result(),
            why_no_twin(twinless, subject.parent),
        )
        for subject in subjects
    ]
    return Campaign(measured, decision)


def _with_float_form(subject: Subject, seen: Outputs) -> Subject:
    """An int8 file without a float file of its weights gets one, made from itself."""
    if subject.same_weights is not None:
        return subject
    form = optional(seen, "float_form", expected=subject.expected_int8)
    return subject._replace(float_form=form)


def longest(attacks: Sequence[AttackSpec]) -> int:
    """Iterations of the longest attack with gradients."""
    resolved = [resolve(ATTACKS[a.name], a.params) for a in attacks if a.name == "apgd"]
    return max((params["steps"] for params in resolved), default=50)


def shards(config: Config) -> Iterator[list[int]]:
    """First image and the one after the last of each part that is attacked at a time."""
    total, size = config.evaluation.images, config.evaluation.shard
    for start in range(0, total, size):
        yield [start, min(start + size, total)]


def _decide(
    config: Config,
    go: Runner,
    subjects: list[Subject],
    seen: dict[str, Outputs],
    attacks: dict[str, list[list[Outputs]]],
    shard: list[int],
) -> Artifact | None:
    """The decision on every candidate's robust accuracy, if the images so far allow one."""
    error, limit = config.evaluation.early_decision, config.gate.robust_accuracy
    judged = [s for s in subjects if s.role == "candidate"] or subjects[:1]
    last = shard[1] >= config.evaluation.images
    unattacked = any(not attacks[s.name][-1] for s in judged)
    if error is None or limit is None or last or unattacked:
        return None
    said = go(
        decide_early,
        f"decision after {shard[1]} images",
        tuple(seen[s.name]["seen"] for s in judged),
        tuple(tuple(done[-1]["standing"] for done in attacks[s.name]) for s in judged),
        names=[s.name for s in judged],
        images=shard[1],
        limit=limit,
        error=error,
    ).result()
    return said.get("decided")


def _others(
    config: Config,
    go: Runner,
    subjects: list[Subject],
    seen: dict[str, Outputs],
    twinless: Twinless,
    attacks: dict[str, list[list[Outputs]]],
    images: Artifact,
) -> dict[str, tuple[list[Outputs], Outputs, Outputs, list[Outputs], list[Outputs], list[Outputs]]]:
    """Everything after the attacks, all handed out before any of it is waited for."""
    effort, threat, seed = profile(config), config.attack_threat, config.seed
    started = {}
    for subject in subjects:
        name, onnx, done = subject.name, subject.onnx, attacks[subject.name]
        no_twin, same = why_no_twin(twinless, onnx), subject.same_weights
        # All figures are of the same images: those that an early decision left out are in none.
        attacked = max(end for (_, end), _ in zip(shards(config), done, strict=False))
        curves = [
            go(
                curve_file,
                f"{name}: curve",
                onnx,
                no_twin,
                images,
                seen[name]["seen"],
                tuple(made["adversarial"] for made in parts),
                shard=shard,
                threat=threat,
                factors=config.evaluation.curve,
                seed=seed,
            )
            for shard, parts in zip(shards(config), done, strict=False)
        ]
        nearest = go(
            nearest_file,
            f"{name}: nearest images",
            onnx,
            no_twin,
            images,
            threat=threat,
            sample=min(effort.distances, attacked),
            seed=seed,
        )
        alarms = go(
            diagnose_file,
            f"{name}: alarms",
            onnx,
            no_twin,
            same,
            images,
            _last(done),
            _last(next((attacks[other.name] for other in subjects if other.onnx == same), [])),
            threat=threat,
            gates=list(effort.gates),
            sample=min(effort.sample, attacked),
            attacked=attacked,
            steps=longest(effort.attacks),
            limits=config.evaluation.limits,
            seed=seed,
        )
        surveys = [
            go(
                survey_file,
                f"{name}: {spec.name}",
                onnx,
                no_twin,
                images,
                survey=spec,
                attacked=attacked,
                seed=seed,
            )
            for spec in config.evaluation.surveys
            if no_twin is None or facts(SURVEYS[spec.name]).access != "gradients"
        ]
        certificates = [
            go(
                certify_file,
                f"{name}: {spec.name}",
                onnx,
                images,
                method=spec,
                threat=threat,
                attacked=attacked,
                seed=seed,
            )
            for spec in config.evaluation.certify
        ]
        naive = [
            go(
                naive_file,
                f"{name}: naive",
                subject.module,
                images,
                threat=threat,
                attacked=attacked,
                seed=seed,
            )
            for _ in range(config.evaluation.naive)
        ]
        started[name] = (curves, nearest, alarms, surveys, certificates, naive)
    return {
        name: (
            [curve.result() for curve in curves],
            nearest.result(),
            alarms.result(),
            [survey.result() for survey in surveys],
            [certificate.result() for certificate in certificates],
            [made.result() for made in naive],
        )
        for name, (curves, nearest, alarms, surveys, certificates, naive) in started.items()
    }


def _last(done: list[list[Outputs]]) -> tuple[Artifact, ...]:
    """Per shard, what stands after all attacks."""
    return tuple(parts[-1]["standing"] for parts in done if parts)
