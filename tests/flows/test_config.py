"""A configuration is checked whole; a mistake is one line that names the field."""

import copy
from pathlib import Path

import pytest
import yaml

from defenses import DEFENSES
from flows.config import load, load_gate, parse
from flows.validate import LAST, ROUNDING, UNLED, cautions, validate
from hardening.errors import ConfigError

RECIPES = sorted(
    [
        *Path("flows/configs").glob("*.yaml"),
        *Path("benchmarks/configs").glob("*.yaml"),
    ]
)


@pytest.fixture
def content():
    return copy.deepcopy(yaml.safe_load(Path("flows/configs/digits.yaml").read_text()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_valid(path):
    validate(load(path))


def test_eps_may_be_a_fraction(content):
    content["threat"]["eps"] = "8/255"
    assert parse(content, "x").threat.eps == 8 / 255


MISTAKES = {
    "unknown key": (["sead"], 1, "sead: unknown key, did you mean 'seed'?"),
    "unknown nested key": (["data", "nmae"], 1, "data.nmae: unknown key, did you mean 'name'?"),
    "unknown gate key": (["gate", "clean_acuracy"], 1, "did you mean 'clean_accuracy'?"),
    "eps zero": (["threat", "eps"], 0, "threat.eps: Input should be greater than 0, got 0"),
    "eps negative": (["threat", "eps"], -0.1, "threat.eps: Input should be greater than 0"),
    "eps nan": (["threat", "eps"], float("nan"), "threat.eps"),
    "eps no number": (["threat", "eps"], "a/b", "threat.eps: got 'a/b', expected a number or a"),
    "eps over zero": (["threat", "eps"], "8/0", "threat.eps: got '8/0'"),
    "unknown norm": (["threat", "norm"], "l7", "threat.norm"),
    "no images": (["evaluation", "images"], 0, "evaluation.images"),
    "reserved candidate": (["candidates", "control"], [{"name": "trades"}], "candidates.control"),
    "empty chain": (["candidates", "tuned"], [], "candidates.tuned"),
    "bad name": (["name"], "My Run", "name: String should match pattern"),
    "a model and a file": (
        ["model", "onnx"],
        "m.onnx",
        "name and onnx: got both, expected exactly",
    ),
    "neither model nor file": (["model"], {}, "name and onnx: got none of them, expected exactly"),
    "layout of a model of ours": (
        ["model", "layout"],
        "NHWC",
        "layout: got it beside name, expected",
    ),
    "weights of a file": (
        ["model"],
        {"onnx": "m.onnx", "weights": "w.pt"},
        "weights: got it beside onnx, expected it beside name only",
    ),
    "unknown layout": (
        ["model"],
        {"onnx": "m.onnx", "layout": "CHW"},
        "model.layout: Input should",
    ),
    "unknown answers": (
        ["model"],
        {"onnx": "m.onnx", "outputs": "softmax"},
        "model.outputs: Input",
    ),
    "file and training": (["model"], {"onnx": "m.onnx"}, "training: got it beside model.onnx"),
    "half a normalisation": (["model", "mean"], [0.5], "model: mean and std: got one of them"),
    "registry without a robust limit": (["gate"], {"clean_accuracy": 0.9}, "registry: expected"),
    "registry without candidates": (["candidates"], {}, "registry: expected candidates"),
    "early decision beside a gain": (
        ["evaluation", "early_decision"],
        0.01,
        "evaluation.early_decision: got it beside gate.min_robust_gain or a registry",
    ),
    "weights and training": (["model", "weights"], "w.pt", "training: got it beside model.weights"),
}


@pytest.mark.parametrize(("path", "value", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_the_field(content, path, value, says):
    _set(content, path, value)
    with pytest.raises(ConfigError) as caught:
        parse(content, "run.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("run.yaml: ")


UNKNOWN = {
    "attack": (["evaluation", "attacks"], [{"name": "pdg"}], "evaluation.attacks.0"),
    "attack parameter": (
        ["evaluation", "attacks"],
        [{"name": "pgd", "params": {"stepz": 3}}],
        "unknown parameter 'stepz', did you mean 'steps'?",
    ),
    "attack of another norm": (
        ["evaluation", "attacks"],
        [{"name": "ddn"}],
        "evaluation.attacks.0: got ddn for a threat of norm linf, expected one of its norms: l2",
    ),
    "source of an attack": (
        ["evaluation", "attacks"],
        [{"name": "apgd", "source": "controll"}],
        "evaluation.attacks.0.source: unknown name 'controll', did you mean 'control'?",
    ),
    "adaptive wrapper": (
        ["evaluation", "attacks"],
        [{"name": "apgd", "through": [{"name": "expectatio"}]}],
        "evaluation.attacks.0.through.0: unknown name 'expectatio'",
    ),
    "survey": (["evaluation", "surveys"], [{"name": "spatal"}], "did you mean 'spatial'?"),
    "certifier": (["evaluation", "certify"], [{"name": "ibp"}], "evaluation.certify.0"),
    "alarm limit": (["evaluation", "limits"], {"noize": 0.1}, "noize"),
    "statement": (
        ["evaluation", "statements"],
        {"threat": "mine"},
        "evaluation.statements: unknown item 'threat'",
    ),
    "norm of single attacks only": (["threat", "norm"], "l0", "got l0, expected linf, l2 or l1"),
    "defense": (["candidates", "tuned"], [{"name": "trade"}], "did you mean 'trades'?"),
    "defense parameter": (
        ["candidates", "tuned"],
        [{"name": "trades", "params": {"epoch": 3}}],
        "candidates.tuned.0: trades: unknown parameter 'epoch', did you mean 'epochs'?",
    ),
    "dataset": (["data", "name"], "digit", "data.name: unknown name 'digit', did you mean"),
    "model": (["model", "name"], "small_cn", "did you mean 'small_cnn'?"),
    "training parameter": (["training"], {"epocs": 3}, "did you mean 'epochs'?"),
    "profile": (["evaluation", "profile"], "quik", "did you mean 'quick'?"),
    "npz without a path": (["data", "name"], "npz", "data.path: got nothing"),
    "quantization first": (
        ["candidates", "tuned"],
        [{"name": "quantization"}, {"name": "trades"}],
        "candidates.tuned.0: got quantization before trades, expected it last",
    ),
    "random pruning first": (
        ["candidates", "tuned"],
        [{"name": "stochastic_activation_pruning"}, {"name": "quantization"}],
        "got stochastic_activation_pruning before quantization, expected it last",
    ),
    "two budgets": (
        ["candidates", "tuned"],
        [{"name": "auto", "params": {"multiples": 2, "minutes": 1}}],
        "candidates.tuned.0: auto: got 2 multiples and 1 minutes, expected one of them",
    ),
    "parts of a batch that is carried on": (
        ["candidates", "tuned"],
        [{"name": "n_fgsm"}, {"name": "free", "params": {"accumulate": 2}}],
        "candidates.tuned.1: free.accumulate: Input should be 1, got 2",
    ),
    "two dials": (
        ["candidates", "tuned"],
        [{"name": "interpolation", "params": {"keep_clean": 0.9}}],
        "candidates.tuned.0: interpolation.keep_clean: Input should be None, got 0.9",
    ),
    "a detector's classifier held back": (
        ["candidates", "tuned"],
        [{"name": "detector", "params": {"anchor": 0.5}}],
        "candidates.tuned.0: detector.anchor: Input should be 0, got 0.5",
    ),
    "training behind rounding": (
        ["candidates", "tuned"],
        [{"name": "jpeg"}, {"name": "smooth_activation"}, {"name": "trades"}],
        "candidates.tuned.2: got trades after jpeg, expected it before: jpeg passes no gradient",
    ),
    "no attack at all": (["evaluation", "attacks"], [], "evaluation.attacks: got an empty list"),
}


@pytest.mark.parametrize(("path", "value", "says"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_name_comes_with_the_nearest_valid_one(content, path, value, says):
    _set(content, path, value)
    with pytest.raises(ConfigError) as caught:
        validate(parse(content, "run.yaml"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "chain", ["auto", ["auto"], {"name": "auto"}, [{"name": "auto", "params": {}}]], ids=str
)
def test_a_defense_with_nothing_set_is_its_name_alone(content, chain):
    content["candidates"] = {"tuned": chain}
    config = parse(content, "run.yaml")
    validate(config)
    assert [spec.model_dump() for spec in config.candidates["tuned"]] == [
        {"name": "auto", "params": {}}
    ]


def test_the_rules_on_chains_are_about_defenses_that_there_are():
    assert {*LAST, *ROUNDING, *UNLED} <= set(DEFENSES)


def test_a_file_is_trained_behind_rounding_that_gradients_pass(content):
    content["candidates"] = {"tuned": ["bit_depth", "n_fgsm"]}
    content["model"], content["training"] = {"onnx": "m.onnx"}, None

    validate(parse(content, "run.yaml"))


@pytest.mark.parametrize(("certified", "told"), [(0.25, False), (0.5, True)])
def test_noise_that_training_and_certificate_do_not_share_is_told(content, certified, told):
    content["candidates"] = {"smooth": "smoothing", "other": "n_fgsm"}
    content["evaluation"]["certify"] = [{"name": "smoothing", "params": {"sigma": certified}}]

    said = cautions(parse(content, "run.yaml"))

    assert [text.split(":")[0] for text in said] == (["candidates.smooth"] if told else [])
    assert not told or "sigma 0.25 and certified with 0.5" in said[0]


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="the key 'name' is given twice"):
        load(path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(path)


def test_yaml_that_would_build_objects_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml")


def test_a_gate_is_read_alone_and_from_a_configuration(tmp_path):
    (tmp_path / "gate.yaml").write_text("robust_accuracy: 0.5\n")
    assert load_gate(tmp_path / "gate.yaml").robust_accuracy == 0.5
    assert load_gate("flows/configs/digits.yaml").robust_accuracy == 0.5


def test_a_gate_with_an_unknown_limit_is_refused(tmp_path):
    (tmp_path / "gate.yaml").write_text("robust_acuracy: 0.5\n")
    with pytest.raises(ConfigError, match="did you mean 'robust_accuracy'"):
        load_gate(tmp_path / "gate.yaml")


def _set(content, path, value):
    *parents, last = path
    for name in parents:
        content = content[name]
    content[last] = value
