"""Steps that look at one exported file without attacking it: what it says, and how fast it is."""

import json
from contextlib import nullcontext

import torch
from torch import Tensor

from attacks.registry import ATTACKS
from hardening.attack import facts, stands
from hardening.data import Labelled, TestData
from hardening.deployment.float_form import float_form
from hardening.deployment.gradients import check_gradients
from hardening.deployment.layers import prove_twin
from hardening.deployment.measure import latency, latency_inside, memory
from hardening.deployment.parity import logits_of, together
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin, explained
from hardening.errors import ModelError, NoFloatForm, NoTwin, NumericsError, ParityError
from hardening.evaluation import all_logits, all_stand, check_logits, generator
from hardening.evidence import File, Parity
from hardening.inside import Inside
from hardening.spec import Spec, bind
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from tasks.data import device, read_images
from tasks.foreign import check_sizes
from tasks.step import Run, measured, step
from tasks.store import Artifact
from tasks.target import open_session, placed

PROBES = 256
"""Random images, and adversarial ones, on which a twin is held against its session."""

STEPS = 5
"""Of the attack that makes the adversarial ones."""

LEAST = 0.5
"""Of the images that an int8 file gets right, the share that its float form must get right, too."""


@measured
def inspect_file(
    run: Run,
    onnx: Artifact,
    images: Artifact,
    /,
    *,
    threat: ThreatModel,
    seed: int,
    brought: bool,
    of_brought: bool,
) -> dict[str, bytes]:
    """Run the file on clean images and prove that its twin computes the same.

    Whether gradients of the file are to be had is decided here and nowhere else: the output
    `no_twin` is there only when they are not, and says why; `float_form` only of an int8 file that
    has one.

    Args:
        threat: Within which adversarial images are made through the twin: it is held against the
            session on these, on clean ones and on uniformly random ones.
        brought: The file is not an export of ours. If its twin computes something else, or has no
            gradients to follow, it has none, and is attacked as a black box.
        of_brought: It is one, of a model that was brought: what its gradients are is no promise of
            ours, either.

    Raises:
        ParityError: The twin of an export of ours computes something else; the text names the
            first node that differs.
        NumericsError: A logit of the file is not finite, or the gradients of an export of ours are
            not, or are zero for all images.
    """
    data, file = read_images(run, images), run.read(onnx)
    session = open_session(file)
    if isinstance(session, Inside):
        return _inspect_inside(run, session, data)
    channels, height, width = data.test.images.shape[1:]
    if brought:
        check_sizes(session, run.label, (channels, height, width))
    logits = all_logits(session, data.test)
    check_logits(run.label, logits, len(data.classes))
    right = stands(session, data.test.images, logits, data.test.labels)
    form, about_form = _float_form(session, data.test, right)
    x, parity, why = data.test.floats(), None, ""
    try:
        with explained(session.name) if brought else nullcontext():
            twin = Twin(file).to(device())
            _check_gradients(twin, x.to(device()), ours=not (brought or of_brought))
            parity = _prove(twin, session, x, threat, seed)
    except NoTwin as error:
        why = str(error)
    except (NumericsError, ParityError) as error:
        if not (brought or (of_brought and isinstance(error, NumericsError))):
            raise type(error)(f"{run.label}: {error}") from error
        why = f"{session.name}: no twin of it: {error}"
    if why:
        run.line(why)
    return {
        **_seen(session.facts(), logits, right, parity, why, about_form),
        **({"no_twin": why.encode()} if why else {}),
        **({} if form is None else {"float_form": form}),
    }


def _check_gradients(twin: Twin, x: Tensor, *, ours: bool) -> None:
    """Refuse gradients that lead nowhere; of a model that is all `ours`, they are our mistake."""
    try:
        check_gradients(twin, x)
    except NoTwin as error:
        if ours:
            raise NumericsError(str(error)) from error
        raise


def _inspect_inside(run: Run, session: Inside, data: TestData) -> dict[str, bytes]:
    """What a model that does not ship answers; there is no file for a twin to equal."""
    test = placed(data.test)
    logits = all_logits(session, test)
    check_logits(run.label, logits, len(data.classes) + session.form.rejects)
    # A rejected image is not right; an image on which a random model wavers is not, either.
    right = (logits.argmax(1) == data.test.labels) & all_stand(session, test)
    return _seen(session.facts(), logits, right, None, "", "")


def _seen(
    file: File, logits: Tensor, right: Tensor, parity: Parity | None, no_twin: str, float_form: str
) -> dict[str, bytes]:
    seen = {
        "file": file.model_dump(),
        "twin_parity": parity and parity.model_dump(),
        "no_twin": no_twin,
        "float_form": float_form,
        "correct": right.tolist(),
        "predictions": logits.argmax(1).tolist(),
        "confidences": logits.softmax(1).amax(1).tolist(),
    }
    return {
        "seen": json.dumps(seen, allow_nan=False).encode(),
        "standing": json.dumps(right.nonzero()[:, 0].tolist()).encode(),
    }


def _float_form(session: Session, images: Labelled, right: Tensor) -> tuple[bytes | None, str]:
    """The float form of an int8 file that gets `right` (N,) of the images, or why it has none.

    It is there to lead attacks, and to be right where the file errs.
    """
    if session.facts().precision != "int8":
        return None, ""
    try:
        form = float_form(session.data)
        with explained(session.name):
            check_gradients(Twin(form).to(device()), images.floats().to(device()))
        agrees = all_stand(Session(form), images)[right]
    except NoFloatForm as reason:
        return None, str(reason)
    except (NoTwin, NumericsError) as reason:
        return None, f"{session.name}: no float form of it: {reason}"
    count = f"{int(agrees.sum())} of the {len(agrees)} images that the file gets right"
    if agrees.sum() < LEAST * len(agrees):
        return None, (
            f"{session.name}: no float form of it: without rounding {count} keep their label, "
            f"expected {LEAST:.0%}"
        )
    return form, (
        "its float parent was made from the file itself (the same weights, activations not "
        f"rounded) and gives {count} the same label"
    )


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


def _prove(twin: Twin, session: Session, x: Tensor, threat: ThreatModel, seed: int) -> Parity:
    """Hold the twin against the session on images of every kind that it will meet."""
    rng = generator(seed, "parity")
    kinds = {
        "clean": x,
        "random": torch.rand(PROBES, *x.shape[1:], generator=rng),
        "adversarial": _adversarial(twin, x[:PROBES].to(device()), threat, rng).cpu(),
    }
    proofs = {
        kind: prove_twin(f"twin on {kind} images", twin, session, points.to(device()))
        for kind, points in kinds.items()
    }
    counts = {kind: proofs[kind].images for kind in ("random", "adversarial")}
    return together(list(proofs.values())).model_copy(update=counts)


def _adversarial(twin: Twin, x: Tensor, threat: ThreatModel, rng: torch.Generator) -> Tensor:
    """A few steps from each image (n, C, H, W) to where the twin says something else."""
    known = threat.norm in facts(ATTACKS["pgd"]).norms
    spec = Spec(name="pgd", params={"steps": STEPS}) if known else Spec(name="fgsm")
    y = logits_of(twin, x).argmax(1).to(x.device)
    return bind(ATTACKS, spec)(twin, x, y, threat, rng).x_adv.detach()
