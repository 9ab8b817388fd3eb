import pytest
import torch

from hardening.deployment.operators import OPERATORS


def wrong(function, amount):
    """The operator with its results 1 % larger where `amount` of its first input is true."""

    def operator(x, *others, **attributes):
        right = function(x, *others, **attributes)
        return torch.where(amount(x), 1.01 * right, right)

    return operator


def everywhere(_):
    return torch.tensor(True)


@pytest.fixture
def broken(monkeypatch):
    def breaks(name, amount=everywhere):
        monkeypatch.setitem(OPERATORS, name, wrong(OPERATORS[name], amount))

    return breaks
