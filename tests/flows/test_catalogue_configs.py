"""The configurations that run every defense really name every one, and are valid."""

from pathlib import Path

import pytest

import flows
from defenses import DEFENSES
from flows.config import load
from flows.validate import validate

CONFIGS = Path(flows.__file__).parent / "configs"


@pytest.mark.parametrize("name", ["catalogue", "catalogue-quick"])
def test_no_defense_is_left_out_of_the_catalogue(name):
    config = load(str(CONFIGS / f"{name}.yaml"))
    validate(config)

    named = {spec.name for chain in config.candidates.values() for spec in chain}
    assert named == set(DEFENSES)
    assert config.evaluation.naive
