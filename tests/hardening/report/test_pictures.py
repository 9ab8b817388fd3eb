from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from hardening.evidence import Example
from hardening.report.pictures import Picture, amplification, data_uri, difference, shown_width


def decoded(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(b64decode(body))))


def pair(clean, adversarial):
    example = Example(
        index=0,
        attack="a",
        label=0,
        clean_prediction=0,
        clean_confidence=1,
        adversarial_prediction=1,
        adversarial_confidence=1,
    )
    return Picture(example, clean, adversarial)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_holds_every_pixel_exactly(channels):
    pixels = torch.arange(channels * 6 * 5).view(channels, 6, 5) * 2
    shown = decoded(data_uri(pixels / 255))

    assert np.array_equal(shown.reshape(6, 5, channels), pixels.permute(1, 2, 0).numpy())


def test_other_numbers_of_channels_are_shown_as_their_mean():
    image = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 200 / 255)])

    assert (decoded(data_uri(image)) == 100).all()


@pytest.mark.parametrize(("eps", "factor"), [(0.1, 5), (8 / 255, 15), (0.3, 1), (0.5, 1), (1.0, 1)])
def test_the_factor_is_the_largest_that_clips_nothing(eps, factor):
    clean = torch.full((1, 2, 2), 0.5) if eps <= 0.5 else torch.zeros(1, 2, 2)
    found = amplification([pair(clean, clean + eps), pair(clean, clean + eps / 3)])

    assert found == factor


def test_no_change_is_middle_grey_and_needs_no_factor():
    clean = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    same = pair(clean, clean.clone())

    assert amplification([same]) == amplification([]) == 1
    assert (difference(same, 7) == 0.5).all()


def test_the_difference_is_amplified_around_grey():
    same = pair(torch.full((1, 1, 2), 0.5), torch.tensor([[[0.6, 0.4]]]))

    assert torch.allclose(difference(same, 3), torch.tensor([[[0.8, 0.2]]]))


@pytest.mark.parametrize(
    ("width", "shown"), [(8, 112), (28, 112), (32, 128), (112, 112), (224, 160)]
)
def test_small_pictures_grow_by_whole_factors(width, shown):
    assert shown_width(width) == shown
