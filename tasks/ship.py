"""What leaves a run as a model file: the measured bytes with their lineage written in."""

from collections.abc import Mapping
from importlib.metadata import version

from hardening.deployment.lineage import belongs, describe, stamp
from hardening.deployment.signature import graph_sha256
from hardening.errors import DigestError
from hardening.evidence import Evidence, RunEvidence

DISTRIBUTION = "temper-hardening"


def ship(
    run: RunEvidence, evidence: str, models: Mapping[str, bytes], parents: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of a judged run, stamped with what this run measured on them.

    Args:
        evidence: sha256 of the evidence of the run.
        models: The attacked files, by the name of their model in `run`.
        parents: The files from which some of them were quantized.

    Raises:
        DigestError: A file is not the one that was measured.
        BrokenPromise: A stamped file would not have the measured graph.
    """
    shipped = {}
    for name, data in models.items():
        model = run.models[name]
        if not belongs(data, model.file):
            raise DigestError(f"model {name!r}: got {len(data)} B that are not the measured file")
        parent = graph_sha256(parents[name]) if name in parents else _parent(run, model)
        lineage = describe(run, model, evidence, parent, version(DISTRIBUTION))
        shipped[name] = stamp(data, lineage)
    return shipped


def _parent(run: RunEvidence, model: Evidence) -> str:
    """Candidates are made from the control, and the control from nothing or a user's weights.

    Of a champion, only the lineage of its own version knows.
    """
    if model.role == "champion":
        return ""
    if model.role == "candidate":
        return run.models["control"].file.identity
    return str(run.config.get("model_sha256") or "")
