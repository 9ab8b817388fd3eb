import torch

from hardening.data import Labelled, TestData, TrainingData


def labelled(images: int, seed: int) -> Labelled:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, 4, 5), generator=rng, dtype=torch.uint8)
    return Labelled(pixels, torch.randint(0, 2, (images,), generator=rng))


def equal(first: Labelled, second: Labelled) -> bool:
    same = torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    return same and first.images.dtype == second.images.dtype


def test_training_data_comes_back_from_bytes_unchanged():
    data = TrainingData(labelled(7, 0), labelled(3, 1), ("a cat", "ein Hund, groß"))
    back = TrainingData.from_bytes(data.to_bytes())

    assert equal(back.train, data.train)
    assert equal(back.validation, data.validation)
    assert back.classes == data.classes
    assert back.to_bytes() == data.to_bytes()


def test_float_test_data_comes_back_from_bytes_unchanged():
    part = labelled(5, 2)
    data = TestData(Labelled(part.floats(), part.labels), ("0", "1"))
    back = TestData.from_bytes(data.to_bytes())

    assert equal(back.test, data.test)
    assert back.classes == data.classes
