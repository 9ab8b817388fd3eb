"""The one loop: what it returns, how it resumes, when it refuses."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.n_fgsm import noisy_step
from defenses.scores import clean_accuracy, robust_accuracy
from defenses.standard import cross_entropy, standard
from defenses.trades import trade
from defenses.training import Loop, fit
from hardening.data import Labelled, TrainingData
from hardening.errors import BrokenPromise, DataError, NumericsError
from hardening.log import Silent


class Stop(Exception):
    """The power fails."""


def failing(loss, calls):
    """`loss`, until it was called `calls` times."""
    left = [calls]

    def call(*arguments):
        if left[0] == 0:
            raise Stop
        left[0] -= 1
        return loss(*arguments)

    return call


def counting(loss):
    calls = []

    def call(model, x, y, threat):
        calls.append((len(x), threat and threat.eps, model.training))
        return loss(model, x, y, threat)

    return call, calls


@pytest.fixture
def dropping():
    """Dropout draws from the global generator, which only the loop can bring back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
        )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("calls", [3, 4, 11, 19])
def test_a_stopped_training_resumes_and_ends_with_the_same_bits(
    calls, optimizer, dropping, data, generator, recorder, bits
):
    loop = Loop(
        epochs=5, batch_size=64, optimizer=optimizer, learning_rate=0.01, augment="shift-flip"
    )
    whole, resumed = generator(1), generator(1)

    def run(rng, log, calls=10**9):
        loss = failing(cross_entropy, calls)
        return fit(dropping, data, loss, clean_accuracy, rng, log, loop=loop, threat=None)

    expected = run(whole, Silent())
    with pytest.raises(Stop):
        run(generator(1), recorder, calls)
    got = run(resumed, recorder)

    assert bits(got) == bits(expected)
    assert torch.equal(resumed.get_state(), whole.get_state())


@pytest.mark.parametrize(
    "make",
    [lambda rng: trade(rng, beta=3, steps=2), lambda rng: noisy_step(rng, noise=2.0)],
    ids=["trades", "n_fgsm"],
)
def test_adversarial_losses_resume_with_the_same_bits(
    make, dropping, data, threat, generator, recorder, bits
):
    loop = Loop(epochs=4, batch_size=64)

    def run(log, calls=10**9):
        rng = generator(1)
        loss, score = failing(make(rng), calls), robust_accuracy(threat, rng)
        return fit(dropping, data, loss, score, rng, log, loop=loop, threat=threat)

    expected = run(Silent())
    with pytest.raises(Stop):
        run(recorder, 10)

    assert bits(run(recorder)) == bits(expected)


def test_a_finished_training_is_not_repeated(model, data, generator, recorder, bits):
    loop = Loop(epochs=3, batch_size=64)
    first = standard(model, data, generator(1), recorder, loop=loop)
    loss, calls = counting(cross_entropy)

    again = fit(model, data, loss, clean_accuracy, generator(1), recorder, loop=loop, threat=None)

    assert calls == []
    assert bits(again) == bits(first)


def test_a_resumed_training_does_the_remaining_epochs_and_counts_the_done_ones(
    model, data, generator, recorder
):
    loop = Loop(epochs=5, batch_size=64)
    steps = 4
    with pytest.raises(Stop):
        fit(
            model,
            data,
            failing(cross_entropy, 2 * steps + 1),
            clean_accuracy,
            generator(1),
            recorder,
            loop=loop,
            threat=None,
        )
    loss, calls = counting(cross_entropy)
    recorder.done.clear()

    fit(model, data, loss, clean_accuracy, generator(1), recorder, loop=loop, threat=None)

    assert len(calls) == 3 * steps
    assert recorder.done[0] == 2 * steps
    assert sum(recorder.done) == recorder.total == 5 * steps


def test_progress_and_metrics_tell_every_epoch(model, data, generator, recorder):
    standard(model, data, generator(), recorder, loop=Loop(epochs=3, batch_size=10))

    assert [step for step, _ in recorder.rows] == [1, 2, 3]
    assert all(values.keys() == {"loss", "score"} for _, values in recorder.rows)
    assert recorder.total == sum(recorder.done) == 3 * 26
    assert recorder.notes[-1].startswith("epoch 3/3 loss ")


def test_training_returns_the_epoch_that_validation_liked_best(model, data, generator, bits):
    averages = []

    def second_is_best(candidate, _):
        averages.append(deepcopy(candidate).requires_grad_(True))
        return 1.0 if len(averages) == 2 else 0.0

    loop = Loop(epochs=4, batch_size=64)
    got = fit(
        model, data, cross_entropy, second_is_best, generator(), Silent(), loop=loop, threat=None
    )

    assert len(averages) == 4
    assert bits(got) == bits(averages[1])
    assert bits(got) != bits(averages[3])


@pytest.mark.parametrize(("ramp", "scored"), [(0.0, 4), (0.5, 3), (0.51, 2), (1.0, 1)])
def test_only_epochs_that_reach_full_eps_compete(ramp, scored, model, data, threat, generator):
    scores = []

    def score(candidate, validation):
        scores.append(len(validation))
        return 0.0

    loss = noisy_step(generator(), noise=1.0)
    loop = Loop(epochs=4, batch_size=64, ramp=ramp, validation_images=20)
    fit(model, data, loss, score, generator(), Silent(), loop=loop, threat=threat)

    assert scores == [20] * scored


def test_eps_grows_to_its_full_size_and_the_model_trains_in_train_mode(
    model, data, generator, threat
):
    loss, calls = counting(cross_entropy)
    loop = Loop(epochs=5, batch_size=64, ramp=0.5)

    fit(model, data, loss, clean_accuracy, generator(), Silent(), loop=loop, threat=threat)

    sizes = [eps for _, eps, _ in calls]
    assert len(sizes) == 20
    assert sizes == sorted(sizes)
    assert sizes[0] == pytest.approx(threat.eps / 10)
    assert sizes[9:] == [threat.eps] * 11
    assert all(training for _, _, training in calls)


def test_every_training_image_is_seen_once_an_epoch(model, data, generator):
    marked = data.train.images.clone()
    marked[:, 0, 0, 0] = torch.arange(256)
    data = TrainingData(Labelled(marked, data.train.labels), data.validation, data.classes)
    seen = []

    def loss(model, x, y, threat):
        seen.append((x[:, 0, 0, 0] * 255).round().long())
        return cross_entropy(model, x, y, threat)

    loop = Loop(epochs=2, batch_size=48)
    fit(model, data, loss, clean_accuracy, generator(), Silent(), loop=loop, threat=None)

    epochs = torch.cat(seen).view(2, 256)
    assert all(torch.equal(epoch.sort().values, torch.arange(256)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_a_last_batch_of_one_image_is_left_out(model, make_data, generator):
    loss, calls = counting(cross_entropy)

    fit(
        model,
        make_data(train=65),
        loss,
        clean_accuracy,
        generator(),
        Silent(),
        loop=Loop(epochs=2, batch_size=32),
        threat=None,
    )

    assert [images for images, _, _ in calls] == [32] * 4


@pytest.mark.parametrize(("train", "validation"), [(0, 9), (1, 9), (9, 0)])
def test_too_few_images_are_refused(train, validation, model, make_data, generator):
    data = make_data(train=train, validation=validation)

    with pytest.raises(DataError, match=f"got {train} training and {validation} validation images"):
        standard(model, data, generator(), Silent())


def test_float_images_train_as_well_as_bytes(model, data, generator, bits):
    floats = TrainingData(
        Labelled(data.train.floats(), data.train.labels), data.validation, data.classes
    )
    loop = Loop(epochs=2)

    first = standard(model, data, generator(), Silent(), loop=loop)
    second = standard(model, floats, generator(), Silent(), loop=loop)

    assert bits(first) == bits(second)


@pytest.mark.parametrize("bad", [1, 7, 10, 13])
def test_a_loss_that_stays_infinite_is_reported_with_epoch_and_step(
    bad, model, data, generator, recorder
):
    calls = [0]

    def loss(model, x, y, threat):
        calls[0] += 1
        return cross_entropy(model, x, y, threat) * (float("nan") if calls[0] >= bad else 1)

    epoch, step = divmod(bad - 1, 8)
    with pytest.raises(NumericsError, match=f"epoch {epoch + 1}, step 1, expected a finite"):
        fit(
            model,
            data,
            loss,
            clean_accuracy,
            generator(),
            recorder,
            loop=Loop(epochs=3, batch_size=32),
            threat=None,
        )

    (line,) = recorder.lines
    assert f"at epoch {epoch + 1}, step {step + 1}, expected a finite number" in line
    assert f"goes on from the end of epoch {epoch} with 0.5 x the learning rate" in line


def test_weights_that_are_not_finite_after_the_last_step_are_refused(model, data, generator):
    calls = [0]

    def loss(model, x, y, threat):
        calls[0] += 1
        exploding = sum(p.sum() for p in model.parameters()) * float("inf")
        value = cross_entropy(model, x, y, threat)
        return value if calls[0] < 4 else value + exploding - exploding.detach()

    with pytest.raises(NumericsError):
        fit(
            model,
            data,
            loss,
            clean_accuracy,
            generator(),
            Silent(),
            loop=Loop(epochs=1, batch_size=64),
            threat=None,
        )


def test_a_training_that_moves_no_weight_is_refused(model, data, generator):
    def nothing(model, x, y, threat):
        return 0 * model(x).sum()

    with pytest.raises(BrokenPromise, match="no weight changed"):
        fit(
            model,
            data,
            nothing,
            clean_accuracy,
            generator(),
            Silent(),
            loop=Loop(epochs=1, weight_decay=0),
            threat=None,
        )


def test_a_constant_predictor_is_refused(model, data, generator):
    def constant(model, x, y, threat):
        return F.cross_entropy(model(x), torch.zeros_like(y))

    with pytest.raises(BrokenPromise, match="collapsed to a constant predictor") as caught:
        fit(
            model,
            data,
            constant,
            clean_accuracy,
            generator(),
            Silent(),
            loop=Loop(epochs=10, batch_size=16),
            threat=None,
        )

    assert "\n" not in str(caught.value)


def test_a_constant_predictor_of_the_majority_class_is_refused_too(model, data, generator):
    """Its accuracy of 90 % is far above chance."""
    rare = Labelled(data.validation.images[:30], torch.tensor([0] * 27 + [1, 2, 1]))

    def constant(model, x, y, threat):
        return F.cross_entropy(model(x), torch.zeros_like(y))

    with pytest.raises(BrokenPromise, match=r"collapsed .*90\.0%"):
        fit(
            model,
            TrainingData(data.train, rare, data.classes),
            constant,
            clean_accuracy,
            generator(),
            Silent(),
            loop=Loop(epochs=10, batch_size=16),
            threat=None,
        )


def test_frozen_weights_stay_frozen_and_as_they_were(model, data, generator):
    model.net[0].weight.requires_grad_(False)

    trained = standard(model, data, generator(), Silent(), loop=Loop(epochs=2))

    assert torch.equal(trained.net[0].weight, model.net[0].weight)
    assert not trained.net[0].weight.requires_grad
    assert trained.net[1].weight.requires_grad


def test_without_an_average_the_live_weights_are_returned(model, data, generator):
    live = []

    def loss(model, x, y, threat):
        live[:] = [model]
        return cross_entropy(model, x, y, threat)

    loop = Loop(epochs=1, ema=0)
    got = fit(model, data, loss, clean_accuracy, generator(), Silent(), loop=loop, threat=None)

    pairs = zip(got.state_dict().values(), live[0].state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0}, {"ema": 1}, {"ramp": 1.1}],
    ids=str,
)
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Loop(**options)


def test_the_loop_knows_no_threat_without_one(model, data, generator):
    loss, calls = counting(cross_entropy)

    fit(model, data, loss, clean_accuracy, generator(), Silent(), loop=Loop(epochs=1), threat=None)

    assert {eps for _, eps, _ in calls} == {None}
