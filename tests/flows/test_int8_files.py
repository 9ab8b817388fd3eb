"""An int8 file looks robust to whoever differentiates its rounding, and is reported as it is.

A small CNN on scikit-learn's digits, trained, quantized and evaluated by the steps of `temper`.
"""

import hashlib
import json

import onnx
import pytest
from onnx import helper

from attacks.profiles import AttackSpec
from flows.config import parse
from hardening.deployment.float_form import float_form
from hardening.deployment.operators import straight_through
from hardening.threat import ThreatModel
from tasks.attack import attack_file
from tasks.settings import store_uri
from tasks.store import open_store

IMAGES = 100

DUE = ["straight-through", "transfer", "differential", "gradient-free"]

ATTACKS = [
    {"name": "apgd", "params": {"steps": 20, "loss": "ce"}},
    {"name": "apgd", "params": {"steps": 20, "loss": "margin"}, "source": "parent"},
    {"name": "diva", "params": {"steps": 20}, "source": "parent"},
    {"name": "square", "params": {"queries": 100}},
]
"""One of each kind that is due, where a whole profile would only take longer."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(home, chain):
    def run(champion=None, evaluation=None, **content):
        shared = {
            "name": "int8",
            "data": {"name": "digits"},
            "threat": {"norm": "linf", "eps": 0.1},
            "evaluation": {"images": IMAGES, "curve": [0.5], **(evaluation or {})},
        }
        return chain(parse({**shared, **content}, "int8.yaml"), home, champion)

    return run


@pytest.fixture
def trained(run):
    """A float file, `control`, and the int8 file made of it, `small`; steps are known by then."""
    return run(
        model={"name": "small_cnn", "params": {"width": 8}},
        training={"epochs": 8, "batch_size": 64},
        candidates={"small": [{"name": "quantization"}]},
    )


@pytest.fixture
def brought(run, tmp_path):
    """Evaluates bytes as a file that a user brings."""

    def brought(data, **content):
        path = tmp_path / "theirs.onnx"
        path.write_bytes(data)
        return run(model={"onnx": str(path)}, evaluation={"attacks": ATTACKS}, **content)

    return brought


def naive(now, file):
    """The part of the images that stands under PGD through rounding as it is, of slope 0."""
    attacked = now(
        attack_file,
        "naive",
        file,
        None,
        (),
        now.outputs["choose images"]["images"],
        now.outputs["small: inspect"]["standing"],
        name="pgd",
        attack=AttackSpec(name="pgd", params={"steps": 40}),
        shard=[0, IMAGES],
        threat=ThreatModel(norm="linf", eps=0.1),
        seed=0,
    ).result()
    return len(json.loads(open_store(store_uri()).get(attacked["standing"]))) / IMAGES


def zero(_, gradient):
    """What rounding's derivative is almost everywhere."""
    return gradient.new_zeros(gradient.shape), None, None, None


def odd(int8):
    """The int8 file with an operator on its integers that only an int8 file could have."""
    model = onnx.load_model_from_string(int8)
    place, first = next(
        (place, node)
        for place, node in enumerate(model.graph.node)
        if node.op_type == "QuantizeLinear"
    )
    written, first.output[0] = first.output[0], "before"
    model.graph.node.insert(place + 1, helper.make_node("Max", ["before"] * 2, [written]))
    return model.SerializeToString()


def gap(model):
    return next(alarm for alarm in model.alarms if alarm.name == "int8 above float")


def test_int8_that_hides_its_gradients_is_reported_as_its_float_parent_is(
    trained, now, monkeypatch
):
    exact, small = (trained.run.models[name] for name in ("control", "small"))
    monkeypatch.setattr(straight_through._Round, "backward", staticmethod(zero))

    assert naive(now, now.outputs["small: export"]["onnx"]) > 0.9
    assert exact.robust.value < 0.6
    assert abs(small.robust.value - exact.robust.value) <= 0.05
    assert small.file.precision == "int8"
    assert {row.kind for row in small.attacks} == {*DUE}
    assert small.notes == []


def test_the_same_file_brought_without_its_parent_is_attacked_from_its_own_float_form(
    trained, brought
):
    data = trained.files["small"]
    done = brought(data)
    model = done.run.models["control"]

    assert model.due == DUE
    assert [row.kind for row in model.attacks] == DUE
    digest = hashlib.sha256(float_form(data)).hexdigest()
    assert model.attacks[2].disagreement.parent == digest
    assert "parent was made from the file itself" in model.notes[0]
    assert model.notes[0] in done.page
    assert gap(model).value is not None
    assert not gap(model).fired
    assert done.verdict(max_alarms=9).passed
    assert abs(model.robust.value - trained.run.models["control"].robust.value) <= 0.05


def test_without_a_float_form_a_file_is_not_evaluated_and_a_champion_has_its_own(trained, brought):
    done = brought(odd(trained.files["small"]), champion=trained.files["small"])
    model, champion = (done.run.models[name] for name in ("control", "champion"))
    (judgement,) = done.verdict().judgements

    assert model.due == DUE
    assert [row.kind for row in model.attacks] == [DUE[0], DUE[3]]
    assert model.notes[0].endswith(
        "no float form of it: operator Max on integers has no float form"
    )
    assert gap(model).value is None
    assert judgement.status == "NOT EVALUATED"
    assert judgement.checks[0].text.startswith("transfer, differential; ONNX file")

    assert champion.due == DUE
    assert [row.kind for row in champion.attacks] == DUE
    assert "made from the file itself" in champion.notes[0]


def test_an_int8_file_that_was_trained_is_held_against_its_own_float_form(trained, brought):
    """What it was made from leads attacks, too, but has other weights: it is no measure of it."""
    params = {"steps": 2, "rounds": 1, "epochs": 1}
    aware = [{"name": "quantization_aware", "params": params}]
    done = brought(trained.files["control"], candidates={"aware": aware})
    model = done.run.models["aware"]

    assert model.attacks[2].disagreement.parent == done.run.models["control"].file.sha256
    assert "made from the file itself" in model.notes[0]
    assert gap(model).value is not None
    assert not gap(model).fired
    assert "attacked by three attacks" in gap(model).detail
    assert done.verdict().judgements[0].status != "NOT EVALUATED"
