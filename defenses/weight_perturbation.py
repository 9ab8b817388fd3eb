"""Adversarial weight perturbation, https://arxiv.org/abs/2004.05884."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(model: nn.Module, loss: Tensor, gamma: float) -> Iterator[None]:
    """Move each weight `gamma` x its own size up `loss` inside; as before, to the bit, after.

    Biases and what belongs to normalisation, tensors of one dimension, stay. The gradient is to be
    taken inside, the optimizer's step after: weight decay then sees the weights themselves.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None and bool(gradient.any()):
                    weight.add_(gradient, alpha=gamma * float(weight.norm() / gradient.norm()))
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
