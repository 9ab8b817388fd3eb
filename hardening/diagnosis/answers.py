"""Gates on answers: one image has one answer, and it is made of logits.

Shapes: n images of the sample, K classes; logits (n, K).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardening.data import Labelled
from hardening.diagnosis.catalogue import alarm
from hardening.diagnosis.sample import Sample
from hardening.evaluation import all_logits
from hardening.evidence import Alarm

PASSES = 5
ALONE = 8  # images that are asked again, each in a batch of its own
TOLERANCE = 1e-5  # AutoAttack's for outputs that are probabilities


def determinism(sample: Sample) -> Alarm:
    """G1: five passes agree in accuracy and, normalised, in logits (AutoAttack's check)."""
    passes = [all_logits(sample.model, sample.images) for _ in range(PASSES)]
    labels = sample.images.labels.cpu()
    right = [int((logits.argmax(1) == labels).sum()) for logits in passes]
    units = torch.stack([F.normalize(logits, dim=1) for logits in passes], 1)
    apart = float((units[:, :, None] - units[:, None]).square().sum(-1).sqrt().max())
    detail = f"right in {PASSES} passes: {', '.join(map(str, right))}"
    found = alarm("determinism", apart, len(sample.images), sample.limits, detail)
    return found.model_copy(update={"fired": found.fired or len(set(right)) > 1})


def state(sample: Sample) -> Alarm:
    """G2: a forward pass leaves the state as it is. A file's session has no state to change."""
    if not isinstance(sample.model, nn.Module):
        return alarm("state", None, len(sample.images), sample.limits, "a file cannot change")
    kept = {key: _bits(value).clone() for key, value in sample.model.state_dict().items()}
    all_logits(sample.model, sample.images)
    after = sample.model.state_dict()
    changed = [key for key in kept if not torch.equal(kept[key], _bits(after[key]))]
    detail = f"changed: {', '.join(changed[:3])}" if changed else f"{len(kept)} tensors unchanged"
    return alarm("state", len(changed), len(sample.images), sample.limits, detail)


def batch(sample: Sample) -> Alarm:
    """G3: the first images have the same logits beside their negatives and each on its own."""
    images = sample.images.first(ALONE)
    few, x = len(images), images.floats()
    crowd = Labelled(torch.cat([x, 1 - x]), images.labels.repeat(2))
    among_others = all_logits(sample.model, crowd)[:few]
    alone = torch.cat(
        [all_logits(sample.model, Labelled(one[None], images.labels[:1])) for one in x]
    )
    scale = among_others.abs().max().clamp(min=torch.finfo(among_others.dtype).tiny)
    apart = float((alone - among_others).abs().max() / scale)
    return alarm("batch", apart, few, sample.limits, f"largest logit {float(scale):.3g}")


def probabilities(sample: Sample) -> Alarm:
    """G4: the outputs are not all in [0, 1] with sum 1 (AutoAttack's check)."""
    outputs = all_logits(sample.model, sample.images)
    in_range = bool((outputs >= -TOLERANCE).all() and (outputs <= 1 + TOLERANCE).all())
    sums = bool(((outputs.sum(1) - 1).abs() < TOLERANCE).all())
    return alarm("probabilities", float(in_range and sums), len(sample.images), sample.limits)


def _bits(value: Tensor) -> Tensor:
    """A tensor without NaN, which equals nothing, not even itself."""
    return value.nan_to_num() if value.is_floating_point() else value
