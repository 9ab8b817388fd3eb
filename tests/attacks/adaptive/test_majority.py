"""What a random model says is what most of its answers say."""

import pytest
import torch

from attacks.adaptive import majority
from hardening.attack import stands
from hardening.errors import NumericsError

X = torch.zeros(4, 1, 2, 2)


def turning(*answers):
    """A model of three classes that gives these answers by turns, to all images alike."""
    waiting = []

    def model(x):
        waiting.extend(answers if not waiting else [])
        return torch.eye(3)[[waiting.pop(0)] * len(x)]

    return model


@pytest.mark.parametrize(
    ("answers", "stands_as"),
    [((0, 0, 0, 1, 2), {0}), ((1, 0, 1, 2, 1), {1}), ((0, 0, 1, 1, 2), set())],
)
def test_an_image_stands_as_what_more_than_half_of_the_answers_say(answers, stands_as):
    judge = majority(turning(*answers), draws=5)
    logits = judge(X)
    for label in range(3):
        y = torch.full((4,), label)
        assert stands(judge, X, logits, y).tolist() == [label in stands_as] * 4


def test_logits_are_the_logarithms_of_the_shares_of_the_votes():
    logits = majority(turning(0, 0, 1, 0), draws=4)(X)
    assert torch.allclose(logits.exp(), torch.tensor([0.75, 0.25, 0.0]), atol=1e-5)
    assert logits.isfinite().all()


def test_an_answer_that_is_no_number_is_no_vote():
    with pytest.raises(NumericsError):
        majority(lambda x: torch.full((len(x), 3), torch.nan))(X)
