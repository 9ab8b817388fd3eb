"""What every survey owes its caller. A new survey is tested by being registered."""

import pytest
import torch
from torch import nn

from attacks.registry import SURVEYS
from hardening.errors import ConfigError, ModelError, NumericsError
from hardening.evidence import Survey
from hardening.spec import Spec, bind, parameters, resolve

CHEAPER = {
    "corruptions": {"severities": [1, 5]},
    "spatial": {"degrees": 5, "shift": 0.02, "rotations": 1, "shifts": 1, "draws": 3},
    "patch": {"area": 0.01, "steps": 5, "places": 3},
}
surveys = {name: bind(SURVEYS, Spec(name=name, params=CHEAPER.get(name, {}))) for name in SURVEYS}
each_survey = pytest.mark.parametrize("survey", surveys.values(), ids=surveys)


@pytest.fixture
def model(curved):
    return curved(3 * 8 * 8, 5).eval()


@pytest.fixture
def batch(model):
    x = torch.rand(24, 3, 8, 8, generator=seeded(1))
    return x, model(x).detach().argmax(1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@each_survey
def test_says_of_each_image_whether_it_stands(survey, model, batch):
    found = survey(model, *batch, seeded())
    assert found
    assert all(stands.shape == (24,) and stands.dtype == torch.bool for stands in found.values())
    assert any(stands.any() for stands in found.values())
    assert any(not stands.all() for stands in found.values())


@each_survey
def test_an_image_wrong_from_the_start_never_counts_as_right(survey, model, batch):
    """Also where a change makes the model say the label."""
    x, y = batch
    wrong = torch.arange(24) % 2 == 0
    labels = torch.where(wrong, (y + 1) % 5, y)
    expected = survey(model, x, y, seeded())
    for condition, stands in survey(model, x, labels, seeded()).items():
        assert not stands[wrong].any()
        assert torch.equal(stands[~wrong], expected[condition][~wrong])


@each_survey
def test_same_seed_same_answer_in_any_batch(survey, model, batch):
    x, y = batch
    among_others = survey(model, x, y, seeded())
    alone = survey(model, x[:5], y[:5], seeded())
    assert same(alone, {condition: stands[:5] for condition, stands in among_others.items()})
    with torch.no_grad():
        assert same(among_others, survey(model, x, y, seeded()))


@each_survey
def test_images_stay_images(survey, model, batch):
    seen = []

    def watched(x):
        seen.append(x.detach())
        return model(x)

    survey(watched, *batch, seeded())
    assert all(points.shape[1:] == (3, 8, 8) for points in seen)
    assert all(points.dtype == torch.float32 for points in seen)
    assert all((points >= 0).all() and (points <= 1).all() for points in seen)


@each_survey
def test_leaves_model_inputs_and_global_randomness_alone(survey, images):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 4)
    model = nn.Sequential(*layers).eval()
    x, y = images(model, 6, 3, 8, 8)
    kept = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    survey(model, x, y, seeded())
    assert torch.equal(x, kept[0])
    assert all(torch.equal(v, kept[1][k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model)
    assert torch.equal(torch.get_rng_state(), state)


@each_survey
def test_memory_format_changes_nothing(survey, model, batch):
    x, y = batch
    strided = x.contiguous(memory_format=torch.channels_last)
    assert same(survey(model, strided, y, seeded()), survey(model, x, y, seeded()))


@each_survey
def test_an_empty_batch_gives_empty_answers(survey, model):
    found = survey(model, torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long), seeded())
    assert found
    assert all(stands.shape == (0,) for stands in found.values())


@each_survey
def test_a_model_that_judges_for_itself_is_asked(survey, model, batch):
    """A deployed file is: whatever its twin's logits say, nothing of it has fallen."""

    class Unmoved:
        def __call__(self, x):
            return model(x)

        def stands(self, points, logits, y):  # noqa: ARG002
            return torch.ones(len(points), dtype=torch.bool)

    assert all(stands.all() for stands in survey(Unmoved(), *batch, seeded()).values())


@each_survey
def test_inputs_without_rows_and_columns_are_refused(survey, model):
    with pytest.raises(ValueError, match=r"shape \(4, 192\), expected \(B, C, H, W\)"):
        survey(model, torch.rand(4, 192), torch.zeros(4, dtype=torch.long), seeded())


@each_survey
def test_outputs_that_are_no_finite_logits_end_the_survey(survey, model, batch):
    with pytest.raises(NumericsError, match="24 of 24"):
        survey(lambda x: model(x) / 0 * 0, *batch, seeded())
    with pytest.raises(ModelError, match=r"\(24, 1\).*expected \(24, K\)"):
        survey(lambda x: model(x)[:, :1], *batch, seeded())


@each_survey
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_will_do(survey, classes, curved, images):
    model = curved(1 * 9 * 12, classes)
    assert survey(model, *images(model, 6, 1, 9, 12), seeded())


@pytest.mark.parametrize("name", SURVEYS)
def test_every_hyper_parameter_is_explained(name):
    assert all(parameter.meaning for parameter in parameters(SURVEYS[name]))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("corruptions", {"families": ["rain"]}),
        ("corruptions", {"families": []}),
        ("corruptions", {"severities": [0]}),
        ("corruptions", {"severities": []}),
        ("spatial", {"degrees": 0}),
        ("spatial", {"shift": 1.5}),
        ("patch", {"area": 0}),
        ("patch", {"area": 1.1}),
        ("patch", {"places": 0}),
    ],
)
def test_hyper_parameters_without_a_meaning_are_refused(name, params):
    with pytest.raises(ConfigError, match=next(iter(params))):
        bind(SURVEYS, Spec(name=name, params=params))


@pytest.mark.parametrize("name", list(SURVEYS))
def test_the_defaults_of_every_survey_can_be_recorded_as_json(name):
    made = Survey(survey=name, params=resolve(SURVEYS[name], {}), conditions={}, seconds=1)

    assert Survey.model_validate_json(made.model_dump_json()) == made
