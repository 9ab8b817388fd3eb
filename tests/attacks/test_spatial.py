import pytest
import torch
from torch.nn import functional as F

from attacks.spatial import spatial, transformed


@pytest.fixture
def image():
    return torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def move(x, degrees=0.0, down=0.0, across=0.0):
    return transformed(x, torch.tensor([[degrees, down, across]]).expand(len(x), 3))


def dot(row, column, side=21):
    """A white pixel, rows and columns counted from the centre."""
    x = torch.zeros(1, 1, side, side)
    x[:, :, side // 2 + row, side // 2 + column] = 1
    return x


class Band:
    """Class 1 when most of the light lies more than `rows` below the centre."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, x):
        lines = torch.arange(x.shape[2]) - x.shape[2] // 2
        light = x.sum((1, 3))
        below = (light * (lines > self.rows)).sum(1)
        return torch.stack([light.sum(1) - below, below], 1)


class TestTransformed:
    def test_no_motion_keeps_every_bit(self):
        x = torch.rand(4, 3, 7, 12, generator=torch.Generator().manual_seed(1))
        assert torch.equal(move(x), x)

    def test_a_quarter_turn_is_anticlockwise(self, image):
        assert torch.allclose(move(image, degrees=90), image.rot90(1, (2, 3)), atol=1e-5)

    def test_whole_pixels_move_down_and_right_and_black_follows(self, image):
        expected = F.pad(image, (2, 0, 1, 0))[:, :, :9, :9]
        assert torch.allclose(move(image, down=1 / 9, across=2 / 9), expected, atol=1e-5)

    def test_an_image_is_turned_first_and_moved_then(self, image):
        expected = F.pad(image.rot90(1, (2, 3)), (0, 0, 3, 0))[:, :, :9]
        assert torch.allclose(move(image, degrees=90, down=3 / 9), expected, atol=1e-5)

    def test_rotation_is_round_where_height_and_width_differ(self, image):
        wide = F.pad(image, (10, 10))
        expected = F.pad(image.rot90(1, (2, 3)), (10, 10))
        assert torch.allclose(move(wide, degrees=90), expected, atol=1e-5)
        assert torch.allclose(move(wide, degrees=180), wide.flip(2, 3), atol=1e-5)

    def test_each_image_has_its_own_motion(self, image):
        motions = torch.tensor([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]])
        pair = transformed(image.repeat(2, 1, 1, 1), motions)
        assert torch.equal(pair[:1], image)
        assert torch.allclose(pair[1:], image.rot90(1, (2, 3)), atol=1e-5)


def survey(model, x, **params):
    return spatial(model, x, model(x).argmax(1), torch.Generator().manual_seed(0), **params)


def test_rotation_and_translation_are_told_apart():
    turned = survey(Band(3), dot(0, -9), shift=0.01)
    assert (turned["rotation"].item(), turned["translation"].item()) == (False, True)
    moved = survey(Band(1), dot(1, 0), degrees=1)
    assert (moved["rotation"].item(), moved["translation"].item()) == (True, False)


def test_the_grid_finds_what_needs_both():
    """Turned, the dot drops 2.5 of 21 rows, moved 2.1, both 4.6."""
    found = survey(Band(3), dot(0, -5))
    assert found["rotation"].item()
    assert found["translation"].item()
    assert not found["worst of grid"].item()


def test_the_worst_of_the_grid_is_the_worst(curved, images):
    model = curved(3 * 8 * 8, 5)
    x, _ = images(model, 24, 3, 8, 8)
    found = survey(model, x, degrees=5, shift=0.02, rotations=2, shifts=1)
    assert 0 < int(found["rotation"].sum()) < 24
    assert not (found["worst of grid"] & ~found["rotation"]).any()
    assert not (found["worst of grid"] & ~found["translation"]).any()


def test_what_falls_to_rotation_alone_has_fallen_to_the_grid():
    """Any translation of this grid leaves a black image, which is right."""
    found = survey(Band(3), dot(0, -9), shift=1.0, shifts=1)
    assert not found["rotation"].item()
    assert found["translation"].item()
    assert not found["worst of grid"].item()


def test_more_random_motions_find_more(curved, images):
    model = curved(3 * 8 * 8, 5)
    x, _ = images(model, 24, 3, 8, 8)
    small = {"degrees": 5, "shift": 0.02, "rotations": 1, "shifts": 1}
    one = survey(model, x, draws=1, **small)["worst of 1"]
    many = survey(model, x, draws=20, **small)["worst of 20"]
    assert not (many & ~one).any()
    assert int(many.sum()) < int(one.sum())


def test_no_motion_leaves_the_stated_range(counted):
    """A white image shows black exactly as far as it is moved."""
    x = torch.ones(4, 1, 40, 40)
    seen = []

    def model(points):
        seen.append(points)
        return torch.tensor([1.0, 0.0]).expand(len(points), 2)

    spatial(
        model, x, torch.zeros(4, dtype=torch.long), torch.Generator().manual_seed(0),
        degrees=1e-3, shift=0.1, draws=50,
    )  # fmt: skip
    black = torch.cat(seen)[:, 0, 6:-6].lt(0.5).sum(2)
    assert int(black.max()) == 4
    assert int(torch.cat(seen)[:, 0, :, 6:-6].lt(0.5).sum(1).max()) == 4


def test_costs_one_forward_per_motion_and_image(counted):
    model = counted(lambda x: torch.tensor([1.0, 0.0]).expand(len(x), 2))
    survey(model, torch.rand(3, 1, 6, 6))
    grid = 31 * 25
    assert sum(model.sizes) == 3 * (grid + 10) + 3  # and one by this file's `survey`
