"""What `temper check` lists before anything has run is what a run does."""

import hashlib
from types import SimpleNamespace

import onnx
import pytest
import yaml

from flows import sources
from flows.chain import run_chain
from flows.config import parse
from flows.plan import plan
from flows.subjects import Sources
from hardening.deployment.opening import Tried
from tasks import foreign
from tasks.step import Located
from tasks.store import Artifact

SOURCES = ["file", "control", "robust", "parent"]

CONTENT = {
    "name": "planned",
    "data": {"name": "digits"},
    "model": {"name": "small_cnn", "params": {"width": 4}},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": {"epochs": 1, "batch_size": 256},
    "evaluation": {
        "images": 12,
        "shard": 6,
        "curve": [0.5],
        "attacks": [
            *({"name": "apgd", "params": {"steps": 2}, "source": source} for source in SOURCES),
            {"name": "transfer", "params": {"steps": 2}, "source": "ensemble"},
            {"name": "diva", "params": {"steps": 2}, "source": "parent"},
        ],
        "surveys": [{"name": "spatial", "params": {"rotations": 1, "shifts": 1}}],
    },
    "candidates": {
        "tuned": [{"name": "n_fgsm", "params": {"epochs": 1, "batch_size": 256}}],
        "small": [{"name": "quantization", "params": {"calibration_images": 16}}],
    },
}

HEAD = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,1,8,8] images) => (float[batch,64] logits) <float s = {0.1}, uint8 z = {0}> {"""

FLOAT = onnx.parser.parse_model(f"{HEAD} logits = Flatten(images) }}").SerializeToString()

INT8 = onnx.parser.parse_model(
    f"{HEAD} q = QuantizeLinear(images, s, z) d = DequantizeLinear(q, s, z) logits = Flatten(d) }}"
).SerializeToString()


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Labels of the steps of a plan, in a home where nothing has run."""
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))

    def planned(content):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return [line.label for line in plan(str(path))]

    return planned


class Everything:
    """A Runner whose steps are done at once and have left a file under each name."""

    def __init__(self):
        self.labels = []

    def __call__(self, _step, label, /, *_inputs, **_settings):
        self.labels.append(label)
        return Left(label)


class Left(dict):
    def __init__(self, label):
        self.label = label

    def __missing__(self, name):
        sha256 = hashlib.sha256(f"{self.label} {name}".encode()).hexdigest()
        return Artifact(uri=f"file:///{sha256}", sha256=sha256, size=1)

    def result(self):
        return self


def test_from_nothing_the_steps_are_those_of_a_run(planned):
    """Above all the attacks that one model of the run leads on another."""
    go, labels = Everything(), planned(CONTENT)
    run_chain(parse(CONTENT, "run.yaml"), go, Sources(Located(path="", sha256=""), None, None))

    assert labels == go.labels
    assert "control: transfer from ensemble [0, 6]" not in labels
    assert "tuned: apgd from control [6, 12]" in labels


@pytest.fixture
def brought(planned, tmp_path, monkeypatch):
    """Labels of a plan for bytes that a user brings, and bytes that reign."""
    monkeypatch.setattr(foreign, "open_once", lambda *_: Tried(shape=(1, 8, 8)))

    def brought(data, champion):
        monkeypatch.setattr(
            sources.registry, "champion", lambda _: SimpleNamespace(uri="models:/m/1")
        )
        monkeypatch.setattr(sources.registry, "download", lambda _: champion)
        (tmp_path / "theirs.onnx").write_bytes(data)
        return planned(
            {key: CONTENT[key] for key in ("name", "data", "threat", "evaluation")}
            | {"model": {"onnx": str(tmp_path / "theirs.onnx")}}
            | {"candidates": {"tuned": CONTENT["candidates"]["tuned"]}}
            | {"gate": {"robust_accuracy": 0.1}, "registry": {"name": "planned"}}
        )

    return brought


@pytest.mark.parametrize(
    ("data", "champion", "names"),
    [
        (FLOAT, INT8, {"champion"}),
        (INT8, FLOAT, {"control", "tuned"}),
        (FLOAT, FLOAT, set()),
    ],
)
def test_attacks_from_the_float_form_of_a_file_are_listed_if_it_is_int8(
    brought, data, champion, names
):
    labels = brought(data, champion)
    led = {label.split(": ")[0] for label in labels if "from parent [0, 6]" in label}

    assert "control: apgd [0, 6]" in labels
    assert led == names
    assert {f"{name}: diva from parent [6, 12]" for name in names} <= {*labels}
