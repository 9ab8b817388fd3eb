"""The same architecture once more, with other initial weights."""

from copy import deepcopy

import torch
from torch import nn

from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.models.architecture import Classifier, build
from hardening.randomness import draw_seed


def fresh(model: nn.Module, rng: torch.Generator, what: str) -> nn.Module:
    """`model` as it was before any training: initial weights drawn from `rng`.

    Args:
        what: Who asks, for errors.

    Raises:
        ModelError: The model is an ONNX file, or holds one: it has weights and no architecture.
    """
    copy = deepcopy(model)
    classifiers = [module for module in copy.modules() if isinstance(module, Classifier)]
    if not classifiers or any(isinstance(module, Twin) for module in copy.modules()):
        raise ModelError(
            f"{what}: got an ONNX file, expected an architecture to train anew: name one as "
            "model.name, with its weights as model.weights, or use adversarial_training"
        )
    for classifier in classifiers:
        initial = build(classifier.architecture, draw_seed(rng))
        classifier.load_state_dict(initial.state_dict())
    return copy
