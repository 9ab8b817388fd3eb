"""Attack after attack on what still stands; the files of a run side by side."""

from collections.abc import Sequence
from itertools import count, product

from attacks.profiles import PROFILES, AttackSpec, Profile, in_order, labels
from attacks.registry import ATTACKS
from flows.config import Config
from flows.subjects import Subject, gather
from flows.twins import Twinless, why_no_twin
from hardening.attack import facts
from tasks.attack import attack_file
from tasks.step import Outputs, Result, Runner
from tasks.store import Artifact

Entry = tuple[str, AttackSpec, tuple[Artifact, ...]]
"""An attack on one file: its row's name, what it is, and the files whose gradients lead it."""


def profile(config: Config) -> Profile:
    """The effort profile of the configuration, with the user's own attacks if there are any.

    A profile's attacks are those that know the threat's norm. Whether attacks of the user's own
    had converged (G12, G13) is always asked.
    """
    chosen, norm = PROFILES[config.evaluation.profile], config.attack_threat.norm
    own = config.evaluation.attacks
    known = [spec for spec in chosen.attacks if norm in facts(ATTACKS[spec.name]).norms]
    if own is None:
        return chosen._replace(attacks=tuple(known))
    gates = (*chosen.gates, *(gate for gate in ("G12", "G13") if gate not in chosen.gates))
    return chosen._replace(attacks=tuple(own), gates=gates)


def entries(
    config: Config, subject: Subject, subjects: list[Subject], blind: Sequence[Artifact] = ()
) -> list[Entry]:
    """The attacks on one file; those whose source it does not have are left out.

    Args:
        blind: The files without gradients, which lead no attack by them; nor does what does not
            ship.
    """
    specs = in_order(profile(config).attacks)
    others = [other for other in subjects if other.onnx not in blind and not other.ships]
    found = []
    for name, spec in zip(labels(specs), specs, strict=True):
        said = facts(ATTACKS[spec.name])
        if subject.ships and said.differential:
            continue
        own = said.access == "gradients" and (spec.source == "file" or said.differential)
        if own and subject.onnx in blind:
            continue
        sources = _sources(spec.source, subject, others)
        if sources is not None and not any(source in blind for source in sources):
            found.append((name, spec, sources))
    return found


def cascade(
    config: Config,
    go: Runner,
    subjects: list[Subject],
    seen: dict[str, Outputs],
    twinless: Twinless,
    images: Artifact,
    shards: Sequence[list[int]],
) -> dict[str, list[list[Outputs]]]:
    """Attack after attack on what stands; the files and their shards side by side.

    Returns:
        For each file and shard, what each attack left.
    """
    blind = [file for file, _ in twinless]
    waiting = {subject.name: entries(config, subject, subjects, blind) for subject in subjects}
    done: dict[str, list[list[Outputs]]] = {s.name: [[] for _ in shards] for s in subjects}
    for turn in count():
        started: list[tuple[tuple[str, int], Result]] = []
        for subject, (place, shard) in product(subjects, enumerate(shards)):
            if turn >= len(waiting[subject.name]):
                continue
            name, spec, sources = waiting[subject.name][turn]
            before = done[subject.name][place][-1] if turn else seen[subject.name]
            part = "" if shard[0] == 0 and shard[1] >= config.evaluation.images else f" {shard}"
            result = go(
                attack_file,
                f"{subject.name}: {name}{part}",
                subject.onnx,
                why_no_twin(twinless, subject.onnx),
                sources,
                images,
                before["standing"],
                name=name,
                attack=spec,
                shard=shard,
                threat=config.attack_threat,
                seed=config.seed,
            )
            started.append(((subject.name, place), result))
        if not started:
            return done
        for (label, place), outputs in gather(started).items():
            done[label][place].append(outputs)
    raise AssertionError("count() does not end")


def _sources(source: str, subject: Subject, subjects: list[Subject]) -> tuple[Artifact, ...] | None:
    """The files that lead an attack on `subject`; none at all if there is no such file."""
    if source == "file":
        return ()
    if source == "parent":
        return subject.parents or None
    other = [s for s in subjects if s.name != subject.name and s.onnx != subject.onnx]
    # A champion comes and goes with the registry: what leads attacks must not change with it.
    floats = [s for s in other if not _quantized(s) and s.role != "champion"]
    if source == "ensemble":
        files = tuple(dict.fromkeys(s.onnx for s in floats))
        return files if len(files) > 1 else None
    if source == "robust":
        trained = [s.onnx for s in floats if s.defenses and s.onnx not in subject.parents]
        return (trained[0],) if trained else None
    return next(((s.onnx,) for s in other if s.name == source), None)


def _quantized(subject: Subject) -> bool:
    return bool(subject.parents)
