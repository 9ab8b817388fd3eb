import pytest
import torch

from hardening.data import Labelled
from hardening.data.statistics import BATCH, SMALLEST_STD, channel_statistics


@pytest.mark.parametrize("as_float", [False, True])
def test_statistics_equal_those_of_all_pixels_at_once_across_batches(as_float):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH + 7, 3, 4, 4), generator=rng, dtype=torch.uint8)
    images[:, 1] //= 3
    part = Labelled(images, torch.zeros(len(images), dtype=torch.int64))
    part = Labelled(part.floats(), part.labels) if as_float else part
    mean, std = channel_statistics(part)
    pixels = images.double() / 255

    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-7)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-7)


def test_a_constant_channel_has_a_positive_spread():
    images = torch.full((4, 1, 3, 3), 51, dtype=torch.uint8)
    mean, std = channel_statistics(Labelled(images, torch.zeros(4, dtype=torch.int64)))

    assert mean == pytest.approx([0.2])
    assert std == (SMALLEST_STD,)
