"""ONNX files that somebody else made: opened in a process of their own before anything else."""

import hashlib
import json

from hardening.deployment.contract import Contract
from hardening.deployment.sandbox import Limits, open_once
from tasks.code import code_digest, library_versions
from tasks.settings import home, open_limits


def check_foreign(data: bytes, name: str, contract: Contract | None = None) -> None:
    """Open ONNX `data` once, as its contract says, by the limits of `tasks.settings`.

    That it went well is remembered under its digest. It is opened again when the code that opens
    it or a library has changed.

    Raises:
        ModelError: As `hardening.deployment.sandbox.open_once`; the text starts with `name`.
        ConfigError: The limits in the environment are no positive numbers.
    """
    limits = Limits(*open_limits())
    said = (contract or Contract()).model_dump_json(exclude_unset=True)
    facts = [
        hashlib.sha256(data).hexdigest(),
        said,
        code_digest("hardening.deployment.sandbox"),
        library_versions(),
    ]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    opened = home() / "opened" / key
    if opened.exists():
        return
    open_once(data, name, limits, said)
    opened.parent.mkdir(parents=True, exist_ok=True)
    opened.touch()
