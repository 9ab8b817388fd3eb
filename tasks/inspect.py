"""Steps that look at one exported file without attacking it: what it says, and how fast it is."""

import json

from hardening.deployment.layers import prove_twin
from hardening.deployment.measure import latency, latency_inside, memory
from hardening.deployment.session import Session
from hardening.errors import ModelError, NoTwin
from hardening.evaluation import all_logits, all_stand, check_logits
from hardening.inside import Inside
from hardening.statistics import accuracy
from tasks.data import read_images
from tasks.step import Run, measured, step
from tasks.store import Artifact
from tasks.target import find_twin, open_session, placed


@measured
def inspect_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Run the file on clean images and prove that its twin computes the same.

    The output `no_twin` is there only when there is none, and says why.

    Raises:
        ParityError: The twin computes something else; the text names the first node that differs.
    """
    data, file = read_images(run, images), run.read(onnx)
    session = open_session(file)
    inside = session if isinstance(session, Inside) else None
    twin = None if inside else find_twin(file)
    test = placed(data.test)
    logits = all_logits(session, test)
    rejects = inside is not None and inside.form.rejects
    check_logits(run.label, logits, len(data.classes) + rejects)
    parity, why = None, ""
    if isinstance(twin, NoTwin):
        why = str(twin)
        run.line(why)
    elif isinstance(session, Session) and twin is not None:
        parity = prove_twin(f"{run.label}: twin", twin, session, data.test.floats())
    predictions = logits.argmax(1)
    # A rejected image is not right; an image on which a random model wavers is not, either.
    right = predictions == data.test.labels
    if inside:
        right &= all_stand(inside, test)
    seen = {
        "file": session.facts().model_dump(),
        "twin_parity": parity and parity.model_dump(),
        "no_twin": why,
        "correct": right.tolist(),
        "predictions": predictions.tolist(),
        "confidences": logits.softmax(1).amax(1).tolist(),
    }
    return {
        "seen": json.dumps(seen, allow_nan=False).encode(),
        "standing": json.dumps(right.nonzero()[:, 0].tolist()).encode(),
        **({"no_twin": why.encode()} if why else {}),
    }


@measured
def measure_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Time the file as one thread of this machine runs it, and see what memory that takes."""
    channels, height, width = read_images(run, images).test.images.shape[1:]
    session, shape = open_session(run.read(onnx)), (channels, height, width)
    if isinstance(session, Inside):
        session.form.cpu()
        entries, needed = latency_inside(session.informed, shape), None
    else:
        entries, needed = latency(session, shape), memory(session, shape)
    measured = {
        "latency": [entry.model_dump() for entry in entries],
        "memory": needed and needed.model_dump(),
    }
    return {"measured": json.dumps(measured).encode()}


@step
def check_answers(run: Run, seen: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Refuse a user's file that seems to be misunderstood: it guesses.

    Chance is 1 / K of K classes; a file must be half as good again, or 5 points of 100 better.

    Raises:
        ModelError: Its clean accuracy is at chance; the text says what to check.
    """
    clean = accuracy(json.loads(run.read(seen))["correct"])
    classes = len(read_images(run, images).classes)
    limit = min(1.5 / classes, 1 / classes + 0.05)
    if clean.value < limit:
        raise ModelError(
            f"model.onnx: got {clean.correct} of {clean.images} test images right, which is chance "
            f"for {classes} classes: check model.layout, model.range, model.mean and model.std, "
            "model.output, and that its classes are in the dataset's order"
        )
    return {"clean": clean.model_dump_json().encode()}
