"""Steps that look at one exported file without attacking it: what it says, and how fast it is."""

import json

from hardening.deployment.layers import prove_twin
from hardening.deployment.measure import latency
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
    parity = prove_twin(f"{run.label}: twin", twin, session, data.test.floats())
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
    """Time the file as one thread of this machine runs it."""
    data = read_images(run, images)
    channels, height, width = data.test.images.shape[1:]
    measured = latency(Session(run.read(onnx)), (channels, height, width))
    return {"latency": json.dumps([entry.model_dump() for entry in measured]).encode()}
