"""Is everything there that Temper uses from here? One finding for each thing, with a cure."""

import os
import secrets
import shutil
import sys
from collections.abc import Callable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hardening.deployment.providers import CUDA, cuda_devices, providers
from hardening.errors import ConfigError, HardeningError
from tasks import doctor_mlflow
from tasks import doctor_services as services
from tasks.finding import Finding, well, wrong
from tasks.mlflow_client import shown
from tasks.settings import HOME, WEBHOOK_SECRET, home, webhook_secret

DISTRIBUTION = "temper-hardening"

LEAST_FREE = 5 << 30
"""Bytes that must be free: a run writes its checkpoints and files before it removes any."""


def examine() -> list[Finding]:
    """Look at everything; takes seconds, and up to half a minute for each server that is silent."""
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("versions", _versions),
        ("home", _home),
        ("store", services.store),
        ("MLflow", doctor_mlflow.examine),
        ("Prefect", services.orchestration),
        ("secret", _secret),
        ("CUDA", _cuda),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except HardeningError as error:
            findings.append(wrong(name, shown(str(error)), "see the text"))
        except Exception as error:  # noqa: BLE001  told; the other checks are made all the same
            first = (str(error).splitlines() or [""])[0]
            found = shown(f"{type(error).__name__}: {first}")
            findings.append(wrong(name, found, "see the text, and this service's log"))
    return findings


def _versions() -> list[Finding]:
    try:
        about = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        found = f"{DISTRIBUTION} is not installed, its bounds are not known"
        return [wrong("versions", found, "pip install -e .")]
    python = ".".join(map(str, sys.version_info[:3]))
    bounds = SpecifierSet(about.metadata["Requires-Python"])
    amiss = [] if python in bounds else [f"Python {python}, expected {bounds}"]
    needed = [Requirement(text) for text in about.requires or []]
    needed = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    for each in needed:
        try:
            got = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            got = "nothing"
        if got == "nothing" or not each.specifier.contains(got, prereleases=True):
            amiss.append(f"{each.name} {got}, expected {each.specifier}")
    cure = "pip install -c constraints.txt -e . (make install)"
    if amiss:
        return [wrong("versions", text, cure) for text in amiss]
    found = f"Python {python} and {len(needed)} packages within their bounds"
    return [well("versions", found)]


def _home() -> list[Finding]:
    folder = home()
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        found = f"{folder}: cannot be written ({error.strerror})"
        cure = f"set {HOME} to a folder that this user may write to"
        return [wrong("home", found, cure)]
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {free / (1 << 30):.0f} GiB free"
    if free < LEAST_FREE:
        found = f"{found}, expected at least {LEAST_FREE >> 30} GiB"
        cure = f"make room, or set {HOME} to a folder on another disk"
        return [wrong("home", found, cure)]
    return [well("home", found)]


def _secret() -> list[Finding]:
    if not os.environ.get(WEBHOOK_SECRET):
        found = f"no {WEBHOOK_SECRET}: no receiver can run with this environment"
        return [well("secret", found)]
    try:
        webhook_secret()
    except ConfigError as error:
        cure = "openssl rand -hex 24, there and in MLflow (python -m infra.setup URL)"
        return [wrong("secret", str(error), cure)]
    return [well("secret", f"{WEBHOOK_SECRET} is set")]


def _cuda() -> list[Finding]:
    if any(each[0] == CUDA for each in providers() if isinstance(each, tuple)):
        return [well("CUDA", "ONNX Runtime computes on it")]
    count = cuda_devices()
    if count == 0:
        found = "the driver shows no device; everything computes on the CPU"
        return [well("CUDA", found)]
    found = f"{count} devices, and ONNX Runtime computes on the CPU"
    cure = "pip install onnxruntime-gpu, of the version in constraints.txt, and no onnxruntime"
    return [wrong("CUDA", found, cure)]
