"""Several processes that train one model: each takes its part of every batch.

torch's launcher starts them and `tasks.ranks` joins them; all run the same defense from the same
seed and hold the same weights at every step. Nothing here does anything in a process of its own.

Shapes: B images of the whole batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardening.errors import BrokenPromise
from hardening.randomness import draw_seed

Agreed = TypeVar("Agreed")


def together() -> int:
    """How many processes train this model."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; the first one speaks and writes for all."""
    return dist.get_rank() if together() > 1 else 0


def share(x: Tensor) -> Tensor:
    """This process's part of a batch (B, ...), of none where every part would have one image.

    Like a part that `accumulate` cuts, it has two images or more: batch normalisation needs them.
    """
    parts = max(1, min(together(), len(x) // 2))
    return x.tensor_split(parts)[rank()] if rank() < parts else x[:0]


@contextmanager
def own_draws(rng: torch.Generator) -> Iterator[None]:
    """Inside, the first process draws what one alone would and the others draw something else.

    After, `rng` stands in all where the first process left it.
    """
    if rank() > 0:
        rng.manual_seed(draw_seed(rng) + rank())
    yield
    if together() > 1:
        rng.set_state(agreed(rng.get_state()))


def combine(model: nn.Module, loss: Tensor, weight: float) -> Tensor:
    """Give all processes the gradients of the whole batch, and return its loss, a scalar.

    Buffers, the statistics of batch normalisation among them, become those of the first process.

    Args:
        weight: Share of the batch that `loss` and the gradients here are the mean of.
    """
    if together() == 1:
        return loss
    free = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in free]
    # What no process has a gradient for must keep none: weight decay would shrink it.
    present = loss.new_tensor([p.grad is not None for p in free])
    flat = torch.cat([loss.reshape(1), *(g.flatten() for g in gradients)]) * weight
    everything = torch.cat([flat, present])
    dist.all_reduce(everything)
    sizes = [1, *(p.numel() for p in free), len(free)]
    total, *summed, found = everything.split(sizes)
    for parameter, gradient, has in zip(free, summed, found.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter).clone() if has else None
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
    mean: Tensor = total[0].clone()  # alone, without the gradients of all weights
    return mean


def agreed(value: Agreed) -> Agreed:
    """The first process's value, in all: what is measured may differ in its last bit."""
    if together() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, 0)
    return said[0]


def check_alike(model: nn.Module) -> None:
    """Make sure that all processes hold the same weights, to the bit.

    Raises:
        BrokenPromise: They do not.
    """
    if together() == 1:
        return
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    first = flat.clone()
    dist.broadcast(first, 0)
    apart = (~torch.eq(flat, first)).any().to(torch.int64)
    dist.all_reduce(apart)
    if apart:
        raise BrokenPromise("training: got different weights in its processes, expected the same")
