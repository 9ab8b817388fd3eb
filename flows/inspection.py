"""`temper inspect`: what a file says of itself, and whether that is so."""

import hashlib
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.console import read_evidence
from hardening.deployment.anatomy import Anatomy, dissect
from hardening.deployment.contract import Contract
from hardening.deployment.lineage import Lineage, describe, read_lineage
from hardening.deployment.opening import BATCHES, Tried
from hardening.deployment.untrusted import MAX_BYTES
from hardening.errors import ModelError
from hardening.spec import Record
from tasks.foreign import check_foreign


class Finding(Record):
    """One thing that was checked; `text` says what was found."""

    name: str
    passed: bool
    text: str


class Inspection(Record):
    """What `temper inspect` found; `tried` are the images on which the file was run."""

    file: str
    lineage: Lineage | None
    findings: list[Finding]
    anatomy: Anatomy
    tried: Tried

    @property
    def passed(self) -> bool:
        """Whether nothing that was checked contradicts."""
        return all(finding.passed for finding in self.findings)


def examine(path: Path, evidence: Path | None) -> Inspection:
    """Open a file as one of unknown origin, and hold it against its lineage and an evidence.

    Raises:
        InputError: The file or the evidence cannot be read, or is none.
    """
    data = _read(path)
    tried = check_foreign(data, str(path))
    anatomy, lineage = dissect(data, str(path)), read_lineage(data)
    findings = []
    if lineage is not None:
        same = lineage.graph == anatomy.graph_sha256
        text = "is the graph that was measured" if same else f"was measured as {lineage.graph}"
        findings.append(Finding(name="graph", passed=same, text=text))
    if evidence is not None:
        findings += _hold_against(evidence, anatomy, lineage)
    return Inspection(
        file=str(path), lineage=lineage, findings=findings, anatomy=anatomy, tried=tried
    )


def show(found: Inspection, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        print(found.model_dump_json(indent=1))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    if found.lineage is None:
        console.print("no lineage: the file says nothing about where it comes from")
    else:
        console.print(_lines(found.lineage.model_dump()))
    for finding in found.findings:
        console.print(Text(f"{'ok' if finding.passed else 'NO'}  {finding.name}: {finding.text}"))
    console.print(_lines({**_facts(found.anatomy), "tried on": _images(found.tried)}))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected an ONNX file")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # one more than the gate lets through
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def _hold_against(path: Path, anatomy: Anatomy, lineage: Lineage | None) -> list[Finding]:
    run = read_evidence(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    digests = (anatomy.graph_sha256, anatomy.sha256)
    model = next((m for m in run.models.values() if m.file.identity in digests), None)
    known = model is not None
    about = f"{path} is about this file: model {model.name!r}" if model else ""
    missing = f"{path} has no model with this graph, expected one of it"
    findings = [Finding(name="evidence", passed=known, text=about or missing)]
    if lineage is None:
        return findings
    same = digest == lineage.evidence
    text = "has the digest that the file names" if same else f"is {digest}, not {lineage.evidence}"
    findings.append(Finding(name="evidence digest", passed=same, text=text))
    if model is not None:
        expected = describe(run, model, digest, lineage.parent, lineage.temper).model_dump()
        said = lineage.model_dump()
        other = [key for key in expected if key != "evidence" and said[key] != expected[key]]
        text = "; ".join(f"{key} is {expected[key]}, not {said[key]}" for key in other)
        findings.append(
            Finding(name="figures", passed=not other, text=text or "follow from the evidence")
        )
    return findings


def _facts(anatomy: Anatomy) -> dict[str, str]:
    layers = Counter((layer.bits, layer.integer) for layer in anatomy.layers)
    weights = [
        f"{count} layers with {bits}-bit weights, {'integer' if integer else 'float'} inputs"
        for (bits, integer), count in sorted(layers.items())
    ]
    floats = [layer.node for layer in anatomy.layers if layer.bits > 8]
    partly = 0 < len(floats) < len(anatomy.layers)
    return {
        "sha256": anatomy.sha256,
        "graph sha256": anatomy.graph_sha256,
        "size": f"{anatomy.bytes} B, {anatomy.parameters} stored numbers",
        "opset": str(anatomy.opset),
        "producer": anatomy.producer,
        "contract": _contract(anatomy.contract),
        "input": anatomy.input,
        **_outputs(anatomy),
        "operators": ", ".join(f"{name} {count}" for name, count in anatomy.operators.items()),
        "weights": "; ".join(weights) or "none",
        **({"left in float": ", ".join(floats[:20])} if partly else {}),
    }


def _images(tried: Tried) -> str:
    if not tried.shape:
        return f"no images: none of likely sizes fit what it leaves open; {tried.refusal}"
    return f"{tried.shape}, {' and '.join(map(str, BATCHES))} at a time"


def _contract(contract: Contract | None) -> str:
    said = Contract() if contract is None else contract
    fields = said.model_dump(exclude_none=True)
    text = ", ".join(f"{name} {value}" for name, value in fields.items())
    return f"none; unless a configuration says otherwise: {text}" if contract is None else text


def _outputs(anatomy: Anatomy) -> dict[str, str]:
    if len(anatomy.outputs) == 1:
        return {"output": anatomy.outputs[0]}
    which = f"none before model.output names one of {', '.join(anatomy.candidates)}"
    return {"outputs": "; ".join(anatomy.outputs), "output used": anatomy.output or which}


def _lines(rows: dict[str, str]) -> Text:
    """One row a line, however wide: a digest that is broken in two cannot be copied."""
    width = max(map(len, rows))
    return Text("\n".join(f"{key.replace('_', ' '):<{width}}  {rows[key]}" for key in rows))
