"""A training that goes wrong: seen, taken back, tried more carefully, and named in the end."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.guards import collapse, overfitting
from defenses.n_fgsm import noisy_step
from defenses.scores import clean_accuracy
from defenses.standard import cross_entropy, standard
from defenses.training import Loop, fit
from hardening.data import Labelled
from hardening.errors import BrokenPromise, NumericsError, TrainingFailed
from hardening.log import Silent
from hardening.threat import ThreatModel

LOOP = Loop(epochs=4, batch_size=32, ramp=0.0)
STEPS = 8
"""In an epoch."""


class Stop(Exception):
    """The power fails."""


def turning(bad, when):
    """A loss that is `bad` at the calls `when` says and the clean cross entropy at others."""
    calls = [0]

    def loss(model, x, y, threat):
        calls[0] += 1
        return (bad if when(calls[0]) else cross_entropy)(model, x, y, threat)

    return loss


def infinite(model, x, y, threat):
    return cross_entropy(model, x, y, threat) * float("inf")


def constant(model, x, y, threat):
    """The last layer dies: what it gives no longer depends on the image."""
    with torch.no_grad():
        model.net[-1].weight.zero_()
        model.net[-1].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    return cross_entropy(model, x, y, threat)


@pytest.fixture
def train(model, data, generator):
    start = standard(model, data, generator(), Silent(), loop=Loop(epochs=4, batch_size=32))

    def run(loss, log, loop=LOOP, score=clean_accuracy, rng=None):
        return fit(start, data, loss, score, rng or generator(1), log, loop=loop, threat=None)

    return run


def test_one_infinite_loss_costs_an_epoch_and_half_the_learning_rate(train, recorder, data):
    trained = train(turning(infinite, lambda call: call == 2 * STEPS + 3), recorder)

    assert clean_accuracy(trained, data.validation) > 0.9
    (line,) = recorder.lines
    assert "got loss inf at epoch 3, step 3" in line
    assert "goes on from the end of epoch 2 with 0.5 x the learning rate" in line
    assert [step for step, _ in recorder.rows] == [1, 2, 3, 4]


def test_a_loss_that_is_infinite_twice_is_an_error(train, recorder):
    loss = turning(infinite, lambda call: call in {STEPS + 3, 3 * STEPS + 1})

    with pytest.raises(NumericsError, match="got loss inf at epoch 3, step 1"):
        train(loss, recorder)

    assert len(recorder.lines) == 1


def test_a_collapse_is_seen_during_training_and_taken_back(train, recorder, data):
    loop = Loop(epochs=6, batch_size=32, ema=0)
    trained = train(turning(constant, lambda call: 3 * STEPS < call <= 4 * STEPS), recorder, loop)

    assert clean_accuracy(trained, data.validation) > 0.9
    (line,) = recorder.lines
    assert line.startswith("training: collapsed to a constant predictor")
    assert "goes on from the end of epoch 3" in line


def test_a_training_that_collapses_a_third_time_ends_with_the_best_epoch(train, recorder, data):
    loop = Loop(epochs=6, batch_size=32, ema=0)

    trained = train(turning(constant, lambda call: call > 3 * STEPS), recorder, loop)

    assert clean_accuracy(trained, data.validation) > 0.9
    assert [line.split("; ")[1].split(" ")[0] for line in recorder.lines] == [
        "goes",
        "goes",
        "ends",
    ]
    assert "with 0.25 x the learning rate" in recorder.lines[1]
    assert recorder.lines[2].endswith("ends with the best of 3 epochs")


def test_a_training_that_never_was_of_use_is_an_error_after_two_more_tries(train, recorder):
    with pytest.raises(TrainingFailed, match="collapsed to a constant predictor"):
        train(turning(constant, lambda _: True), recorder, Loop(epochs=4, batch_size=32, ema=0))

    assert len(recorder.lines) == 2


def test_a_recovery_halves_the_learning_rate_and_the_share_at_full_eps(
    model, data, generator, threat
):
    sizes = []

    def loss(model, x, y, now):
        sizes.append(now.eps / threat.eps)
        return (infinite if len(sizes) == 2 * STEPS else cross_entropy)(model, x, y, now)

    loop = Loop(epochs=4, batch_size=32, ramp=0.5)
    fit(model, data, loss, clean_accuracy, generator(), Silent(), loop=loop, threat=threat)

    # One epoch again, eps now full after 3/4 of the 32 steps instead of after half.
    assert len(sizes) == 5 * STEPS
    assert sizes[2 * STEPS - 1] == pytest.approx(1)
    assert sizes[3 * STEPS - 1] == pytest.approx(16 / 24)
    assert sizes[4 * STEPS - 1 :] == pytest.approx([1] * 9)


@pytest.mark.parametrize("calls", [2, 10, 16, 18, 27, 39])
def test_a_training_stopped_around_a_recovery_ends_with_the_same_bits(
    calls, model, data, generator, recorder, threat, bits
):
    def run(log, stop=10**9):
        memory, rng, done = {"step": torch.zeros(())}, generator(1), []

        def loss(model, x, y, now):
            done.append(1)
            if len(done) > stop:
                raise Stop
            memory["step"] += 1
            # After the recovery eps is smaller at this step.
            bad = float(memory["step"]) == STEPS + 4 and now.eps == threat.eps
            return (infinite if bad else cross_entropy)(model, x, y, now)

        trained = fit(
            model, data, loss, clean_accuracy, rng, log, loop=LOOP, threat=threat, memory=memory
        )
        return bits(trained) + bytes(rng.get_state()), len(done)

    expected, all_calls = run(Silent())
    assert all_calls == 5 * STEPS
    with pytest.raises(Stop):
        run(recorder, calls)

    assert run(recorder)[0] == expected


def test_what_a_loss_remembers_comes_back_with_the_rest(model, data, generator, recorder, bits):
    def run(log, stop=10**9):
        memory = {"seen": torch.zeros(3)}

        def loss(model, x, y, threat):
            if float(memory["seen"].sum()) >= stop:
                raise Stop
            memory["seen"] += torch.bincount(y, minlength=3)
            weights = 1 + memory["seen"] / memory["seen"].sum()
            return F.cross_entropy(model(x), y, weight=weights)

        trained = fit(
            model,
            data,
            loss,
            clean_accuracy,
            generator(1),
            log,
            loop=Loop(epochs=4, batch_size=60),
            threat=None,
            memory=memory,
        )
        return bits(trained), memory["seen"]

    expected, seen = run(Silent())
    with pytest.raises(Stop):
        run(recorder, stop=700)
    got, again = run(recorder)

    assert got == expected
    assert torch.equal(again, seen)
    assert float(seen.sum()) == 4 * 256


# What is looked for


def test_collapse_is_one_class_or_chance(model, data):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        constant[1].weight.zero_()
    rare = Labelled(data.validation.images[:30], torch.tensor([0] * 29 + [1]))

    assert "(clean validation accuracy 33.3%)" in collapse(constant, data.validation, 3)
    with torch.no_grad():
        constant[1].bias.copy_(torch.tensor([1.0, 0, 0]))
    assert "96.7%" in collapse(constant, rare, 3)


class Zigzag(nn.Module):
    """Right at each image and one step away from it, wrong half a step away: gradients mislead."""

    def __init__(self, x, eps):
        super().__init__()
        self.x, self.eps = x, eps

    def forward(self, z):
        away = (z - self.x).flatten(1) / self.eps
        margin = torch.cos(2 * torch.pi * (away - 0.02)).mean(1)
        return torch.stack([margin, -margin], 1)


def test_robust_to_one_step_alone_is_catastrophic_overfitting(generator, threat):
    x = torch.full((20, 1, 8, 8), 0.5)
    images = Labelled(x, torch.zeros(20, dtype=torch.long))

    found = overfitting(Zigzag(x, threat.eps), images, threat, generator())

    assert found.startswith(
        "training: overfitted to its own attack (accuracy 100.0% after one step"
    )
    assert ", 0.0% after ten" in found


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_neither_a_plain_nor_a_hardened_model_is_called_overfitted(eps, model, data, generator):
    threat = ThreatModel(norm="linf", eps=eps)
    loop = Loop(epochs=4, batch_size=32)
    plain = standard(model, data, generator(), Silent(), loop=loop)
    rng = generator()
    hard = fit(
        plain,
        data,
        noisy_step(rng, noise=2.0),
        clean_accuracy,
        rng,
        Silent(),
        loop=loop,
        threat=threat,
        single_step=True,
    )

    assert overfitting(plain, data.validation, threat, generator()) == ""
    assert overfitting(hard, data.validation, threat, generator()) == ""


def test_only_single_step_losses_are_searched_for_it(monkeypatch, model, data, generator, threat):
    monkeypatch.setattr("defenses.epoch.overfitting", lambda *_: "training: overfitted")

    def run(single_step):
        fit(
            model,
            data,
            cross_entropy,
            clean_accuracy,
            generator(),
            Silent(),
            loop=LOOP,
            threat=threat,
            single_step=single_step,
        )

    run(False)
    with pytest.raises(BrokenPromise, match="overfitted"):
        run(True)
