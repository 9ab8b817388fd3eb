"""A file under attack: the twin leads, the session has the last word."""

import pytest
import torch

from attacks.adaptive import expectation
from attacks.registry import ATTACKS
from hardening.carried import Carried, Ensemble
from hardening.deployed import Counted, Deployed, unchanged
from hardening.errors import ModelFailure
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.1)


def plane(x, at=0.5):
    margin = x.flatten(1).mean(1) - at
    return torch.stack([-margin, margin], dim=1)


def attacked(model, mean):
    x = torch.full((1, 1, 4, 4), mean)
    found = ATTACKS["pgd"](model, x, torch.ones(1, dtype=torch.long), THREAT, torch.Generator())
    return plane(found.x_adv).argmax(1).item() != 1, found.step.item()


def test_the_session_answers_where_no_gradient_is_asked_for():
    asked = []

    def named(name):
        def model(x):
            asked.append(name)
            return plane(x)

        return model

    deployed = Deployed(named("session"), named("twin"))
    deployed(torch.rand(2, 1, 4, 4))
    deployed(torch.rand(2, 1, 4, 4).requires_grad_())
    assert asked == ["session", "twin"]


def test_a_search_goes_on_where_only_the_twin_is_fooled():
    """The twin falls at 0.57, the file at 0.5: stopping there would call it robust."""
    fell, step = attacked(Deployed(plane, lambda x: plane(x, at=0.57)), 0.58)
    assert fell
    assert step > 1


def test_a_search_stops_where_the_session_is_fooled_although_the_twin_errs_later():
    fell, _ = attacked(Deployed(plane, lambda x: plane(x, at=0.3)), 0.55)
    assert fell


def test_bfloat16_gradients_find_what_float32_confirms():
    weight = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))

    def linear(x):
        return (x.flatten(1) - 0.5) @ weight.to(x.dtype)

    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = linear(x).argmax(1)
    fallen = {}
    for fast in (False, True):
        model = Deployed(linear, linear, fast=fast)
        found = ATTACKS["pgd"](model, x, y, THREAT, torch.Generator().manual_seed(2))
        fallen[fast] = linear(found.x_adv).argmax(1) != y
        assert torch.equal(fallen[fast], found.step >= 0)
    assert torch.equal(fallen[False], fallen[True])
    assert 0 < int(fallen[True].sum()) < 40


def test_counting_changes_nothing():
    x = torch.rand(5, 1, 4, 4)
    assert torch.equal(Counted(plane)(x), plane(x))


def test_scores_may_be_the_twins_and_success_is_the_sessions():
    asked = []

    def session(x):
        asked.append(len(x))
        return plane(x)

    x = torch.full((1, 1, 4, 4), 0.57)
    label = torch.ones(1, dtype=torch.long)
    model = Deployed(session, lambda x: plane(x, at=0.49), scores=True)
    found = ATTACKS["square"](model, x, label, THREAT, torch.Generator(), queries=200)
    assert plane(found.x_adv).argmax(1).item() != 1
    assert 0 < len(asked) < found.step.item()


class Drifting(torch.nn.Module):
    """Counts its passes in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return plane(x)


@pytest.mark.parametrize(
    "hold",
    [
        lambda drifting: drifting,
        lambda drifting: Deployed(plane, drifting),
        lambda drifting: Carried(plane, drifting),
        lambda drifting: Carried(plane, Ensemble([plane, drifting])),
        lambda drifting: expectation(Deployed(plane, drifting), draws=2),
    ],
    ids=["itself", "a twin", "a surrogate", "a member", "wrapped"],
)
def test_a_model_that_changes_itself_is_found_wherever_it_hides(hold):
    model = hold(Drifting())
    with pytest.raises(ModelFailure, match="changed 'passes' of itself"), unchanged("pgd", model):
        model(torch.rand(1, 1, 4, 4).requires_grad_())
