import pytest
import torch

from attacks.patch import patch


class Pixel:
    """Class 1 when the pixel in row 0, column 0 is brighter than `threshold`."""

    def __init__(self, threshold):
        self.threshold = threshold

    def __call__(self, x):
        value = x[:, 0, 0, 0]
        return torch.stack([0 * value, 100 * (value - self.threshold)], 1)


class Watched:
    def __init__(self, model):
        self.model, self.seen = model, []

    def __call__(self, x):
        self.seen.append(x.detach())
        return self.model(x)


def survey(model, x, **params):
    y = torch.zeros(len(x), dtype=torch.long)
    return patch(model, x, y, torch.Generator().manual_seed(0), **params)


def never(x):
    return torch.tensor([1.0, 0.0]) + 0 * x.flatten(1).sum(1, keepdim=True)


def changed(model, x):
    """Where each image shown differs from the original, (n, H, W)."""
    return (torch.cat(model.seen) != x).any(1)


def test_a_patch_on_the_pixel_breaks_a_model_of_one_pixel():
    """All nine places of a 2 x 2 square are tried: one covers the corner."""
    x = torch.full((20, 1, 4, 4), 0.3)
    found = survey(Pixel(0.97), x, area=0.25, places=100)
    assert not found["patch 25%"].any()


def test_a_patch_breaks_a_model_of_one_pixel_only_where_it_covers_it():
    model, x = Watched(Pixel(0.97)), torch.full((64, 1, 4, 4), 0.3)
    stands = survey(model, x, area=0.25, places=1)["patch 25%"]
    covered = (model.seen[1] != x)[:, 0, 0, 0]
    assert 0 < int(covered.sum()) < 64
    assert torch.equal(stands, ~covered)


def test_an_image_wrong_from_the_start_is_neither_patched_nor_right():
    x = torch.full((4, 1, 4, 4), 0.3)
    x[:2] = 1.0
    model = Watched(Pixel(0.5))
    stands = survey(model, x, area=1 / 16, places=1, steps=1)["patch 6.25%"]
    assert not stands[:2].any()
    assert sum(len(points) for points in model.seen[1:]) <= 2 * 2


def test_gradients_are_followed_and_not_only_colours_drawn():
    """Sixteen random colours are 0.5 on average and never 0.9; steps upward make them so."""

    def model(x):
        value = x.flatten(1).mean(1)
        return torch.stack([0 * value, value - 0.9], 1)

    x = torch.full((8, 1, 4, 4), 0.3)
    assert not survey(model, x, area=1.0)["patch 100%"].any()
    assert survey(model, x, area=1.0, relative_step=1e-6)["patch 100%"].all()
    # Where the last step leads is looked at, too.
    assert not survey(model, x, area=1.0, places=1, steps=1, relative_step=1)["patch 100%"].any()


def test_all_but_one_square_keeps_its_bits():
    x = torch.rand(2, 3, 10, 14, generator=torch.Generator().manual_seed(1))
    model = Watched(never)
    survey(model, x[:1], area=0.06, places=5, steps=3)
    masks = changed(model, x[:1])[1:]
    assert (masks.sum((1, 2)) == 9).all()
    assert (masks.any(2).sum(1) == 3).all()
    assert (masks.any(1).sum(1) == 3).all()


def test_places_are_all_different():
    model, x = Watched(never), torch.full((1, 1, 5, 5), 0.3)
    survey(model, x, area=4 / 25, places=16, steps=1)
    masks = changed(model, x)[1::2].flatten(1)
    assert len(masks) == 16
    assert len(masks.unique(dim=0)) == 16


@pytest.mark.parametrize(("area", "pixels"), [(1.0, 16), (1e-6, 1), (0.25, 4)])
def test_the_square_is_at_least_a_pixel_and_at_most_the_image(area, pixels):
    model, x = Watched(never), torch.full((1, 1, 4, 4), 0.3)
    survey(model, x, area=area, places=1, steps=1)
    assert (changed(model, x)[1:].sum((1, 2)) == pixels).all()


def test_a_larger_patch_breaks_more(curved, images):
    model = curved(3 * 16 * 16, 5)
    x, y = images(model, 24, 3, 16, 16)
    found = [
        patch(model, x, y, torch.Generator().manual_seed(0), area=area, places=4, steps=10)
        for area in (1 / 256, 4 / 256, 0.1)
    ]
    standing = [int(stands.sum()) for one in found for stands in one.values()]
    assert standing[0] > standing[1] > standing[2]


def test_costs_steps_forward_and_backward_and_one_forward_a_place(counted):
    model = counted(never)
    survey(model, torch.rand(3, 1, 6, 6), places=4, steps=5)
    assert sum(model.sizes) == 3 * (1 + 4 * (5 + 1))
    assert sum(model.backwards) == 3 * 4 * 5
