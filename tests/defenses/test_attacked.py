import pytest
import torch
from torch import nn

from defenses.attacked import attacked


@pytest.fixture
def mixed():
    """A model whose modules and parameters do not all agree."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    return model


def state(model):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
    )


def test_inside_everything_is_still(mixed):
    with attacked(mixed):
        modes, flags = state(mixed)

    assert not any(modes)
    assert not any(flags)


def test_every_mode_and_every_flag_is_restored(mixed):
    before = state(mixed)

    with attacked(mixed):
        pass

    assert state(mixed) == before


def test_modes_and_flags_are_restored_when_an_attack_fails(mixed):
    before = state(mixed)

    with pytest.raises(ZeroDivisionError), attacked(mixed):
        raise ZeroDivisionError

    assert state(mixed) == before


def test_dropout_and_batch_statistics_add_no_noise_inside(mixed):
    mixed.train()
    statistics = mixed[1].running_mean.clone()
    x = torch.rand(8, 2)

    with attacked(mixed):
        first, second = mixed(x), mixed(x)

    assert torch.equal(first, second)
    assert torch.equal(mixed[1].running_mean, statistics)
