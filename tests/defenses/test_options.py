"""Options of the loop that any loss can have: replays, parts, perturbed weights, anchor, dial."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.anchor import anchored
from defenses.dial import between, keep_clean
from defenses.epoch import backward
from defenses.n_fgsm import noisy_step
from defenses.scores import clean_accuracy, robust_accuracy
from defenses.standard import cross_entropy, standard
from defenses.training import Loop, fit
from defenses.weight_perturbation import perturbed
from hardening.errors import BrokenPromise
from hardening.log import Silent


def gradients(model, loss, batch, **options):
    model.zero_grad()
    value = backward(model, loss, *batch, None, Loop(**options))
    return value, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.fixture
def batch(data):
    return data.train.floats()[:23], data.train.labels[:23]


# Replays and parts


def test_each_batch_is_shown_as_often_as_it_is_replayed(model, data, generator, recorder):
    shown = []

    def loss(model, x, y, threat):
        shown.append(x.clone())
        return cross_entropy(model, x, y, threat)

    loop = Loop(epochs=2, batch_size=64, replays=3, augment="shift")
    fit(model, data, loss, clean_accuracy, generator(), recorder, loop=loop, threat=None)

    assert len(shown) == recorder.total == sum(recorder.done) == 2 * 4 * 3
    for first in range(0, 24, 3):
        assert torch.equal(shown[first], shown[first + 2])
    assert not torch.equal(shown[0], shown[3])


@pytest.mark.parametrize("parts", [2, 4, 100])
def test_parts_of_a_batch_add_up_to_the_gradient_of_the_whole(parts, model, batch):
    model.eval()  # batch statistics are those of a part
    whole, expected = gradients(model, cross_entropy, batch)

    value, got = gradients(model, cross_entropy, batch, accumulate=parts)

    torch.testing.assert_close(value, whole)
    for first, second in zip(got, expected, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_no_part_of_a_batch_is_a_single_image(model, batch):
    sizes = []

    def loss(model, x, y, threat):
        sizes.append(len(x))
        return cross_entropy(model, x, y, threat)

    gradients(model, loss, batch, accumulate=23)

    assert sum(sizes) == 23
    assert min(sizes) >= 2


# Perturbed weights


def test_weights_move_by_their_own_size_up_the_loss_and_come_back_to_the_bit(model, batch):
    model.eval()
    x, y = batch
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    value = F.cross_entropy(model(x), y)

    with perturbed(model, value, 0.01):
        moved = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        higher = F.cross_entropy(model(x), y).detach()

    assert higher > value
    for name, weight in model.named_parameters():
        way = (moved[name] - before[name]).norm().detach()
        expected = 0.01 * before[name].norm().detach() if weight.dim() > 1 else torch.tensor(0.0)
        torch.testing.assert_close(way, expected, rtol=1e-3, atol=0)
        assert torch.equal(weight, before[name])


def test_weights_come_back_when_the_power_fails_inside(model, batch):
    x, y = batch
    before = [weight.clone() for weight in model.parameters()]

    with pytest.raises(KeyError), perturbed(model, F.cross_entropy(model(x), y), 0.1):
        raise KeyError

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_the_gradient_is_that_at_the_perturbed_weights(model, batch):
    model.eval()
    x, y = batch
    _, plain = gradients(model, cross_entropy, batch)
    value, got = gradients(model, cross_entropy, batch, awp=0.02)

    with perturbed(model, F.cross_entropy(model(x), y), 0.02):
        there = F.cross_entropy(model(x), y)
        expected = torch.autograd.grad(there, list(model.parameters()))

    torch.testing.assert_close(value, there.detach())
    torch.testing.assert_close(got, list(expected))
    assert not all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))


def test_a_training_with_perturbed_weights_works_and_differs(model, data, threat, generator, bits):
    def run(awp):
        rng = generator(1)
        loop = Loop(epochs=2, batch_size=64, awp=awp)
        loss, score = noisy_step(rng, noise=2.0), robust_accuracy(threat, rng)
        return fit(model, data, loss, score, rng, Silent(), loop=loop, threat=threat)

    assert bits(run(0.005)) != bits(run(0.0))


# Anchor


def test_the_anchor_adds_the_divergence_from_the_given_model(make_model, batch):
    model, given, (x, y) = make_model().eval(), make_model(width=6).eval(), batch

    value = anchored(cross_entropy, given, 2.0)(model, x, y, None)

    p, q = given(x).softmax(1), model(x).softmax(1)
    drift = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(value, F.cross_entropy(model(x), y) + 2 * drift)
    assert all(parameter.grad is None for parameter in given.parameters())


def test_an_anchored_training_stays_nearer_to_the_given_answers(model, data, generator):
    start = standard(model, data, generator(), Silent(), loop=Loop(epochs=3, batch_size=64))
    x = data.validation.floats()

    def drift(anchor):
        def spoiling(model, x, y, threat):
            return F.cross_entropy(model(x), torch.where(y == 2, 1, y))

        trained = fit(
            start,
            data,
            spoiling,
            lambda *_: 0.0,
            generator(),
            Silent(),
            loop=Loop(epochs=3, batch_size=64, learning_rate=1e-3, anchor=anchor, ema=0),
            threat=None,
        )
        return float((trained(x).softmax(1) - start(x).softmax(1)).abs().mean().detach())

    assert drift(10.0) < 0.6 * drift(0.0)


# Dial


@pytest.fixture
def pair():
    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
            model(torch.rand(8, 1, 8, 8))
            return model.eval()

    first, second = make(0), make(1)
    second(torch.zeros(1, 1, 8, 8))
    second[1].num_batches_tracked.fill_(7)
    return first, second


def test_the_ends_of_the_dial_are_the_models_to_the_bit(pair):
    before, after = pair
    for share, end in ((0.0, before), (1.0, after)):
        mixed = between(before, after, share).state_dict()
        for name, value in end.state_dict().items():
            if value.is_floating_point():
                assert torch.equal(mixed[name], value)


def test_between_the_ends_statistics_are_mixed_and_counters_are_copied(pair):
    before, after = pair

    mixed = between(before, after, 0.25)

    expected = 0.75 * before[1].running_var + 0.25 * after[1].running_var
    torch.testing.assert_close(mixed[1].running_var, expected)
    torch.testing.assert_close(mixed[0].weight, 0.75 * before[0].weight + 0.25 * after[0].weight)
    assert mixed[1].num_batches_tracked.dtype == torch.int64
    assert mixed[1].num_batches_tracked == 7


def ways(start, after):
    """One weight: images of class 0 are right as long as it is below 0.35."""
    models = []
    for value in (start, after):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        with torch.no_grad():
            model[1].weight.zero_()
            model[1].bias.copy_(torch.tensor([0.35, value, -1.0]))
        models.append(model)
    return models


def test_the_dial_stops_at_the_hardest_model_that_keeps_the_floor(data, recorder):
    before, after = ways(0.0, 1.0)
    first = data.validation.take(data.validation.labels == 0)

    got = keep_clean(before, after, first, 0.99, recorder)

    assert got[1].bias[1].item() == pytest.approx(0.3)
    assert recorder.lines == ["keep_clean: 30% of the way, clean validation accuracy 100.0%"]


def test_a_floor_that_cannot_be_had_is_an_error_of_one_line(data):
    before, after = ways(0.5, 1.0)
    first = data.validation.take(data.validation.labels == 0)

    with pytest.raises(
        BrokenPromise, match=r"at most 0\.0% .* expected 90\.0%: lower it"
    ) as caught:
        keep_clean(before, after, first, 0.9, Silent())

    assert "\n" not in str(caught.value)


def test_a_training_gives_back_clean_accuracy_down_to_the_floor(model, data, generator, recorder):
    start = standard(model, data, generator(), Silent(), loop=Loop(epochs=6, batch_size=32))

    def spoiling(model, x, y, threat):
        return F.cross_entropy(model(x), torch.where(y == 2, 1, y))

    loop = Loop(epochs=6, batch_size=32, keep_clean=0.9)
    got = fit(start, data, spoiling, lambda *_: 0.0, generator(), recorder, loop=loop, threat=None)

    assert clean_accuracy(start, data.validation) >= 0.9
    assert clean_accuracy(got, data.validation) >= 0.9
    assert recorder.lines[-1].startswith("keep_clean: ")


def test_options_are_counted_in_the_cost():
    assert Loop(epochs=3).passes(8) == 24
    assert Loop(epochs=3, awp=0.01, replays=2).passes(8) == 96
    assert Loop(epochs=3, anchor=1).passes(8) == 27
