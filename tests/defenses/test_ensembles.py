"""Models that answer together, teach each other, or lead each other's attacks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses import DEFENSES, FORMS
from defenses.distillation import softened, taught
from defenses.ensemble import Ensemble, ensemble
from defenses.ensemble_adversarial_training import led_by_any, one_step, under
from defenses.stages import STAGE
from defenses.training import Loop
from hardening.deployment.export import export
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Silent
from hardening.models import files

SHORT = Loop(epochs=2, batch_size=64)
STAGED = {
    "ensemble": {"members": 2, "training": "plain"},
    "ensemble_adversarial_training": {"sources": 1},
    "distillation": {},
}


class Fixed(nn.Module):
    """Logits whatever the image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def linear(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_the_answer_is_the_mean_of_probabilities_or_of_logits():
    parts = [Fixed(2.0, 0.0, -1.0), Fixed(-1.0, 0.5, 3.0)]
    x = torch.zeros(2, 1, 8, 8)

    probabilities = Ensemble(parts, "probabilities")(x).exp()
    logits = Ensemble(parts, "logits")(x)

    wanted = sum(part(x).softmax(1) for part in parts) / 2
    assert torch.allclose(probabilities, wanted)
    assert torch.allclose(logits, torch.tensor([[0.5, 0.25, 1.0]] * 2))


def test_members_that_are_sure_leave_finite_logits_and_a_gradient():
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    sure = [nn.Sequential(linear(seed), Scale(1e4)) for seed in range(2)]

    logits = Ensemble(sure, "probabilities")(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x)

    assert logits.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.flatten(1).any(1).all()


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_one_file_holds_all_members_and_they_differ(model, data, threat, generator):
    made = ensemble(
        model, data, threat, generator(), Silent(), members=3, training="plain", loop=SHORT
    )
    x = data.validation.floats()

    session = Session(export(made, (1, 8, 8)))

    prove("file", made, session, x)
    prove("twin", session, Twin(session.data), x)
    assert torch.equal(files.load(files.save(made), forms=FORMS)(x), made(x))
    answers = [part(x) for part in made.parts]
    assert len(answers) == 3
    for index, answer in enumerate(answers):
        assert not any(torch.allclose(answer, other) for other in answers[:index])


@pytest.mark.parametrize("name", STAGED)
def test_one_that_was_stopped_ends_with_the_same_bits_and_trains_nothing_twice(
    name, model, data, threat, generator, recorder, bits
):
    """Stopped in its second training; what is chosen for validation is chosen as before."""
    options = STAGED[name] | {"loop": Loop(epochs=2, batch_size=64, validation_images=20)}

    def train(log):
        return bits(DEFENSES[name](model, data, threat, generator(), log, **options))

    with pytest.raises(Stopped):
        train(Halting(recorder, saves=3))
    assert recorder.restore().numbers[STAGE] == 1

    assert train(recorder) == train(Silent())
    assert [step for step, _ in recorder.rows] == [4]  # the last epoch alone was left


class Stopped(Exception):
    """Somebody has."""


class Halting(Silent):
    """Keeps so many checkpoints, and is stopped."""

    def __init__(self, log, saves):
        self.log, self.saves = log, saves

    def save(self, checkpoint):
        self.log.save(checkpoint)
        self.saves -= 1
        if not self.saves:
            raise Stopped


@pytest.mark.parametrize("name", STAGED)
def test_an_onnx_file_has_no_architecture_to_train_anew(name, foreign, data, threat, generator):
    with pytest.raises(ModelError, match=f"^{name}: got an ONNX file, expected an architecture"):
        DEFENSES[name](Twin(foreign()), data, threat, generator(), Silent())


# ensemble adversarial training


def test_the_step_is_led_by_the_answer_and_not_by_the_label(threat):
    """A step from the label would betray it to the training."""
    source = linear(0)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    x_adv = one_step(source, x, threat)

    answer = source(x).argmax(1)
    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(source(images), answer), images)
    assert torch.allclose(x_adv, (x + 0.05 * gradient.sign()).clamp(0, 1), atol=1e-6)
    assert threat.contains(x, x_adv).all()
    falls = F.cross_entropy(source(x_adv), answer) > F.cross_entropy(source(x), answer)
    assert falls


def test_half_is_clean_and_half_one_step_away_led_by_each_model_in_its_turn(threat, generator):
    model, static = linear(0), [linear(1), linear(2)]
    x, y = torch.rand(8, 1, 8, 8, generator=generator(3)), torch.arange(8) % 3
    loss = led_by_any(static, generator())

    clean = F.cross_entropy(model(x), y)
    seen = {round(loss(model, x, y, threat).item(), 5) for _ in range(30)}

    wanted = {
        round((clean + F.cross_entropy(model(one_step(leader, x, threat)), y)).item() / 2, 5)
        for leader in (model, *static)
    }
    assert len(wanted) == 3
    assert sorted(seen) == pytest.approx(sorted(wanted), abs=1e-4)


def test_sources_stand_still(model, data, threat, generator, bits):
    static = linear(1)
    before = bits(static)

    led_by_any([static], generator())(model, data.train.floats()[:8], torch.arange(8) % 3, threat)
    under([static], threat)(model, data.validation)

    assert bits(static) == before


# distillation


def test_a_student_learns_the_teacher_s_soft_labels_at_the_temperature():
    teacher, student = Fixed(2.0, 0.0, -1.0), Fixed(1.0, 1.0, 0.0)
    x, y = torch.zeros(2, 1, 8, 8), torch.tensor([0, 2])

    soft = (torch.tensor([2.0, 0.0, -1.0]) / 10).softmax(0)
    said = (torch.tensor([1.0, 1.0, 0.0]) / 10).log_softmax(0)

    assert taught(teacher, 10)(student, x, y, None) == pytest.approx(float(-(soft * said).sum()))
    hard = -(said[0] + said[2]) / 2
    assert softened(10)(student, x, y, None) == pytest.approx(float(hard))
