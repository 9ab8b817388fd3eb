"""Steps on models that do not ship: the module answers for itself, and is attacked as it says."""

import json
import sys
from pathlib import Path

import pytest
import torch

from attacks.profiles import AttackSpec
from defenses import FORMS
from defenses.detector import detector
from defenses.quantization import quantization
from defenses.standard import standard
from defenses.stochastic_activation_pruning import stochastic_activation_pruning
from defenses.training import Loop
from hardening.data import TestData, TrainingData
from hardening.data.digits import digits
from hardening.deployment.export import export
from hardening.diagnosis.limits import Limits
from hardening.log import Silent
from hardening.models import files
from hardening.models.architecture import Architecture, build
from hardening.spec import Spec
from hardening.threat import ThreatModel
from tasks.attack import attack_file
from tasks.diagnose import diagnose_file
from tasks.inspect import inspect_file, measure_file
from tasks.naive import naive_file
from tasks.radii import curve_file
from tasks.step import Run
from tasks.store import open_store
from tasks.survey import certify_file, survey_file

THREAT = ThreatModel(norm="linf", eps=0.15)
IMAGES = 24
LIMITS = Limits()
OURS = {"brought": False, "of_brought": False}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Bench:
    """A store with the images and the models, and steps run in this process."""

    def __init__(self, root):
        self.run = Run(open_store(root.as_uri()), "key", "bench")
        self.held = {}

    def keep(self, name, data):
        self.held[name] = self.run.store.put(data)

    def do(self, step, *inputs, **settings):
        given = [self.held.get(name, name) if isinstance(name, str) else name for name in inputs]
        made = step.function(self.run, *given, **settings)
        return {name: self.run.store.put(data) for name, data in made.items()}

    def inspect(self, model):
        return self.do(inspect_file, model, "images", threat=THREAT, seed=0, **OURS)

    def json(self, artifact):
        return json.loads(self.run.store.get(artifact))

    def attacked(self, model, *, source=None, **attack):
        seen = self.inspect(model)
        made = self.do(
            attack_file,
            model,
            None,
            (self.held[source],) if source else (),
            "images",
            seen["standing"],
            name="attack",
            attack=AttackSpec(**attack, source="parent" if source else "file"),
            shard=[0, IMAGES],
            threat=THREAT,
            seed=0,
        )
        return self.json(made["part"]), len(self.json(made["standing"])), made


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("store"))
    found = digits(Path()).train
    order = torch.randperm(len(found), generator=seeded())
    train, validation, test = (
        found.take(order[part])
        for part in (slice(900), slice(900, 1100), slice(1100, 1100 + IMAGES))
    )
    data = TrainingData(train, validation, tuple("0123456789"))
    made.keep("images", TestData(test, data.classes).to_bytes())
    shape = Architecture(
        name="small_cnn", params={"width": 6}, shape=(1, 8, 8), classes=10, mean=(0.5,), std=(0.25,)
    )
    loop = Loop(epochs=5, batch_size=64)
    model = standard(build(shape, 0), data, seeded(), Silent(), loop=loop)
    given = (model, data, THREAT, seeded(), Silent())
    made.keep("dense", export(model, (1, 8, 8)))
    made.keep("module", files.save(model))
    made.keep("int8", quantization(*given, calibration_images=64).data)
    made.keep("pruned", files.save(stochastic_activation_pruning(*given)))
    watched = detector(*given, width=8, loop=Loop(epochs=5, batch_size=64, ramp=0))
    made.keep("watched", files.save(watched))
    return made


@pytest.fixture
def few_draws(monkeypatch):
    """An expectation of three passes: what is tested is the road, not its strength."""
    module = sys.modules["defenses.stochastic_activation_pruning"]
    monkeypatch.setattr(module, "DRAWS", 3)


@pytest.mark.parametrize("model", ["pruned", "watched"])
def test_the_module_answers_and_says_that_no_file_was_run(bench, model):
    seen = bench.json(bench.inspect(model)["seen"])
    data = bench.run.store.get(bench.held[model])
    assert seen["file"]["sha256"] == bench.held[model].sha256
    assert seen["file"]["bytes"] == len(data)
    assert seen["file"]["providers"] == ["torch"]
    assert seen["twin_parity"] is None
    assert seen["no_twin"] == ""
    assert sum(seen["correct"]) > 0.7 * IMAGES


@pytest.fixture
def strict(bench):
    """The detector with a threshold that rejects half of the images: who is rejected."""
    model = files.load(bench.run.store.get(bench.held["watched"]), forms=FORMS)
    x = TestData.from_bytes(bench.run.store.get(bench.held["images"])).test.floats()
    middle = model.suspicion(x).detach().median()
    model.threshold.copy_(middle)
    bench.keep("strict", files.save(model))
    return (model.suspicion(x) > middle).tolist()


def test_a_clean_image_that_is_rejected_is_not_right(bench, strict):
    seen = bench.json(bench.inspect("strict")["seen"])
    assert sum(strict) == IMAGES // 2
    assert [said == 10 for said in seen["predictions"]] == strict
    assert not any(right and out for right, out in zip(seen["correct"], strict, strict=True))


def test_a_random_model_is_attacked_in_the_mean_and_the_row_says_so(bench, few_draws):
    part, standing, _ = bench.attacked(
        "pruned", name="apgd", params={"steps": 10, "loss": "margin"}
    )
    assert part["kind"] == "expectation"
    assert [wrapper["name"] for wrapper in part["through"]] == ["expectation"]
    assert part["unconfirmed"] == 0
    assert standing < 0.7 * IMAGES
    again, *_ = bench.attacked("pruned", name="apgd", params={"steps": 10, "loss": "margin"})
    assert again["fell"] == part["fell"]


def test_a_detector_is_attacked_with_its_classifier_and_the_row_says_so(bench):
    part, standing, made = bench.attacked("watched", name="apgd", params={"steps": 20})
    assert part["kind"] == "joint"
    assert [wrapper["name"] for wrapper in part["through"]] == ["joint", "undetected"]
    assert standing < 0.8 * IMAGES
    curve = bench.do(
        curve_file, "watched", None, "images",
        bench.inspect("watched")["seen"], (made["adversarial"],),
        shard=[0, IMAGES], threat=THREAT, factors=[0.5], seed=0,
    )  # fmt: skip
    falls = bench.json(curve["falls_at"])
    assert all(falls[image] is not None and falls[image] <= 1 for image in part["fell"])


@pytest.mark.parametrize("model", ["pruned", "watched"])
def test_others_lead_attacks_on_it_and_queries_reach_it(bench, few_draws, model):
    params = {"steps": 10, "loss": "dlr-targeted", "targets": 2}
    led, _, _ = bench.attacked(model, source="dense", name="apgd", params=params)
    assert led["kind"] == "transfer"
    assert len(led["fell"]) > 0
    asked, _, _ = bench.attacked(model, name="square", params={"queries": 20})
    assert asked["kind"] == "gradient-free"


def diagnosed(bench, model, gates):
    settings = {
        "threat": THREAT,
        "sample": 4,
        "attacked": 4,
        "steps": 2,
        "limits": LIMITS,
        "seed": 0,
    }
    made = bench.do(diagnose_file, model, None, None, "images", (), (), gates=gates, **settings)
    return bench.json(made["alarms"])


def test_to_be_rejected_is_no_class_that_a_backdoor_leads_to(bench):
    (scan,) = [
        alarm for alarm in diagnosed(bench, "watched", ["G2", "G19"]) if alarm["gate"] == "G19"
    ]
    assert scan["value"] is None
    assert "rejected is no class" in scan["detail"]


def test_gates_that_take_one_answer_for_granted_are_left_out_for_a_random_model(bench, few_draws):
    found = diagnosed(bench, "pruned", ["G1", "G2", "G3", "G4", "G5", "G6"])
    moot = {alarm["gate"] for alarm in found if "random on purpose" in alarm["detail"]}
    assert moot == {"G1", "G3", "G6", "G17"}
    assert {alarm["gate"] for alarm in found if alarm["value"] is not None} == {"G4", "G5"}


def test_nothing_is_proven_of_what_is_no_file_and_its_answers_are_timed(bench):
    settings = {"threat": THREAT, "attacked": 4, "seed": 0}
    made = bench.do(certify_file, "pruned", "images", method=Spec(name="interval"), **settings)
    certificate = bench.json(made["certificate"])
    assert certificate["abstained"] == [True] * 4
    assert "does not ship" in certificate["text"]
    timed = bench.json(bench.do(measure_file, "watched", "images")["measured"])
    assert timed["memory"] is None
    assert all(entry["p50_ms"] > 0 for entry in timed["latency"])


def test_a_survey_counts_a_rejected_image_as_not_right(bench, strict):
    motions = Spec(name="spatial", params={"rotations": 1, "shifts": 1, "draws": 1})
    settings = {"survey": motions, "attacked": IMAGES, "seed": 0}
    plain, half = (
        bench.json(bench.do(survey_file, name, None, "images", **settings)["survey"])["conditions"]
        for name in ("watched", "strict")
    )
    assert half["rotation"]["correct"] <= min(plain["rotation"]["correct"], IMAGES // 2)


def naive(bench, model):
    made = bench.do(naive_file, model, "images", threat=THREAT, attacked=IMAGES, seed=0)
    return {row["attack"]: row["accuracy"]["value"] for row in bench.json(made["naive"])}


def test_the_naive_number_is_what_plain_gradients_leave(bench):
    honest, rounded = naive(bench, "module"), naive(bench, "int8")
    assert set(honest) == {"fgsm", "pgd"}
    assert honest["pgd"] < 0.5
    assert min(rounded.values()) > 0.85  # rounding has no gradient
    assert naive(bench, "watched")["pgd"] > honest["pgd"] + 0.3  # the detector sees these
    assert naive(bench, "pruned")["pgd"] > honest["pgd"] + 0.1
