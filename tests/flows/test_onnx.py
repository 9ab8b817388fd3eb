"""A file that a user brings: evaluated as it is, quantized, or refused in one line."""

import json

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from flows.chain import run_chain
from flows.config import parse
from flows.evaluation import existing
from flows.sources import find_sources
from hardening.consistency import contradiction
from hardening.data.digits import digits
from hardening.deployment.contract import Contract, contract_of, with_contract
from hardening.deployment.export import export
from hardening.errors import ModelError
from hardening.log import Silent
from tasks.settings import store_uri
from tasks.step import Plan
from tasks.store import open_store

FIELDS = {"layout": "NHWC", "range": "0..255", "outputs": "probabilities"}

ATTACKS = [
    {"name": "apgd", "params": {"steps": 20, "loss": "ce"}},
    {"name": "apgd", "params": {"steps": 20, "loss": "dlr"}},
    {"name": "apgd", "params": {"steps": 20, "loss": "dlr"}, "source": "parent"},
    {"name": "diva", "params": {"steps": 20}, "source": "parent"},
    {"name": "square", "params": {"queries": 100}},
]


class Theirs(nn.Module):
    """A net (B, H, W, C) in 0..255 to probabilities, as Keras would write it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return (3 * self.net(images.permute(0, 3, 1, 2) / 255)).softmax(1)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        raw = digits(None)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(raw.train.floats()), raw.train.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
    """Addresses of the net's forms by name."""
    plain, theirs = export(net, (1, 8, 8)), export(Theirs(net).eval(), (8, 8, 1))
    strange = onnx.load_model_from_string(plain)
    strange.graph.node[-1].output[0] = "before"
    strange.graph.node.append(helper.make_node("Asinh", ["before"], ["logits"]))
    forms = {
        "plain": plain,
        "theirs": theirs,
        "strange": strange.SerializeToString(),
    }
    folder = tmp_path_factory.mktemp("files")
    for name, data in forms.items():
        (folder / f"{name}.onnx").write_bytes(data)
    return {name: folder / f"{name}.onnx" for name in forms}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def do(home, files, chain):
    """Runs the chain on a file, in one home: what is known is not done again."""

    def run(name, candidates=None, **fields):
        return chain(configured(files[name], candidates, **fields), home)

    return run


def configured(path, candidates=None, **fields):
    content = {
        "name": "mine",
        "data": {"name": "digits"},
        "model": {"onnx": str(path), **fields},
        "threat": {"norm": "linf", "eps": 0.06},
        "evaluation": {"images": 60, "curve": [0.5], "attacks": ATTACKS},
        "candidates": candidates or {},
    }
    return parse(content, "mine.yaml")


def test_the_very_file_is_evaluated_whatever_it_wants_and_answers(do, files, now):
    """The same net in our form and in Keras's: the same accuracy, as robust but for a near tie."""
    ours, theirs = do("plain"), do("theirs", **FIELDS)
    assert ours.files["control"] == files["plain"].read_bytes()
    assert theirs.files["control"].startswith(files["theirs"].read_bytes())
    first, second = (done.run.models["control"] for done in (ours, theirs))
    assert first.clean == second.clean
    assert first.clean.value > 0.9
    assert 5 < first.robust.correct < 50
    assert abs(first.robust.correct - second.robust.correct) <= 2
    assert theirs.verdict().passed
    assert not contradiction(theirs.run)
    assert not any("export" in label or "train" in label for label in now.outputs)


def test_quantizing_keeps_the_contract_and_attacks_from_the_float_file(do):
    done = do("theirs", {"small": [{"name": "quantization"}]}, **FIELDS)
    small = done.run.models["small"]
    model = onnx.load_model_from_string(done.files["small"])
    assert contract_of(model) == Contract(**FIELDS)
    assert len(done.files["small"]) < len(done.files["control"])
    kinds = {"straight-through", "transfer", "differential", "gradient-free"}
    assert {row.kind for row in small.attacks} == kinds
    assert abs(small.robust.value - done.run.models["control"].robust.value) < 0.1
    assert done.verdict().passed


def test_a_file_without_a_twin_is_attacked_without_gradients_and_is_not_evaluated(do):
    done = do("strange")
    model = done.run.models["control"]
    assert [row.name for row in model.attacks] == ["square"]
    assert model.attacks[0].fell
    assert model.twin_parity is None
    assert "operator Asinh is not one a twin can compute" in model.notes[0]
    assert not contradiction(done.run)
    (judgement,) = done.verdict().judgements
    assert judgement.status == "NOT EVALUATED"
    assert judgement.checks[0].text.startswith("white-box; ")
    assert "Asinh" in judgement.checks[0].text
    assert "Asinh" in done.page


def test_a_file_that_is_misunderstood_ends_before_the_first_attack(do, home):
    with pytest.raises(ModelError, match=r"which is chance for 10 classes: check model\.layout"):
        do("theirs", **FIELDS | {"range": "0..1", "mean": [0.9], "std": [9.0]})


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("theirs", {}, r"takes images \(8, 8, 1\).*, the dataset's are \(1, 8, 8\); model.layout"),
        ("theirs", {**FIELDS, "outputs": "logits"}, r"model\.outputs: probabilities"),
        ("plain", {"output": "label"}, r"got 'label' as model\.output"),
        ("plain", {"mean": [0.5] * 3, "std": [0.5] * 3}, r"got 3 numbers as model\.mean and"),
        ("plain", {"outputs": "probabilities"}, r"as model\.outputs says probabilities"),
        ("plain", {"sha256": "0" * 64}, "expected " + "0" * 64),
    ],
)
def test_what_does_not_fit_is_one_line(do, name, fields, says):
    with pytest.raises((ModelError, ValueError), match=says) as caught:
        do(name, **fields)
    assert "\n" not in str(caught.value)


def test_another_number_of_classes_is_refused(do, files, net):
    five = nn.Sequential(net, nn.Linear(10, 5)).eval()
    files["five"] = files["plain"].with_name("five.onnx")
    files["five"].write_bytes(export(five, (1, 8, 8)))
    with pytest.raises(ModelError, match="got 5 outputs, expected 10, the dataset's classes"):
        do("five")


def test_a_shipped_file_needs_no_second_contract(do, files):
    """It carries one: the same figures without a word in the configuration."""
    files["shipped"] = files["theirs"].with_name("shipped.onnx")
    files["shipped"].write_bytes(with_contract(files["theirs"].read_bytes(), Contract(**FIELDS)))
    assert (
        do("shipped").run.models["control"].robust
        == do("theirs", **FIELDS).run.models["control"].robust
    )


def test_onnx_given_as_weights_is_told_where_it_belongs(do, files, now):
    config = configured(files["plain"])
    content = config.model_dump(mode="json", exclude={"model", "registry", "training"})
    content["model"] = {"name": "small_cnn", "weights": str(files["plain"])}
    config = parse(json.loads(json.dumps(content)), "x")
    sources = find_sources(config, open_store(store_uri()), Silent())
    with pytest.raises(ModelError, match=r"got an ONNX file as model\.weights.*model\.onnx"):
        run_chain(config, now, sources)


def test_a_plan_knows_the_file(do, files):
    config, plan = existing(configured(files["plain"])), Plan()
    run_chain(config, plan, find_sources(config, open_store(store_uri()), Silent()))
    assert "fetch_onnx" in {planned.step for planned in plan.steps}
    assert "export_file" not in {planned.step for planned in plan.steps}


def test_a_users_file_is_trained_in_place_and_ships_in_its_own_form(do, files):
    """The contract stays, the graph stays, its weights do not."""
    done = do("theirs", {"tuned": [{"name": "n_fgsm", "params": {"epochs": 3}}]}, **FIELDS)
    before, after = (onnx.load_model_from_string(done.files[n]) for n in ("control", "tuned"))
    assert contract_of(after) == contract_of(before) == Contract(**FIELDS)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    assert done.run.models["tuned"].robust.correct > done.run.models["control"].robust.correct
    assert done.run.models["tuned"].twin_parity.max_difference < 1e-3
