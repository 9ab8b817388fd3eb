"""Steps that look at one exported file without attacking it: what it says, and how fast it is."""

import json

from torch import Tensor

from hardening.data import Labelled
from hardening.deployment.float_form import float_form
from hardening.deployment.layers import prove_twin
from hardening.deployment.measure import latency, memory
from hardening.deployment.session import Session
from hardening.errors import ModelError, NoFloatForm, NoTwin
from hardening.evaluation import all_logits, check_logits
from hardening.statistics import accuracy
from tasks.data import read_images
from tasks.step import Run, measured, step
from tasks.store import Artifact
from tasks.target import find_twin


@measured
def inspect_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Run the file on clean images and prove that its twin computes the same.

    The output `no_twin` is there only when there is none, and says why; `float_form` only of an
    int8 file that has one.

    Raises:
        ParityError: The twin computes something else; the text names the first node that differs.
    """
    data, file = read_images(run, images), run.read(onnx)
    session, twin = Session(file), find_twin(file)
    logits = all_logits(session, data.test)
    check_logits(run.label, logits, len(data.classes))
    form, about_form = _float_form(session, data.test, logits)
    parity, why = None, ""
    if isinstance(twin, NoTwin):
        why = str(twin)
        run.line(why)
    else:
        parity = prove_twin(f"{run.label}: twin", twin, session, data.test.floats())
    predictions = logits.argmax(1)
    right = predictions == data.test.labels
    seen = {
        "file": session.facts().model_dump(),
        "twin_parity": parity and parity.model_dump(),
        "no_twin": why,
        "float_form": about_form,
        "correct": right.tolist(),
        "predictions": predictions.tolist(),
        "confidences": logits.softmax(1).amax(1).tolist(),
    }
    return {
        "seen": json.dumps(seen, allow_nan=False).encode(),
        "standing": json.dumps(right.nonzero()[:, 0].tolist()).encode(),
        **({"no_twin": why.encode()} if why else {}),
        **({} if form is None else {"float_form": form}),
    }


def _float_form(session: Session, images: Labelled, logits: Tensor) -> tuple[bytes | None, str]:
    """The float form of an int8 file, and how near it is or why there is none."""
    if session.facts().precision != "int8":
        return None, ""
    try:
        form = float_form(session.data)
    except NoFloatForm as reason:
        return None, str(reason)
    same = int((all_logits(Session(form), images).argmax(1) == logits.argmax(1)).sum())
    return form, (
        "its float parent was made from the file itself (the same weights, activations not "
        f"rounded) and gives {same} of {len(images)} images the same label"
    )


@measured
def measure_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Time the file as one thread of this machine runs it, and see what memory that takes."""
    channels, height, width = read_images(run, images).test.images.shape[1:]
    session, shape = Session(run.read(onnx)), (channels, height, width)
    needed = memory(session, shape)
    measured = {
        "latency": [entry.model_dump() for entry in latency(session, shape)],
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
