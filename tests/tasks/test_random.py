"""Of a random model, the majority of its answers counts, and no search ends by luck."""

import json

import pytest
import torch
from torch import nn

from attacks.adaptive import expectation, majority
from attacks.gradient import draws
from hardening.attack import stands
from hardening.data import Labelled, TestData
from hardening.deployed import Deployed
from hardening.deployment.export import export
from hardening.diagnosis.limits import Limits
from hardening.inside import Inside
from hardening.models.form import Form
from hardening.spec import Spec
from hardening.threat import ThreatModel
from tasks.diagnose import diagnose_file
from tasks.step import Run
from tasks.store import open_store
from tasks.survey import survey_file
from tasks.target import led_by

COUNT = 200
FEW = 0.2


class Wavering(Form):
    """Gives an image label 0 with chance `p`, and else label 1."""

    def __init__(self, p):
        super().__init__(Spec(name="wavering"), [])
        self.p, self.rng = p, torch.Generator().manual_seed(0)

    def forward(self, x):
        right = (torch.rand(len(x), generator=self.rng) < self.p).float()
        nowhere = 0 * x.flatten(1)[:, :8]
        return torch.cat([torch.stack([right, 1 - right], 1), nowhere], 1)

    def judge(self):
        return majority(self)

    def informed(self):
        return expectation(self, draws=20)


def opened(p):
    session = Inside(b"", Wavering(p))
    return session, Deployed(session, session.informed, scores=True)


@pytest.fixture
def run(tmp_path):
    return Run(open_store(tmp_path.as_uri()), "key", "random")


@pytest.fixture
def zeros(run):
    x, y = torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.int64)
    return run.store.put(TestData(Labelled(x, y), tuple("0123456789")).to_bytes())


@pytest.fixture
def rarely_right(run, monkeypatch):
    """A model that no search gives up, although the majority of its answers is mostly wrong."""
    for name in ("tasks.survey.open_target", "tasks.diagnose.open_exact"):
        monkeypatch.setattr(name, lambda *_: opened(0.35))
    return run.store.put(b"what is opened in its place")


@pytest.mark.parametrize(("p", "least", "most"), [(0.6, 98, 100), (0.1, 0, 2)])
def test_a_search_that_others_lead_does_not_end_by_luck(run, p, least, most):
    source = export(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), (1, 8, 8))
    led = led_by(run, opened(p)[1], (run.store.put(source),))
    x, y = torch.rand(100, 1, 8, 8), torch.zeros(100, dtype=torch.int64)
    standing = torch.ones(100, dtype=torch.bool)
    for _ in range(20):
        standing &= stands(led, x, led(x), y)

    assert least <= int(standing.sum()) <= most
    assert draws(led) == 1, "gradients of others need no mean"


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("spatial", {"rotations": 1, "shifts": 1, "draws": 1}),
        ("patch", {"steps": 1, "places": 1}),
    ],
)
def test_a_survey_counts_the_majority(run, zeros, rarely_right, name, params):
    survey = Spec(name=name, params=params)
    settings = {"survey": survey, "attacked": COUNT, "seed": 0}
    made = survey_file.function(run, rarely_right, None, zeros, **settings)
    found = json.loads(made["survey"])["conditions"]
    assert all(condition["value"] < FEW for condition in found.values())


def test_a_diagnosis_counts_the_majority(run, zeros, rarely_right):
    standing = run.store.put(json.dumps(list(range(COUNT))).encode())
    made = diagnose_file.function(
        run, rarely_right, None, None, zeros, (standing,), (),
        threat=ThreatModel(norm="linf", eps=0.1), gates=["G8"], sample=COUNT, attacked=COUNT,
        steps=2, limits=Limits(), seed=0,
    )  # fmt: skip
    (unbounded,) = [alarm for alarm in json.loads(made["alarms"]) if alarm["gate"] == "G8"]
    assert unbounded["value"] < FEW
    assert all(point["accuracy"]["value"] < FEW for point in json.loads(made["radii"]))
