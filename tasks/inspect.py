"""Steps that look at one exported file without attacking it: what it says, and how fast it is."""

import json

from hardening.deployment.measure import latency, memory
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.evaluation import all_logits, check_logits
from tasks.data import device, read_images
from tasks.step import Run, measured
from tasks.store import Artifact


@measured
def inspect_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Run the file on clean images and prove that its twin computes the same."""
    data, file = read_images(run, images), run.read(onnx)
    session, twin = Session(file), Twin(file).to(device())
    logits = all_logits(session, data.test)
    check_logits(run.label, logits, len(data.classes))
    parity = prove(f"{run.label}: twin", twin, session, data.test.floats())
    predictions = logits.argmax(1)
    right = predictions == data.test.labels
    seen = {
        "file": session.facts().model_dump(),
        "twin_parity": parity.model_dump(),
        "correct": right.tolist(),
        "predictions": predictions.tolist(),
        "confidences": logits.softmax(1).amax(1).tolist(),
    }
    return {
        "seen": json.dumps(seen, allow_nan=False).encode(),
        "standing": json.dumps(right.nonzero()[:, 0].tolist()).encode(),
    }


@measured
def measure_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Time the file as one thread of this machine runs it, and see what memory that takes."""
    channels, height, width = read_images(run, images).test.images.shape[1:]
    file, shape = run.read(onnx), (channels, height, width)
    needed = memory(file, shape)
    measured = {
        "latency": [entry.model_dump() for entry in latency(Session(file), shape)],
        "memory": needed and needed.model_dump(),
    }
    return {"measured": json.dumps(measured).encode()}
