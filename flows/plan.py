"""What a configuration would do: the chain walked without running anything."""

from math import isfinite
from typing import NamedTuple

from attacks.cost import cost
from attacks.profiles import AttackSpec
from defenses import DEFENSES
from defenses.declaration import declaration
from flows.chain import run_chain
from flows.config import Config, load
from flows.sources import find_sources
from flows.validate import validate
from hardening.spec import Spec, resolve
from tasks.console import ConsoleLog
from tasks.naive import NAIVE
from tasks.radii import CURVE_ATTACK, NEAREST
from tasks.settings import store_uri
from tasks.step import Plan, Planned
from tasks.store import open_store


class Line(NamedTuple):
    """One step of a plan; `gradients` says what an image costs, backward passes."""

    label: str
    step: str
    cached: bool
    gradients: str


def plan(path: str) -> list[Line]:
    """Check a configuration and its sources, and list its steps.

    Raises:
        InputError: As for a run: the field or the file, what was got, what was expected.
    """
    config = load(path)
    validate(config)
    walk = Plan()
    run_chain(config, walk, find_sources(config, open_store(store_uri()), ConsoleLog()))
    return [
        Line(step.label, step.step, step.cached, _gradients(config, step)) for step in walk.steps
    ]


def _gradients(config: Config, planned: Planned) -> str:
    """Backward passes of a step, per image: an upper bound, for an image that never falls."""
    if planned.step == "attack_file":
        spec = AttackSpec(**planned.settings["attack"])
        return _attack_cost(config, spec, 1)
    longest = {"nearest_file": NEAREST[config.attack_threat.norm], "naive_file": NAIVE[-1]}
    if planned.step in longest:
        return _attack_cost(config, longest[planned.step], 1)
    if planned.step == "curve_file":
        return _attack_cost(config, CURVE_ATTACK, len(config.evaluation.curve))
    if planned.step == "train_control":
        from defenses.standard import standard  # noqa: PLC0415

        epochs = resolve(standard, config.training or {})["loop"].epochs
        return f"{epochs} a training image"
    if planned.step == "defend":
        defense = Spec(**planned.settings["defense"])
        function = DEFENSES[defense.name]
        params = resolve(function, defense.params)
        passes = declaration(function).passes(params)
        return f"{passes:g} a training image" if isfinite(passes) else "as many as its time allows"
    return ""


def _attack_cost(config: Config, spec: Spec, times: int) -> str:
    forwards, backwards = cost(spec, config.attack_threat)
    images = config.evaluation.images
    each = f"{backwards * times} an image" if backwards else f"none, {forwards * times} forwards"
    return f"at most {each} x {images}"
