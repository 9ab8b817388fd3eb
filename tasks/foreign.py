"""ONNX files that somebody else made: opened in a process of their own before anything else."""

import hashlib
import json

from hardening.deployment.contract import Contract
from hardening.deployment.opening import ANY, Opening, Tried
from hardening.deployment.sandbox import Limits, open_once
from hardening.deployment.session import Session
from tasks.code import code_digest, library_versions
from tasks.settings import home, open_limits


def check_foreign(data: bytes, name: str, what: Opening = ANY) -> Tried:
    """Open ONNX `data` once by the limits of `tasks.settings`; what it ran.

    That it went well is remembered under its digest. It is opened again when the code that opens
    it or a library has changed, and for another contract or another shape.

    Raises:
        ModelError: As `hardening.deployment.sandbox.open_once`; the text starts with `name`.
        ConfigError: The limits in the environment are no positive numbers.
    """
    limits = Limits(*open_limits())
    facts = [
        hashlib.sha256(data).hexdigest(),
        what.model_dump_json(exclude_unset=True),
        code_digest("hardening.deployment.sandbox"),
        library_versions(),
    ]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    opened = home() / "opened" / key
    if opened.exists():
        return Tried.model_validate_json(opened.read_bytes())
    tried = open_once(data, name, what, limits)
    opened.parent.mkdir(parents=True, exist_ok=True)
    opened.write_text(tried.model_dump_json())
    return tried


def check_sizes(session: Session, name: str, shape: tuple[int, int, int]) -> None:
    """Open a file that leaves sizes of its images open on those of the dataset, (C, H, W).

    So far it ran images of a size that nobody asked for; others may take any memory and time.

    Raises:
        ModelError: As `check_foreign`.
    """
    if not all(session.image_shape):
        check_foreign(session.data, name, Opening(contract=Contract(), shape=shape))
