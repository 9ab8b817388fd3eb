"""Where a file comes from and what was measured on it, written into the file itself.

Figures are known only after the bytes were attacked, and writing them changes the bytes. What was
attacked is the graph: `graph_sha256` is the digest of a file without its metadata, which no session
and no twin reads. So the stamped file is the measured one, and anyone can check that it is.
"""

import hashlib
import json
from typing import get_args

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hardening.deployment.signature import graph_sha256, name_of
from hardening.deployment.unstamped import PREFIX, is_ours
from hardening.errors import BrokenPromise, ModelError
from hardening.evidence import Accuracy, Evidence, File, Kind, RunEvidence
from hardening.spec import Record
from hardening.verdict import missing_attacks

NOT_EVALUATED = "NOT EVALUATED"

SEPARATOR = ", "

MAY_LACK = frozenset({"parent", "due"})
"""What a lineage need not say: files were shipped before they said what is due."""


class Lineage(Record):
    """What a shipped file says of itself; every field is a text, as ONNX's metadata are.

    `version` abbreviates the digest of the graph, which `graph` has in full: a registry numbers its
    versions only after the bytes are fixed. `parent` is the digest of the graph (of the weights, if
    it was no ONNX file) from which this one was made, `recipe` that of everything a user said and
    of this model's defenses, `evidence` that of `evidence.json`. `due` are the kinds of attack that
    its defenses call for, which its bytes do not tell. Figures come with their images and
    95 % intervals. `temper` is the release that measured.
    """

    name: str
    version: str
    graph: str
    parent: str
    data: str
    recipe: str
    evidence: str
    threat: str
    clean_accuracy: str
    robust_accuracy: str
    due: str
    temper: str


def belongs(data: bytes, file: File) -> bool:
    """Whether `data` is the measured `file`, be it stamped or not."""
    if not file.graph_sha256:
        return hashlib.sha256(data).hexdigest() == file.sha256
    try:
        return graph_sha256(data) == file.graph_sha256
    except DecodeError:
        return False


def describe(
    run: RunEvidence, model: Evidence, evidence: str, parent: str, release: str
) -> Lineage:
    """The lineage of one model of a run.

    Args:
        evidence: sha256 of the evidence of the whole run.
        parent: Digest of what the model was made from; empty if it was made from nothing.
        release: Of Temper.
    """
    recipe = {"config": run.config, "defenses": model.defenses, "seed": run.seed}
    robust = NOT_EVALUATED if missing_attacks(model) else _figure(model.robust)
    return Lineage(
        name=f"{run.name}/{model.name}",
        version=model.file.identity[:12],
        graph=model.file.identity,
        parent=parent,
        data=run.data.sha256,
        recipe=hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        evidence=evidence,
        threat=str(run.threat),
        clean_accuracy=_figure(model.clean),
        robust_accuracy=robust,
        due=SEPARATOR.join(model.due),
        temper=release,
    )


def stamp(data: bytes, lineage: Lineage) -> bytes:
    """`data` with a lineage in its metadata: same graph, same logits, same bytes every time.

    Other metadata stay; an earlier lineage is replaced.

    Raises:
        BrokenPromise: The graph of `data` is not the one that `lineage` is about.
    """
    model = onnx.load_model_from_string(data)
    kept = [prop for prop in model.metadata_props if not is_ours(prop)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in sorted(lineage.model_dump().items()):
        if value:
            model.metadata_props.add(key=PREFIX + key, value=value)
    stamped = bytes(model.SerializeToString(deterministic=True))
    if (got := graph_sha256(stamped)) != lineage.graph:
        raise BrokenPromise(
            f"{lineage.name}: the stamped file has the graph {got}, expected {lineage.graph} "
            "as measured"
        )
    return stamped


def read_lineage(data: bytes) -> Lineage | None:
    """What a checked file says of itself; None if it says nothing. It may say anything.

    Raises:
        ModelError: It has a lineage of which a part is missing, unknown, or no plain short text.
    """
    model = onnx.load_model_from_string(data)
    said = {
        prop.key.removeprefix(PREFIX): prop.value for prop in model.metadata_props if is_ours(prop)
    }
    if not said:
        return None
    fields = set(Lineage.model_fields)
    plain = all(isinstance(v, str) and v.isprintable() and len(v) <= 500 for v in said.values())
    if not plain or not fields - MAY_LACK <= set(said) <= fields:
        raise ModelError(f"{name_of(data)}: its lineage is damaged, expected {len(fields)} texts")
    return Lineage(**(dict.fromkeys(MAY_LACK, "") | said))


def owed(data: bytes, name: str) -> tuple[Kind, ...]:
    """The kinds of attack that are due against a checked file by its lineage; none if it has none.

    Raises:
        ModelError: It names one that nobody knows, so that it could never be met.
    """
    model = onnx.load_model_from_string(data)
    said = next((p.value for p in model.metadata_props if p.key == f"{PREFIX}due"), "")
    found, known = said.split(SEPARATOR) if said else [], get_args(Kind)
    for kind in found:
        if kind not in known:
            raise ModelError(
                f"{name}: its lineage calls for attacks of kind {kind[:40]!r}, expected "
                f"{SEPARATOR.join(known)}"
            )
    return tuple(kind for kind in known if kind in found)


def _figure(accuracy: Accuracy) -> str:
    low, high = accuracy.lower, accuracy.upper
    return f"{accuracy.value:.4f} [{low:.4f}, {high:.4f}] n {accuracy.images}"
