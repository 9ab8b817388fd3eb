"""What a version carries: what was measured on it, and what it was made from."""

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue

from hardening.evidence import Evidence, RunEvidence
from hardening.verdict import missing_attacks

RECIPE = "temper.recipe"
"""The tag of what a version was made from, see `recipe`; what others registered has none."""

MADE_AGAIN = "temper.made_again"
"""The tag of when a later run made the champion's very file, seconds of the clock."""


def recipe(config: Mapping[str, JsonValue], data: str) -> str:
    """Digest of what a model is made from: a configuration but for its seed, and the data's digest.

    Args:
        config: As evidence has it: without gate, registry and addresses.
    """
    said = {key: value for key, value in config.items() if key != "seed"}
    content = {"config": said, "data": data}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def measured_tags(
    shipped: str, evidence: Evidence, run: RunEvidence, digest: str
) -> dict[str, str]:
    """What was measured on a version.

    Args:
        shipped: Digest of the version's bytes, whose graph is the measured one.
        digest: sha256 of the evidence of the whole run.
    """
    robust = evidence.robust
    text = f"{robust.value:.4f} [{robust.lower:.4f}, {robust.upper:.4f}]"
    return {
        "temper.sha256": shipped,
        "temper.graph": evidence.file.identity,
        "temper.evidence": digest,
        "temper.threat": str(run.threat),
        "temper.robust_accuracy": "NOT EVALUATED" if missing_attacks(evidence) else text,
        "temper.data": run.data.sha256,
    }
