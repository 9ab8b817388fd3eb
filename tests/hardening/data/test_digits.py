from pathlib import Path

import torch
from sklearn.datasets import load_digits

from hardening.data import DATASETS
from hardening.data.checks import check


def test_digits_are_scikit_learns_pixels_scaled_to_bytes():
    raw = DATASETS["digits"](Path("not read"))

    assert raw.train.images.shape == (1797, 1, 8, 8)
    assert raw.train.images.dtype == torch.uint8
    assert raw.train.labels.dtype == torch.int64
    assert raw.classes == tuple("0123456789")
    assert raw.test is None
    # Rounded to 0..255, so the 17 levels come back exactly.
    levels = (raw.train.images.double() * 16 / 255).round().squeeze(1).numpy()
    assert (levels == load_digits().images).all()


def test_digits_pass_the_checks():
    facts = check(DATASETS["digits"](Path("not read")))

    assert facts["train"]["images"] == 1797
    assert facts["train"]["min"] == 0
    assert facts["train"]["max"] == 255
    assert facts["train"]["imbalance"] < 1.1
