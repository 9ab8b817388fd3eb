"""What the losses of single papers compute, against their formulas written out."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.compactness import compact, compactness, terms
from defenses.extreme_norm import draw, either, extreme_norm, extremes, implied
from defenses.fast_bat import Step, bilevel, fast_bat, one_step, with_implicit_term
from defenses.free import carrying
from defenses.helper import helped
from defenses.mart import boosted, misclassification_aware
from defenses.training import Loop
from hardening.errors import ConfigError, ModelError
from hardening.log import Silent
from hardening.threat import ThreatModel

LINF = ThreatModel(norm="linf", eps=0.05)


@pytest.fixture
def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return model


@pytest.fixture
def batch(data):
    return data.train.floats()[:12].double(), data.train.labels[:12]


# MART


def test_the_boosted_cross_entropy_adds_the_strongest_wrong_class():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]).log()

    got = boosted(logits, torch.tensor([0, 1]))

    expected = -torch.tensor([0.5, 0.2]).log() - (1.0001 - torch.tensor([0.3, 0.7])).log()
    torch.testing.assert_close(got, expected)


def test_the_boosted_cross_entropy_is_finite_for_a_model_that_is_sure_and_wrong():
    logits = torch.tensor([[-1000.0, 1000.0]], requires_grad=True)

    value = boosted(logits, torch.tensor([0]))
    value.sum().backward()

    assert value.isfinite().all()
    assert logits.grad.isfinite().all()


def test_mart_weighs_the_divergence_by_the_doubt_in_the_clean_answer(linear, batch, generator):
    shown = []
    linear.register_forward_hook(lambda *call: shown.append(call[2]) if call[0].training else None)

    value = misclassification_aware(generator(), beta=5.0, steps=2)(linear, *batch, LINF)

    (clean, adversarial), y = shown, batch[1]
    p, q = clean.softmax(1), adversarial.softmax(1)
    drift = (p * (p / q).log()).sum(1) * (1.0000001 - p[torch.arange(12), y])
    torch.testing.assert_close(value, (boosted(adversarial, y) + 5 * drift).mean())


# HAT


def test_helper_examples_lie_farther_and_carry_the_given_model_s_label(linear, batch, generator):
    given, shown = deepcopy(linear), []
    with torch.no_grad():
        given[1].weight.neg_()
    linear.register_forward_pre_hook(
        lambda model, inputs: shown.append(inputs[0]) if model.training else None
    )

    weights = {"beta": 0.0, "reach": 2.0, "steps": 3}
    without = helped(given, generator(), gamma=0.0, **weights)(linear, *batch, LINF)
    shown.clear()
    value = helped(given, generator(), gamma=0.5, **weights)(linear, *batch, LINF)

    x = batch[0]
    clean, x_adv, helpers = sorted(shown, key=lambda seen: float((seen - x).abs().max()))
    assert torch.equal(clean, x)
    torch.testing.assert_close(helpers, (x + 2 * (x_adv - x)).clamp(0, 1))
    label = given(x_adv).argmax(1)
    torch.testing.assert_close(value - without, 0.5 * F.cross_entropy(linear(helpers), label))


# Free


def test_one_backward_pass_trains_the_weights_and_moves_the_perturbation(linear, batch):
    x, y = batch
    carried = torch.zeros_like(x)
    loss = carrying(carried)

    loss(linear, x, y, LINF).backward()

    at_x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(linear(at_x), y), at_x)
    expected = LINF.project(x, x + LINF.eps * gradient.sign()) - x
    torch.testing.assert_close(carried, expected)
    assert linear[1].weight.grad.any()
    torch.testing.assert_close(loss(linear, x, y, LINF), F.cross_entropy(linear(x + expected), y))


def test_a_loss_that_is_not_descended_leaves_the_perturbation_alone(linear, batch):
    carried = torch.zeros_like(batch[0])

    carrying(carried)(linear, *batch, LINF)

    assert not carried.any()


def test_a_free_perturbation_stays_within_eps_over_many_steps(linear, batch):
    x, y = batch
    carried = torch.zeros_like(x)
    for _ in range(6):
        carrying(carried)(linear, x, y, LINF).backward()

    assert LINF.contains(x, LINF.project(x, x + carried)).all()
    assert carried.abs().max() <= LINF.eps * 1.0001


# Fast-BAT


def test_the_implicit_gradient_is_that_of_finite_differences():
    """The step ends inside some bounds and on others; curvature is one over its length."""
    rng = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.9, -0.4], [0.2, 0.3]]))
    x = 0.3 + 0.4 * torch.rand(6, 1, 1, 2, generator=rng, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    z, curvature = LINF.sample(x, rng), 8.0

    def inner():
        at = z.clone().requires_grad_()
        total = F.cross_entropy(model(at), y, reduction="sum")
        wanted = z + torch.autograd.grad(total, at)[0] / curvature
        x_adv = LINF.project(x, wanted)
        return Step(x_adv, x_adv == wanted)

    free = inner().free
    assert 0 < float(free.double().mean()) < 1
    with_implicit_term(model, y, z, inner(), curvature).backward()

    weight = model[1].weight
    expected = torch.zeros_like(weight)
    with torch.no_grad():
        for place in range(weight.numel()):
            values = []
            for shift in (1e-6, -1e-6):
                weight.view(-1)[place] += shift
                with torch.enable_grad():
                    values.append(F.cross_entropy(model(inner().x_adv), y).item())
                weight.view(-1)[place] -= shift
            expected.view(-1)[place] = (values[0] - values[1]) / 2e-6
    torch.testing.assert_close(weight.grad, expected, atol=1e-8, rtol=1e-5)
    plain = torch.autograd.grad(F.cross_entropy(model(inner().x_adv), y), weight)[0]
    assert (plain - expected).abs().max() > 1e-4


def test_the_implicit_term_changes_the_gradient_and_not_the_value(linear, batch):
    x, y = batch
    inner = one_step(linear, x, y, x, LINF, reach=1.0)

    value = with_implicit_term(linear, y, x, inner, 10.0)

    torch.testing.assert_close(value, F.cross_entropy(linear(inner.x_adv), y))


def test_half_the_pixels_reach_a_bound_whatever_the_scale_of_gradients(linear, batch):
    x, y = batch
    with torch.no_grad():
        linear[1].weight *= 1e-3
    inner = one_step(linear, x, y, x, LINF, reach=1.0)

    assert 0.3 < float(inner.free.double().mean()) < 0.7
    assert LINF.contains(x, inner.x_adv).all()


def test_fast_bat_survives_batch_normalisation(model, batch, generator):
    free = torch.zeros(2)
    model.train()

    bilevel(generator(), free, curvature=10, reach=1)(
        model, batch[0].float(), batch[1], LINF
    ).backward()

    assert 0 < free[0] < free[1] == 1


def test_fast_bat_says_how_many_pixels_were_free(model, data, generator, recorder):
    fast_bat(model, data, LINF, generator(), recorder, loop=Loop(epochs=2, batch_size=64))

    (line,) = recorder.lines
    assert line.endswith("of the pixels were free of bounds")
    assert 0 < int(line.split()[1].rstrip("%")) < 100


# E-AT


def test_radii_follow_the_paper_s_proportion_from_any_norm():
    linf, l1 = extremes(ThreatModel(norm="linf", eps=8 / 255), 3072, linf=None, l1=None)
    assert (linf.eps, l1.eps) == pytest.approx((8 / 255, 12.05), rel=1e-3)
    assert extremes(l1, 3072, linf=None, l1=None)[0].eps == pytest.approx(8 / 255)
    middle = extremes(implied(linf, l1), 3072, linf=None, l1=None)
    assert middle[0].eps == pytest.approx(8 / 255, rel=0.01)
    given = extremes(linf, 3072, linf=0.1, l1=3.0)
    assert [ball.eps for ball in given] == [0.1, 3.0]


def test_the_implied_l2_ball_is_that_of_the_hull():
    """In two dimensions with radii 1 and 1.5 the edge joins the corners of both."""
    ball = implied(ThreatModel(norm="linf", eps=1.0), ThreatModel(norm="l1", eps=1.5))

    corner, square = torch.tensor([1.5, 0.0]), torch.tensor([1.0, 1.0])
    edge = square - corner
    normal = torch.tensor([edge[1], -edge[0]]) / edge.norm()
    assert ball.eps == pytest.approx(float((normal @ corner).abs()))


def test_extreme_norms_of_pixel_counts_are_refused():
    with pytest.raises(ConfigError, match="got the threat l0 eps 5, expected linf, l2 or l1"):
        extremes(ThreatModel(norm="l0", eps=5), 64, linf=None, l1=None)


def test_a_norm_is_drawn_in_proportion_to_its_errors(generator):
    rng = generator()
    even = [draw(torch.zeros(2, 2), rng) for _ in range(400)]
    errors = torch.tensor([[10.0, 100.0], [90.0, 300.0]])  # 10 % and 30 %
    drawn = [draw(errors, rng) for _ in range(400)]

    assert 160 < sum(even) < 240
    assert 260 < sum(drawn) < 340


def test_images_lie_in_the_drawn_ball_which_grows_with_eps_and_errors_are_counted(
    linear, batch, generator
):
    shown, errors = [], torch.zeros(2, 2)
    linear.register_forward_pre_hook(
        lambda model, inputs: shown.append(inputs[0]) if model.training else None
    )
    pair = extremes(LINF, 64, linf=None, l1=None)
    loss, x = either(pair, LINF.eps, errors, generator(), steps=3), batch[0]
    for _ in range(8):
        before = errors[:, 1].clone()
        loss(linear, *batch, LINF.scaled(0.5))
        chosen = int((errors[:, 1] - before).argmax())
        assert pair[chosen].scaled(0.5).contains(x, shown[-1]).all()

    assert errors[:, 1].sum() == 8 * 12
    assert (errors[:, 0] <= errors[:, 1]).all()


def test_extreme_norms_are_said(model, data, generator, recorder):
    extreme_norm(model, data, LINF, generator(), recorder, steps=1, loop=Loop(epochs=2))

    assert recorder.lines == [
        "extreme norms: linf eps 0.05, l1 eps 0.4; between them l2 eps 0.1414"
    ]


# ADR


def test_the_terms_are_those_of_a_batch_computed_by_hand():
    clean = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]]).log()
    adversarial = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]).log()
    features = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
    moved = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, 0.0]])
    y = torch.tensor([0, 0, 1])

    adv, local, smooth, overall, confident = terms(clean, adversarial, features, moved, y)

    torch.testing.assert_close(adv, -torch.tensor([0.5, 0.9, 0.7]).log().mean())
    assert float(local) == pytest.approx((1 + 2 + 1) / 6)
    # Rows: moved i to features j, averaged over two features; classes 0, 0, 1.
    apart = [[0.5, 1.0, 0.0], [1.5, 1.0, 1.0], [1.0, 0.5, 0.5]]
    pull = [[1, 1, -1 / 99], [1, 1, -1 / 99], [-1 / 99, -1 / 99, 1]]
    by_hand = sum(pull[i][j] * apart[i][j] for i in range(3) for j in range(3)) / 9
    assert float(overall) == pytest.approx(by_hand)
    p, q = clean.exp(), adversarial.exp()
    torch.testing.assert_close(smooth, -(p * q.log()).sum(1).mean())
    torch.testing.assert_close(confident, -(q * q.log()).sum(1).mean())


def test_the_natural_side_of_compactness_gets_no_gradient():
    parts = [torch.randn(4, 3, requires_grad=True) for _ in range(4)]

    sum(terms(*parts, torch.tensor([0, 1, 2, 0]))).backward()

    clean, adversarial, features, moved = parts
    assert clean.grad is None
    assert features.grad is None
    assert adversarial.grad.any()
    assert moved.grad.any()


def test_without_its_terms_compactness_is_the_clean_cross_entropy(linear, batch, generator):
    value = compact(generator(), (0.0,) * 5, steps=1)(linear, *batch, LINF)

    torch.testing.assert_close(value, F.cross_entropy(linear(batch[0]), batch[1]))
    assert not linear[1]._forward_pre_hooks


def test_compactness_says_what_to_use_where_there_are_no_features(data, generator):
    model = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())

    with pytest.raises(
        ModelError, match="without a linear layer, expected one at its end: use tra"
    ):
        compactness(model, data, LINF, generator(), Silent())
