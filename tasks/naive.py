"""The step that measures what an evaluation would report that does not know the defense."""

import json

from attacks.registry import ATTACKS
from hardening.deployment.operators.straight_through import true_gradients
from hardening.errors import NoTwin
from hardening.evaluation import all_logits, all_stand, run_attack
from hardening.evidence import Naive
from hardening.inside import Inside
from hardening.models.form import Form
from hardening.spec import Spec, bind, resolve
from hardening.statistics import accuracy
from hardening.threat import Model, ThreatModel
from tasks.data import device, read_images
from tasks.models import restore
from tasks.step import Run, measured
from tasks.store import Artifact
from tasks.target import placed

NAIVE = (
    Spec(name="fgsm", params={"loss": "ce"}),
    Spec(name="pgd", params={"loss": "ce", "steps": 40}),
)
"""One step, and many: cross entropy, as everyone begins."""


@measured
def naive_file(
    run: Run,
    module: Artifact,
    images: Artifact,
    /,
    *,
    threat: ThreatModel,
    attacked: int,
    seed: int,
) -> dict[str, bytes]:
    """Attack the first `attacked` images through plain gradients of the module before export.

    The module judges. A file without a twin has no gradients to follow: nothing is reported.
    """
    data = placed(read_images(run, images).test.first(attacked))
    file = run.read(module)
    try:
        model = restore(file).to(device()).eval()
    except NoTwin:
        return {"naive": b"[]"}
    judge: Model = Inside(file, model) if isinstance(model, Form) else model
    careless = model.careless() if isinstance(model, Form) else model
    right = (all_logits(judge, data).argmax(1) == data.labels.cpu()) & all_stand(judge, data)
    places, rows = right.nonzero()[:, 0], []
    for spec in NAIVE:
        name, attack = f"naive {spec.name}", bind(ATTACKS, spec)
        with true_gradients():
            outcome = run_attack(
                name, attack, careless, judge, data, places, threat, seed, run, leader=careless
            )
        standing = right.clone()
        standing[outcome.fell] = False
        params = resolve(ATTACKS[spec.name], spec.params)
        row = Naive(attack=spec.name, params=params, accuracy=accuracy(standing.tolist()))
        rows.append(row.model_dump())
    run.line(", ".join(f"{row['attack']} {row['accuracy']['value']:.1%}" for row in rows))
    return {"naive": json.dumps(rows).encode()}
