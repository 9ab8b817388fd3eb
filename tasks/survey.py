"""Steps that look beyond attacks in the threat model: surveys, and proven lower bounds."""

import torch

from attacks.registry import SURVEYS
from attacks.survey import classified
from hardening.attack import facts
from hardening.certify import CERTIFIERS
from hardening.deployed import Deployed
from hardening.deployment.session import Session
from hardening.errors import ModelError
from hardening.evaluation import BATCH, generator
from hardening.evidence import Certificate, Survey
from hardening.inside import Inside
from hardening.spec import Spec, bind, resolve
from hardening.statistics import accuracy
from hardening.threat import Model, ThreatModel
from tasks.data import read_images
from tasks.step import Run, measured
from tasks.store import Artifact
from tasks.target import open_session, open_target, placed


@measured
def survey_file(
    run: Run,
    onnx: Artifact,
    no_twin: Artifact | None,
    images: Artifact,
    /,
    *,
    survey: Spec,
    attacked: int,
    seed: int,
) -> dict[str, bytes]:
    """Accuracy of the first `attacked` images under every condition of one survey."""
    data = placed(read_images(run, images).test.first(attacked))
    session, target = open_target(run, onnx, no_twin, "gradients")
    model = _asked(session, target, survey)
    ask = bind(SURVEYS, survey, "evaluation.surveys")
    parts = []
    with run.progress(survey.name, len(data), "image") as advance:
        for index, (x, y) in enumerate(data.batches(BATCH)):
            part = ask(model, x, y, generator(seed, survey.name, index))
            if isinstance(session, Inside) and model is target:
                # What an informed search does not give up is more than what is right.
                right = classified(session, x, y)
                part = {name: standing & right for name, standing in part.items()}
            parts.append(part)
            advance(len(y))
    conditions = {
        name: accuracy(torch.cat([part[name] for part in parts]).tolist()) for name in parts[0]
    }
    found = Survey(
        survey=survey.name,
        params=resolve(SURVEYS[survey.name], survey.params),
        conditions=conditions,
        seconds=round(run.seconds, 3),
    )
    return {"survey": found.model_dump_json().encode()}


@measured
def certify_file(
    run: Run,
    onnx: Artifact,
    images: Artifact,
    /,
    *,
    method: Spec,
    threat: ThreatModel,
    attacked: int,
    seed: int,
) -> dict[str, bytes]:
    """A lower bound of the robust accuracy of the first `attacked` images, image by image.

    A method that has no answer for a file abstains on every image and says why.
    """
    data = read_images(run, images).test.first(attacked)
    certify = bind(CERTIFIERS, method, "evaluation.certify")
    rng = generator(seed, "certify", method.name)
    try:
        if isinstance(open_session(run.read(onnx)), Inside):
            raise ModelError("the model does not ship as the ONNX file that would be certified")
        found = certify(run.read(onnx), data, threat, rng, run)
    except ModelError as error:
        found = _no_answer(method, len(data), threat, str(error))
    run.line(f"{found.accuracy.value:.1%} certified")
    return {"certificate": found.model_dump_json().encode()}


def _asked(session: Session | Inside, target: Deployed, survey: Spec) -> Model:
    """What a survey asks: of a model that does not ship, what judges, unless gradients lead."""
    if not isinstance(session, Inside):
        return target
    if session.form.rejects:
        # Out here nobody evades: an image that is rejected is not right.
        return target.__call__
    return target if facts(SURVEYS[survey.name]).access == "gradients" else session


def _no_answer(method: Spec, images: int, threat: ThreatModel, reason: str) -> Certificate:
    return Certificate(
        method=method.name,
        subject="file",
        text=f"Not certified: {reason}",
        norm=threat.norm,
        eps=threat.eps,
        certified=[False] * images,
        abstained=[True] * images,
        accuracy=accuracy([False] * images),
        radius_norm=threat.norm,
        radii=[0.0] * images,
        figures={},
    )
