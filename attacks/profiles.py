"""Sets of attacks by effort, and the names of their rows in a report."""

from collections.abc import Sequence

from hardening.errors import ConfigError
from hardening.spec import Spec

PROFILES: dict[str, tuple[Spec, ...]] = {
    "quick": (
        Spec(name="apgd", params={"steps": 50, "loss": "ce"}),
        Spec(name="apgd", params={"steps": 50, "loss": "dlr", "restarts": 3}),
        Spec(name="square", params={"queries": 500}),
    ),
}
"""Cheapest first. Two losses, because each fails where the other does not, and one attack without
gradients, because gradients can be masked."""


def label(spec: Spec) -> str:
    """The name of an attack's row: `apgd-dlr`, `square`."""
    return f"{spec.name}-{spec.params['loss']}" if "loss" in spec.params else spec.name


def labels(specs: Sequence[Spec]) -> list[str]:
    """One row name per attack; those that would be equal carry their other parameters.

    Raises:
        ConfigError: Two attacks are the same in name and parameters.
    """
    short = [label(spec) for spec in specs]
    names = [
        name if short.count(name) == 1 else _long(spec)
        for name, spec in zip(short, specs, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"attacks: got {name!r} twice, expected different attacks")
    return names


def _long(spec: Spec) -> str:
    rest = [f"{key}={value}" for key, value in sorted(spec.params.items()) if key != "loss"]
    return " ".join([label(spec), *rest])
