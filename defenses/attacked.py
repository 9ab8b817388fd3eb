"""A model held still while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Eval mode inside: no noise of dropout and batch statistics; modes as before after."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def attacked(model: nn.Module) -> Iterator[None]:
    """Still, and with frozen parameters inside; every module's mode and every flag as before after.

    Frozen parameters save their share of the backward pass.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with still(model):
            model.requires_grad_(False)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
