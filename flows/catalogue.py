"""What a configuration can name, read off the registries and the functions' signatures."""

import inspect
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from rich.console import Console
from rich.text import Text

from hardening.spec import Parameter, parameters, resolve, type_name


def registry(kind: str) -> Mapping[str, Callable[..., Any]]:
    """The registry of a kind of things: attacks, surveys, certifiers, defenses and so on."""
    if kind == "attacks":
        from attacks.registry import ATTACKS  # noqa: PLC0415  each import costs a second: only the one asked

        return ATTACKS
    if kind == "defenses":
        from defenses import DEFENSES  # noqa: PLC0415

        return DEFENSES
    if kind == "surveys":
        from attacks.registry import SURVEYS  # noqa: PLC0415

        return SURVEYS
    if kind == "certifiers":
        from hardening.certify import CERTIFIERS  # noqa: PLC0415

        return CERTIFIERS
    if kind == "datasets":
        from hardening.data import DATASETS  # noqa: PLC0415

        return DATASETS
    from hardening.models import MODELS  # noqa: PLC0415

    return MODELS


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Every entry: name, first line of its docstring, parameters, what it declares."""
    entries = []
    for name, function in sorted(registry(kind).items()):
        entry: dict[str, Any] = {
            "name": name,
            "about": (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " "),
            "parameters": [parameter._asdict() for parameter in parameters(function)],
        }
        if hasattr(function, "declaration"):
            declared = function.declaration
            entry |= {
                "mechanism": declared.mechanism,
                "due": list(declared.due),
                "status": declared.status,
                "ships": declared.ships or "as ONNX",
                "claim": declared.claim,
                "cost": _cost(declared.passes(resolve(function, {}))),
            }
        if hasattr(function, "facts"):
            entry |= {"asks_for": function.facts.access, "norms": list(function.facts.norms)}
        entries.append(entry)
    if kind == "attacks":
        from attacks.profiles import PROFILES, label  # noqa: PLC0415

        for name, profile in PROFILES.items():
            about = "profile: " + ", ".join(label(spec) for spec in profile.attacks)
            entries.append({"name": name, "about": about, "parameters": []})
    if kind == "models":
        entries.append(_onnx())
    return entries


def _cost(passes: float) -> str:
    if not isfinite(passes):
        return "what the budget says"
    if not passes:
        return "no training"
    return f"{passes:g} epochs of plain training, with the defaults below"


def _onnx() -> dict[str, Any]:
    """How a file is given in the place of an architecture: its fields stand beside `onnx`."""
    from hardening.deployment.contract import Contract  # noqa: PLC0415

    return {
        "name": "model.onnx",
        "about": "Instead of a name: your own ONNX file; these fields say how to feed and read it.",
        "parameters": [
            Parameter(
                name, type_name(field.annotation), repr(field.default), field.description or ""
            )._asdict()
            for name, field in Contract.model_fields.items()
        ],
    }


def show_catalogue(kind: str, entries: list[dict[str, Any]]) -> None:
    """Print the entries for a person, on standard output."""
    console = Console(highlight=False)
    for entry in entries:
        console.print(Text(entry["name"], style="bold"), Text(entry["about"]))
        if "mechanism" in entry:
            due = ", ".join(entry["due"])
            console.print(Text(f"    {entry['mechanism']}; {entry['status']}; due attacks: {due}"))
            console.print(Text(f"    ships: {entry['ships']}"))
            console.print(Text(f"    claim: {entry['claim']}"))
            console.print(Text(f"    cost: {entry['cost']}"))
        if entry.get("norms"):
            norms = ", ".join(entry["norms"])
            console.print(Text(f"    asks the model for {entry['asks_for']}; norms: {norms}"))
        for parameter in entry["parameters"]:
            head = f"    {parameter['name']}: {parameter['type']} = {parameter['default']}"
            console.print(Text(head), Text(parameter["meaning"], style="dim"))
    console.print(Text(f"\n{len(entries)} {kind}; as JSON: temper list {kind} --json"))
