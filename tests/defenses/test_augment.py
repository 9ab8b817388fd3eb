import pytest
import torch

from defenses.augment import AUGMENTATIONS, flip, shift


def images(count=64, shape=(2, 8, 12)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1


def test_a_shift_moves_every_image_as_a_whole_and_fills_with_black(generator):
    x = images(shape=(2, 16, 16))  # moves up to 2 pixels

    moved = shift(x, generator())

    offsets = []
    for before, after in zip(x, moved, strict=True):
        filled = torch.nn.functional.pad(before, (2, 2, 2, 2))
        found = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if torch.equal(filled[:, row : row + 16, column : column + 16], after)
        ]
        assert len(found) == 1
        offsets += found
    assert {row for row, _ in offsets} == {column for _, column in offsets} == set(range(5))


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_others(generator):
    x = images(200)

    flipped = flip(x, generator())

    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    kept = (flipped == x).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize("kind", list(AUGMENTATIONS))
def test_an_augmentation_depends_on_the_generator_and_leaves_its_input(kind, generator):
    x = images()
    before = x.clone()

    first = AUGMENTATIONS[kind](x, generator(3))
    second = AUGMENTATIONS[kind](x, generator(3))

    assert torch.equal(first, second)
    assert torch.equal(x, before)
    assert first.shape == x.shape
    assert (kind == "none") == torch.equal(first, x)
