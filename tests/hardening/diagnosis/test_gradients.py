"""G5 and G6: gradients are there, and they are the slopes."""

import pytest
import torch

from hardening.data import Labelled
from hardening.diagnosis import Limits
from hardening.errors import ModelError, NumericsError


@pytest.fixture
def images():
    x = torch.rand(100, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Labelled(x, torch.zeros(100, dtype=torch.long))


WEIGHT = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))


def linear(x):
    return x.flatten(1) @ WEIGHT


def crooked(x):
    """Right values, wrong gradients: those of the mirrored model."""
    return linear(x).detach() - linear(x) + linear(x).detach()


def flat_where(frozen):
    """Images at these places in the sample are seen, and give no gradient."""

    def model(x):
        keep = ~torch.isin(x[:, 0, 0, 0], frozen)
        return linear(torch.where(keep[:, None, None, None], x, x.detach()))

    return model


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_share_of_images_without_a_gradient(count, images, examine):
    model = flat_where(images.images[:count, 0, 0, 0])
    alarm = examine(model, images, gates=["G5"])["G5"]
    assert alarm.value == pytest.approx(count / 100)
    assert alarm.fired == (count > 1)
    assert ("warning" in alarm.detail) == (count == 1)


def test_a_pixel_without_a_gradient_is_no_image_without_one(images, examine):
    def bordered(x):
        return linear(torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], 2))

    assert examine(bordered, images, gates=["G5"])["G5"].value == 0


@pytest.mark.parametrize(("blind", "place"), [("image", 0), ("start", 1)])
def test_both_the_image_and_a_random_start_are_looked_at(blind, place, images, examine):
    """Clean images are multiples of a 64th here, random starts are not."""
    grid = Labelled((images.images * 64).round() / 64, images.labels)

    def model(x):
        on_grid = ((x * 64).round() / 64 == x).flatten(1).all(1)
        frozen = on_grid if blind == "image" else ~on_grid
        return linear(torch.where(frozen[:, None, None, None], x.detach(), x))

    alarm = examine(model, grid, gates=["G5"])["G5"]
    assert alarm.value == 1
    figures = [float(part.rsplit(": ", 1)[1]) for part in alarm.detail.split(", ")]
    assert figures == [[1, 0], [0, 1]][place] * 2


def test_cross_entropy_alone_goes_blind_at_large_logits(images, examine):
    def loud(x):
        return 1e4 * linear(x)

    own = Labelled(images.images, linear(images.images).argmax(1))
    alarm = examine(loud, own, gates=["G5"])["G5"]
    assert alarm.value > 0.5
    assert alarm.fired
    assert "margin at the image: 0, margin at a random start: 0" in alarm.detail


def test_the_gradient_of_a_linear_model_is_its_slope(images, examine):
    alarm = examine(linear, images, gates=["G6"])["G6"]
    assert alarm.value < 1e-2
    assert not alarm.fired


def test_gradients_that_point_the_other_way(images, examine):
    alarm = examine(crooked, images, gates=["G6"])["G6"]
    assert alarm.value == pytest.approx(1, abs=1e-2)
    assert alarm.fired


def test_a_gradient_that_leaves_pixels_out(images, examine):
    """Along itself it is right: only random directions see what is missing."""

    def half(x):
        return linear(torch.cat([x[:, :, :2].detach(), x[:, :, 2:]], 2))

    alarm = examine(half, images, gates=["G6"])["G6"]
    along = alarm.detail.split(", ")[0].rsplit(": ", 1)[1]
    assert float(along) < 1e-3
    assert alarm.fired


def test_both_sides_zero_agree(images, examine):
    alarm = examine(lambda x: 0 * linear(x) + torch.arange(3.0), images, gates=["G6"])["G6"]
    assert alarm.value == 0


def test_black_and_white_pixels_are_tested_from_inside_the_range(images, examine):
    """A model that clips its input has a kink at 0 and 1: no reason to distrust its gradients."""
    extreme = Labelled(images.images.round(), images.labels)
    alarm = examine(lambda x: linear(x.clamp(0, 1)), extreme, gates=["G6"])["G6"]
    assert not alarm.fired


def test_straight_through_gradients_are_not_compared(images, examine):
    alarm = examine(crooked, images, gates=["G6"], exact_gradients=False)["G6"]
    assert alarm.value is None
    assert not alarm.fired


@pytest.mark.parametrize("gate", ["G5", "G6"])
def test_a_model_without_gradients_is_refused(gate, images, examine):
    with pytest.raises(ModelError, match="expected a differentiable model"):
        examine(lambda x: linear(x).detach(), images, gates=[gate])


@pytest.mark.parametrize("gate", ["G5", "G6"])
def test_gradients_that_are_not_finite_are_an_error(gate, images, examine):
    def kinked(x):
        return linear(x) + (x - x).flatten(1).sum(1, keepdim=True).sqrt()

    with pytest.raises(NumericsError, match="not finite for 100 of 100 images"):
        examine(kinked, images, gates=[gate])


def test_gradients_leave_no_trace(images, examine):
    x = images.images.clone()
    examine(linear, images, gates=["G5", "G6"])
    assert torch.equal(images.images, x)
    assert not images.images.requires_grad


def test_limits_are_the_users(images, examine):
    limits = Limits(zero_gradients=0.05, finite_differences=2)
    found = examine(
        flat_where(images.images[:3, 0, 0, 0]), images, gates=["G5"], limits=limits
    ) | examine(crooked, images, gates=["G6"], limits=limits)
    assert [(alarm.limit, alarm.fired) for alarm in found.values()] == [(0.05, False), (2, False)]
