import pytest
import torch
from torch import nn

from defenses import FORMS
from defenses.activation import choose_layer
from defenses.detector import detector
from defenses.standard import standard
from defenses.training import Loop
from defenses.watched import watching
from hardening.attack import stands
from hardening.errors import ModelError
from hardening.log import Silent
from hardening.models import files
from hardening.models.architecture import Architecture, build
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.15)
LOOP = Loop(epochs=4, batch_size=64, ramp=0)


@pytest.fixture(scope="module")
def seeded():
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def classifier(model, data, seeded):
    return standard(model, data, seeded(), Silent(), loop=Loop(epochs=4, batch_size=32))


@pytest.fixture
def watched(classifier, data, seeded):
    return detector(classifier, data, THREAT, seeded(), Silent(), steps=5, width=8, loop=LOOP)


def test_the_classifier_answers_as_before(watched, classifier, data):
    x = data.validation.floats()
    assert torch.equal(watched(x), classifier(x))
    state = watched.parts[0].state_dict()
    assert all(torch.equal(state[k], v) for k, v in classifier.state_dict().items())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_no_more_clean_images_are_rejected_than_allowed(watched, data, share):
    watched.set_threshold(data.validation, share)
    rejected = watched.suspicion(data.validation.floats()) > watched.threshold
    images = len(data.validation)
    assert 0 <= share * images - int(rejected.sum()) < 1


def test_a_rejected_image_is_not_right_and_has_not_fallen(watched, data):
    watched.set_threshold(data.validation, 0.5)
    judge, x, y = watched.judge(), data.validation.floats(), data.validation.labels
    logits = judge(x)
    rejected = watched.suspicion(x) > watched.threshold
    assert rejected.any()
    assert torch.equal(logits.argmax(1) == 3, rejected)
    wrong = (y + 1) % 3
    assert torch.equal(stands(judge, x, logits, wrong)[rejected], rejected[rejected])
    let_through = ~rejected & (watched(x).argmax(1) != wrong)
    assert not stands(judge, x, logits, wrong)[let_through].any()


@pytest.mark.parametrize("adversary", ["static", "dynamic"])
def test_learns_to_tell_what_it_was_shown(classifier, data, seeded, adversary, recorder):
    detector(
        classifier, data, THREAT, seeded(), recorder, adversary=adversary, steps=4, width=8,
        loop=LOOP,
    )  # fmt: skip
    told = float(recorder.lines[-1].split()[1].rstrip("%"))
    assert told > 75


def test_comes_back_from_its_file_bit_for_bit(watched, data):
    loaded = files.load(files.save(watched), forms=FORMS)
    x = data.validation.floats()
    assert torch.equal(loaded.judge()(x), watched.judge()(x))
    assert files.save(loaded) == files.save(watched)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("small_cnn", (1, 8, 8), ("net.8", 64, 4)),
        ("small_cnn", (3, 32, 32), ("net.2", 32, 16)),
        ("resnet20", (3, 32, 32), ("net.layer2", 32, 16)),
        ("preact_resnet18", (3, 32, 32), ("net.stages.2.0.bn1", 128, 16)),
    ],
)
def test_by_itself_it_looks_behind_the_first_halving_of_small_images(name, shape, expected):
    channels = shape[0]
    architecture = Architecture(
        name=name, shape=shape, classes=3, mean=(0,) * channels, std=(1,) * channels
    )
    found = choose_layer(build(architecture, 0), shape, "", "detector")
    assert found[1:] == expected[1:]
    assert found.path == expected[0]


def test_a_layer_by_its_path(classifier, data, seeded):
    made = detector(
        classifier, data, THREAT, seeded(), Silent(), layer="net.2", steps=1, width=2,
        loop=Loop(epochs=1, ramp=0),
    )  # fmt: skip
    assert made.spec.params["layer"] == "net.2"
    assert files.load(files.save(made), forms=FORMS).layer == "net.2"


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("net.22", "unknown module 'net.22', did you mean 'net.2'"),
        ("net.10", "gives no activation"),
    ],
)
def test_a_layer_that_cannot_be_looked_at_is_named(classifier, data, seeded, layer, says):
    with pytest.raises(ModelError, match=says):
        detector(classifier, data, THREAT, seeded(), Silent(), layer=layer)


def test_a_network_without_pictures_inside_is_refused(data, seeded):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ModelError, match="expected a convolutional network"):
        detector(flat, data, THREAT, seeded(), Silent())


def test_the_form_is_built_without_touching_global_randomness(model):
    state = torch.get_rng_state()
    watching([model], layer="net.2", channels=4, width=2, pools=0)
    assert torch.equal(torch.get_rng_state(), state)
