import gc

import pytest
import torch

from hardening.deployment.operators import OPERATORS


def pytest_configure():
    gc.set_threshold(5_000)  # as `temper` itself does


def pytest_collection_finish():
    """What was imported lives until the end: a tenth of the suite's time was spent on it."""
    gc.freeze()


def pytest_unconfigure():
    gc.freeze()


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
