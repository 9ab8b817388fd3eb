"""A surrogate leads, the target judges."""

import pytest
import torch

from hardening.attack import stands
from hardening.carried import Carried, Ensemble
from hardening.errors import ModelError, NumericsError


def linear(*slopes):
    return lambda x: x.flatten(1).sum(1, keepdim=True) * torch.tensor(slopes)


X = torch.full((150, 1, 2, 2), 0.5)
ZEROS = torch.zeros(150, dtype=torch.long)
FIRST, SECOND = linear(2.0, 1.0, 0.0), linear(1.0, 2.0, 0.0)


def test_gradients_come_from_the_surrogate_and_answers_from_the_target():
    carried = Carried(target=FIRST, surrogate=SECOND)
    assert torch.equal(carried(X), FIRST(X))
    x = X.clone().requires_grad_()
    assert torch.equal(carried(x), SECOND(x))


@pytest.mark.parametrize(("target", "answer"), [(FIRST, True), (SECOND, False)])
def test_the_target_judges_whatever_the_surrogate_says(target, answer):
    for surrogate in (FIRST, SECOND):
        carried = Carried(target, surrogate)
        assert (stands(carried, X, surrogate(X), ZEROS) == answer).all()


def test_a_target_that_judges_for_itself_is_given_its_own_answers():
    class Lenient:
        def __call__(self, x):
            return SECOND(x)

        def stands(self, points, logits, y):
            assert torch.equal(points, X)
            return logits.argmax(1) == y + 1

    assert stands(Carried(Lenient(), FIRST), X, FIRST(X), ZEROS).all()


def test_the_target_is_asked_in_batches_and_without_gradients():
    sizes = []

    def target(x):
        sizes.append(len(x))
        assert not x.requires_grad
        return FIRST(x)

    assert len(stands(Carried(target, FIRST), X, FIRST(X), ZEROS)) == 150
    assert sizes == [64, 64, 22]


def test_a_target_that_answers_nan_has_not_withstood():
    def target(x):
        return FIRST(x) * float("nan")

    with pytest.raises(NumericsError, match="target are not finite for 150 of 150"):
        stands(Carried(target, FIRST), X, FIRST(X), ZEROS)


def test_an_ensemble_is_the_mean_of_log_probabilities():
    x = torch.rand(5, 1, 2, 2).requires_grad_()
    both = Ensemble([FIRST, SECOND])(x)
    expected = (FIRST(x).softmax(1).log() + SECOND(x).softmax(1).log()) / 2
    assert torch.allclose(both, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(both[:, 2].sum(), x)
    assert (gradient < 0).all()


def test_an_ensemble_forgets_what_logits_are_relative_to():
    shifted = Ensemble([FIRST, lambda x: SECOND(x) + 100])
    assert torch.allclose(shifted(X), Ensemble([FIRST, SECOND])(X), atol=1e-4)


def test_random_members_are_asked_as_often_as_they_ask_for():
    def many(x):
        return FIRST(x)

    many.draws = 7
    assert Ensemble([FIRST, many]).draws == 7
    assert Carried(FIRST, many).draws == Carried(many, FIRST).draws == 7
    assert Carried(FIRST, SECOND).draws == 1


def test_wrong_ensembles_are_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        Ensemble([])
    with pytest.raises(ModelError, match="members with 2, 3 outputs"):
        Ensemble([FIRST, linear(1.0, 2.0)])(X)
