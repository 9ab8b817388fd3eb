"""A budget buys the training that was measured to be the best one for it, once."""

from importlib import import_module

import pytest
import torch

from defenses import pace
from defenses.auto import Budget, auto
from defenses.declaration import declaration
from defenses.n_fgsm import n_fgsm
from defenses.rules import LEAST, MOST, Pace, batch_size, choose
from defenses.training import Loop
from hardening.errors import ConfigError
from hardening.log import Silent
from hardening.threat import ThreatModel

PLAIN = Pace(1, 1, 0)


def chosen(budget, *, images=9000, channels=3, norm="linf", eps=8 / 255, pace=PLAIN):
    threat = ThreatModel(norm=norm, eps=eps)
    return choose(budget, pace, images, channels, threat, said="a budget")


def spent(choice):
    """Multiples of plain training."""
    passes = {"n_fgsm": 2, "adversarial_training": choice.steps + 1, "trades": choice.steps + 2}
    return choice.epochs * passes[choice.method]


# The rules


def test_a_larger_budget_buys_one_step_then_a_search_then_trades():
    methods = [chosen(budget).method for budget in (5, 30, 60, 150, 300, 600, 2000)]

    assert methods == sorted(methods, key=["n_fgsm", "adversarial_training", "trades"].index)
    assert set(methods) == {"n_fgsm", "adversarial_training", "trades"}


def test_at_a_large_eps_no_single_step_is_chosen_and_eps_grows_more_slowly():
    for grey in (True, False):
        channels, small, large = (1, 0.15, 0.3) if grey else (3, 8 / 255, 16 / 255)
        gentle = chosen(30, channels=channels, eps=small)
        steep = [chosen(b, channels=channels, eps=large) for b in (10, 30, 200, 1000)]

        assert gentle.method == "n_fgsm"
        assert {choice.method for choice in steep} == {"adversarial_training"}
        assert [choice.steps for choice in steep] == [2, 5, 10, 20]
        assert all(choice.ramp > gentle.ramp for choice in steep)


def test_l1_is_searched_and_l2_is_stepped():
    assert chosen(40, norm="l1", eps=12).method == "adversarial_training"
    assert chosen(40, norm="l2", eps=0.5).method == "n_fgsm"


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
@pytest.mark.parametrize("budget", [12, 45, 130, 800])
def test_a_choice_spends_most_of_its_budget_and_no_more(budget, eps):
    choice = chosen(budget, eps=eps)

    assert choice.epochs <= MOST
    assert 0.7 * min(budget, MOST * 2) < spent(choice) <= budget


def test_a_slower_attack_buys_fewer_epochs_and_looks_at_validation_are_paid_for():
    fast = chosen(30).epochs

    assert chosen(30, pace=Pace(1, 2, 0)).epochs < fast
    assert chosen(30, pace=Pace(1, 1, 1)).epochs < fast
    assert chosen(600, pace=Pace(20, 20, 0)) == chosen(30)


@pytest.mark.parametrize(("images", "size"), [(100, 32), (1200, 32), (2614, 128), (60_000, 128)])
def test_a_small_dataset_gets_small_batches(images, size):
    assert batch_size(images) == size


def test_a_budget_too_small_to_harden_is_refused_with_the_one_that_would_do():
    with pytest.raises(ConfigError, match="too little to harden: n_fgsm would get") as refusal:
        chosen(1, images=1200)
    assert "\n" not in str(refusal.value)
    factor = float(str(refusal.value).split("expected ")[1].split()[0])

    enough = chosen(1 * factor, images=1200)

    assert enough.epochs * 38 >= LEAST


# The defense


def test_what_is_chosen_is_trained_and_said_with_its_reason(
    model, data, threat, generator, recorder, bits
):
    hardened = auto(model, data, threat, generator(), recorder, budget=Budget(multiples=30))

    loop = Loop(epochs=15, batch_size=32)
    same = n_fgsm(model, data, threat, generator(), Silent(), loop=loop)
    assert bits(hardened) == bits(same)
    assert recorder.lines[0] == (
        "auto chose n_fgsm, 15 epochs of 8 optimizer steps of 32 images, for a budget of 30 epochs "
        "of plain training, because adversarial_training with 7 steps would get 3 epochs, 24 "
        "optimizer steps, of at least 25 and 3000"
    )


def test_nothing_is_trained_where_the_budget_is_too_small(model, data, threat, generator, recorder):
    with pytest.raises(ConfigError, match="auto: got a budget of 2 epochs of plain training, too"):
        auto(model, data, threat, generator(), recorder, budget=Budget(multiples=2))

    assert recorder.kept is None
    assert recorder.total is None


def test_keep_clean_is_the_loop_s_dial_and_is_said_too(model, data, threat, generator, recorder):
    auto(model, data, threat, generator(), recorder, budget=Budget(multiples=30), keep_clean=0.5)

    assert any(line.startswith("keep_clean: 100% of the way") for line in recorder.lines)


def test_minutes_are_measured_on_the_given_model_which_is_left_alone(
    model, data, threat, generator, bits
):
    before, state = bits(model), torch.get_rng_state()

    found = pace.measure(model, data, threat, Loop(batch_size=32), 2.0)

    assert bits(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < found.attack < 10 * found.plain
    assert 0 < found.plain < 60
    assert found.judging > 0


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 9))])
def test_an_interrupted_run_does_not_choose_again_and_ends_with_the_same_bits(
    after, model, data, threat, generator, recorder, bits, monkeypatch
):
    """Also where the first checkpoint, the choice alone, is all there is."""
    paces = iter([Pace(1, 1, 0), Pace(3, 3, 0)])
    monkeypatch.setattr(import_module("defenses.auto"), "measure", lambda *_: next(paces))
    save, saved = recorder.save, []

    def stop(checkpoint):
        save(checkpoint)
        saved.append(checkpoint)
        if len(saved) == after:
            raise Stopped

    recorder.save = stop
    with pytest.raises(Stopped):
        auto(model, data, threat, generator(), recorder, budget=Budget(minutes=0.5))
    recorder.save = save

    resumed = auto(model, data, threat, generator(), recorder, budget=Budget(minutes=0.5))

    whole = auto(model, data, threat, generator(), Silent(), budget=Budget(multiples=30))
    assert bits(resumed) == bits(whole)
    assert recorder.lines[0] == recorder.lines[1]
    assert "at 1 s an epoch of plain training" in recorder.lines[0]
    assert next(paces) == Pace(3, 3, 0)


def test_its_cost_is_its_budget():
    passes = declaration(auto).passes

    assert passes({"budget": Budget(multiples=12)}) == 12
    assert passes({"budget": Budget()}) == 40
    assert passes({"budget": Budget(minutes=3)}) == float("inf")
