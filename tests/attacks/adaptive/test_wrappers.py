"""Each wrapper alone, on models whose right answer is known."""

from functools import partial

import pytest
import torch

from attacks.adaptive import (
    WRAPPERS,
    agreement,
    bpda,
    expectation,
    rescaled,
    straight_through,
)
from attacks.gradient import differentiate, draws, look
from attacks.losses import ce, margin
from attacks.pgd import pgd
from hardening.attack import stands
from hardening.deployed import Deployed
from hardening.errors import ConfigError
from hardening.spec import Spec, bind, parameters
from hardening.threat import ThreatModel

ZEROS = torch.zeros(40, dtype=torch.long)
GREY = torch.full((40, 1, 2, 2), 0.5)
THREAT = ThreatModel(eps=0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two_classes(score):
    return torch.stack([-score, score], dim=1)


class Wavering:
    """Class 0, but each answer is wrong by itself with chance `wrong`; gradient 1, noise 10."""

    def __init__(self, wrong):
        self.wrong, self.rng = wrong, seeded()

    def __call__(self, x):
        slips = torch.rand(len(x), generator=self.rng) < self.wrong
        noise = 1 + 10 * torch.randn(len(x), generator=self.rng)
        lean = x.flatten(1).mean(1)
        return two_classes(slips * 2.0 - 1 + (lean - lean.detach()) * noise)


# expectation


def test_lucky_failures_of_a_random_model_do_not_count():
    model, attack = Wavering(0.2), partial(pgd, steps=10)
    assert (attack(model, GREY, ZEROS, THREAT, seeded()).step >= 0).float().mean() > 0.8
    assert (attack(expectation(model), GREY, ZEROS, THREAT, seeded()).step == -1).all()


def test_a_model_that_is_mostly_wrong_has_fallen():
    step = pgd(expectation(Wavering(0.97)), GREY, ZEROS, THREAT, seeded(), steps=3).step
    assert (step == 0).all()


def test_one_wrong_answer_is_checked_with_fresh_ones():
    """Logits may come from few draws, or from a twin: they are a hint."""
    wrong = two_classes(torch.ones(40))
    assert stands(expectation(Wavering(0.0)), GREY, wrong, ZEROS).all()
    assert not stands(expectation(Wavering(1.0)), GREY, wrong, ZEROS).any()
    assert stands(expectation(Wavering(1.0)), GREY, -wrong, ZEROS).all()


@pytest.mark.parametrize(
    ("answers", "expected"), [("wrrr", True), ("wwrr", True), ("wwwr", False), ("wrw", True)]
)
def test_three_quarters_of_the_answers_end_a_search(answers, expected):
    said = iter(answers)
    model = expectation(
        lambda x: two_classes(torch.ones(len(x)) * (1 if next(said) == "w" else -1)),
        draws=len(answers),
    )
    assert (stands(model, GREY, two_classes(torch.ones(40)), ZEROS) == expected).all()


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_agreement_is_the_share_of_right_answers(wrong):
    share = agreement(Wavering(wrong), GREY, ZEROS, draws=200)
    assert share.shape == (40,)
    assert float(share.mean()) == pytest.approx(1 - wrong, abs=0.02)


def test_gradients_are_means_over_draws():
    def spread(draws):
        model = expectation(Wavering(0.0), draws=draws)
        return float(differentiate(model, GREY, margin, ZEROS)[2].std())

    assert spread(100) < spread(1) / 5


def test_each_pass_is_as_many_passes_as_there_are_draws(counted):
    model = counted(Wavering(0.0))
    look(expectation(model, draws=6), GREY, ce, ZEROS)
    assert len(model.sizes) == 6
    differentiate(expectation(model, draws=6), GREY, ce, ZEROS)
    assert len(model.backwards) == 6


# rescaled


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
def test_rescaling_keeps_the_order_of_the_logits(classes, scale):
    logits = torch.randn(200, classes, generator=seeded()) * scale
    found = rescaled(lambda _: logits)(GREY)
    assert torch.equal(found.argmax(1), logits.argmax(1))
    assert (found.gather(1, logits.argsort(1)).diff(dim=1) >= 0).all()
    assert int((found == 0).sum()) == 200


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e5])
def test_rescaled_cross_entropy_has_a_gradient_where_the_plain_one_has_none(classes, scale, curved):
    model = curved(12, classes, scale)
    x = torch.rand(60, 3, 2, 2, generator=seeded(1))
    y = model(x).argmax(1)
    gradient = differentiate(rescaled(model), x, ce, y)[2]
    assert (gradient.flatten(1).abs().amax(1) > 1e-8).all()
    if scale == 1e5:
        silent = (differentiate(model, x, ce, y)[2] == 0).flatten(1).all(1)
        assert silent.float().mean() > 0.8


def test_rescaled_cross_entropy_rises_as_the_label_loses_ground():
    """Twenty steps towards the border and beyond, at a scale where the plain one says zero."""
    way = torch.linspace(-1e4, 1e4, 21)
    losses = look(rescaled(lambda _: two_classes(way)), GREY[:21], ce, ZEROS[:21])[1]
    assert (losses.diff() > 0).all()
    plain = look(lambda _: two_classes(way), GREY[:21], ce, ZEROS[:21])[1]
    assert (plain[:10] == 0).all()


# straight_through, bpda


def test_straight_through_computes_the_function_bit_for_bit():
    x = torch.randn(1000, generator=seeded()) * 10 ** torch.randn(1000, generator=seeded(1))
    for function in (torch.round, torch.sign, lambda v: (v / 0.3).round() * 0.3):
        assert torch.equal(straight_through(function)(x), function(x))
        assert torch.equal(straight_through(function, lambda v: v * 3)(x), function(x))


def test_the_gradient_is_that_of_the_identity_or_of_what_was_given():
    x = torch.randn(50, generator=seeded()).requires_grad_()
    for backward, expected in ((None, torch.ones(50)), (torch.tanh, 1 - x.tanh() ** 2)):
        through = straight_through(torch.round, backward)(x)
        (gradient,) = torch.autograd.grad(through.sum(), x)
        assert torch.allclose(gradient, expected.detach())


def test_shapes_that_do_not_fit_are_not_broadcast():
    with pytest.raises(ValueError, match=r"\(40, 1, 1, 1\).*\(40, 1, 2, 2\)"):
        straight_through(lambda x: x.amax((2, 3), keepdim=True))(GREY)
    pooled = straight_through(
        lambda x: x.amax((2, 3), keepdim=True), lambda x: x.mean((2, 3), keepdim=True)
    )
    assert pooled(GREY).shape == (40, 1, 1, 1)


def test_bpda_asks_the_model_about_prepared_images_and_its_gradient_there():
    def prepare(x):
        return (x > 0.4).float()

    def model(x):
        return two_classes((x**2).flatten(1).sum(1))

    behind = bpda(prepare, model)
    assert torch.equal(look(behind, GREY, margin, ZEROS)[0], model(torch.ones(40, 1, 2, 2)))
    gradient = differentiate(behind, GREY, margin, ZEROS)[2]
    assert torch.allclose(gradient, torch.full_like(GREY, 4.0))  # 2 * 2x at the prepared x = 1


def test_bpda_lets_the_wrapped_model_judge_the_prepared_points():
    def session(x):
        assert not x.requires_grad
        return two_classes(x.flatten(1).mean(1) - 0.6)

    def twin(x):
        return two_classes(x.flatten(1).mean(1) - 0.1)

    deployed = Deployed(session, twin)
    fooled = two_classes(torch.ones(40))
    for offset, expected in ((0.0, True), (0.2, False)):
        behind = bpda(lambda x, offset=offset: x + offset, deployed)
        assert (stands(behind, GREY, fooled, ZEROS) == expected).all()


# all of them


def lean(x):
    return two_classes(x.flatten(1).mean(1) - 0.55)


def test_wrappers_nest_and_pass_on_what_they_wrap():
    deployed = Deployed(
        session=lambda x: two_classes(-torch.ones(len(x))),
        twin=lambda x: two_classes(x.flatten(1).mean(1)),
    )
    random_one = expectation(deployed, draws=5)
    nested = {
        "rescaled": rescaled(random_one),
        "bpda": bpda(torch.round, random_one),
        "twice": rescaled(bpda(torch.round, random_one)),
        "inside": expectation(rescaled(deployed), draws=5),
    }
    for model in nested.values():
        assert draws(model) == 5
        assert (pgd(model, GREY, ZEROS, THREAT, seeded(), steps=4).step == -1).all()


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_of_the_registry_come_from_a_configuration(name):
    wrapped = bind(WRAPPERS, Spec(name=name))(lean)
    assert (pgd(wrapped, GREY, ZEROS, THREAT, seeded(), steps=20).step > 0).all()
    assert all(parameter.meaning for parameter in parameters(WRAPPERS[name]))


def test_settings_of_wrappers_are_checked():
    assert bind(WRAPPERS, Spec(name="expectation", params={"draws": 3}))(lean).draws == 3
    with pytest.raises(ConfigError, match="draws"):
        bind(WRAPPERS, Spec(name="expectation", params={"draws": 0}))
    with pytest.raises(ConfigError, match="did you mean 'expectation'"):
        bind(WRAPPERS, Spec(name="expectations"))
