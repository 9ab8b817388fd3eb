"""A quantized file looks robust to whoever differentiates its rounding, and is reported as it is.

A small CNN on scikit-learn's digits, trained, quantized and evaluated by the steps of `temper`.
"""

import json

import pytest

from attacks.profiles import PROFILES, AttackSpec
from flows.chain import run_chain
from flows.config import parse
from flows.sources import find_sources
from hardening.deployment.operators import straight_through
from hardening.evidence import RunEvidence
from hardening.log import Silent
from hardening.verdict import Gate, judge
from tasks.attack import attack_file
from tasks.settings import store_uri
from tasks.store import open_store

IMAGES = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(home, monkeypatch, now):
    """Runs the chain of a configuration: its evidence, and the files by name."""
    monkeypatch.setenv("TEMPER_HOME", str(home))

    def run(**content):
        config = parse(
            {
                "name": "masked",
                "data": {"name": "digits"},
                "threat": {"norm": "linf", "eps": 0.1},
                "evaluation": {"images": IMAGES, "curve": [0.5], "profile": "quick"},
                **content,
            },
            "masked.yaml",
        )
        store = open_store(store_uri())
        made = run_chain(config, now, find_sources(config, store, Silent()))
        return RunEvidence.model_validate_json(store.get(made.evidence)), made.files, config

    return run


@pytest.fixture
def trained(run):
    """The float file and the int8 file made of it."""
    return run(
        model={"name": "small_cnn", "params": {"width": 8}},
        training={"epochs": 8, "batch_size": 64},
        candidates={"small": [{"name": "quantization"}]},
    )


def naive(now, config):
    """The part of the images that stands under PGD through rounding as it is, of slope 0."""
    seen = now.outputs["small: inspect"]
    attacked = now(
        attack_file,
        "naive",
        now.outputs["small: export"]["onnx"],
        (),
        now.outputs["choose images"]["images"],
        seen["standing"],
        name="pgd",
        attack=AttackSpec(name="pgd", params={"steps": 40}),
        shard=[0, IMAGES],
        threat=config.threat,
        seed=0,
    ).result()
    return len(json.loads(open_store(store_uri()).get(attacked["standing"]))) / IMAGES


def zero(_, gradient):
    """What rounding's derivative is almost everywhere."""
    return gradient.new_zeros(gradient.shape), None, None, None


def test_int8_that_hides_its_gradients_is_reported_as_its_float_parent_is(
    trained, now, monkeypatch
):
    evidence, _, config = trained
    exact, small = (evidence.models[name] for name in ("control", "small"))
    monkeypatch.setattr(straight_through._Round, "backward", staticmethod(zero))

    assert naive(now, config) > 0.9
    assert exact.robust.value < 0.6
    assert abs(small.robust.value - exact.robust.value) <= 0.05
    assert small.file.precision == "int8"
    assert {row.kind for row in small.attacks} == {*small.due}


def test_the_same_file_brought_without_its_parent_is_reported_so_too(trained, run, tmp_path):
    evidence, files, _ = trained
    path = tmp_path / "theirs.onnx"
    path.write_bytes(open_store(store_uri()).get(files["small"]))

    theirs, _, _ = run(model={"onnx": str(path)})

    model = theirs.models["control"]
    assert abs(model.robust.value - evidence.models["control"].robust.value) <= 0.05
    assert {row.kind for row in model.attacks} == {*model.due}
    assert judge(theirs, Gate()).judgements[0].status != "NOT EVALUATED"
    own = [spec for spec in PROFILES["quick"].attacks if spec.source in {"file", "parent"}]
    assert len(model.attacks) == len(own)
