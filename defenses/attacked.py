"""A model held still while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def attacked(model: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters inside; every module's mode and every flag as before after.

    Eval mode keeps dropout and batch statistics from adding noise to the attack; frozen parameters
    save their share of the backward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
