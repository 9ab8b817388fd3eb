"""A detector of adversarial images on the classifier's features, https://arxiv.org/abs/1702.04267.

Shapes: B images (B, C, H, W), K classes; activations (B, C', H', W'); scores (B,).
"""

from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.parameters import Count
from defenses.activation import choose_layer
from defenses.declaration import declares
from defenses.inner import worst
from defenses.scores import BATCH, clean_accuracy
from defenses.standard import cross_entropy
from defenses.training import Loop, Loss, fit
from defenses.watched import Watched, network
from hardening.data import Labelled, TrainingData
from hardening.log import Log
from hardening.randomness import draw_seed, seeded
from hardening.threat import ThreatModel

Adversary = Literal["static", "dynamic"]

POOLED = 8
"""Pixels a side from which on the detector halves an activation, as the paper's does."""


class Untouched(Loop):
    """The loop's options without those that hold back a classifier: nobody trains it."""

    anchor: Literal[0] = Field(default=0, description="the classifier stays as it is")
    keep_clean: None = Field(default=None, description="the classifier stays as it is")


@declares(
    "a sub-network rejects what looks attacked",
    due=("joint", "transfer", "gradient-free"),
    status="BROKEN",
    passes=lambda params: (
        params["loop"].passes(2 + 2 * params["steps"])
        if params["adversary"] == "dynamic"
        else params["loop"].passes(2) + params["steps"]  # clean and attacked, attacked once
    ),
    ships="a file of logits cannot say that it rejects an image; the classifier without the "
    "detector ships instead",
    claim="a small subnetwork tells adversarial images from clean ones",
)
def detector(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    layer: str = "",
    adversary: Adversary = "static",
    steps: Count = 10,
    width: Count = 32,
    false_positives: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    loop: Untouched = Untouched(epochs=5, ramp=0),  # noqa: B008
) -> nn.Module:
    """Leave the classifier as it is; train a network on one of its activations to tell PGD images.

    The score of the attacked minus that of the clean class is compared with a threshold. Broken by
    whoever attacks both at once (Carlini and Wagner 2017, https://arxiv.org/abs/1705.07263).

    Args:
        layer: Path of the module whose output is looked at; empty for one with a quarter of the
            pixels, where there is one.
        adversary: The images to tell: static ones fool the classifier and are made once; dynamic
            ones are made for every batch, and are between fooling it and fooling the detector.
        steps: Of PGD, each 2.5 eps / steps long.
        width: Channels of the first convolution; the next two have twice as many.
        false_positives: Largest share of clean validation images that is rejected.

    Raises:
        ModelError: The model has no activation (C, H, W) to look at, or not there.
    """
    classifier = deepcopy(model).eval().requires_grad_(False)
    shape = data.train.images.shape[1:]
    path, channels, side = choose_layer(classifier, (*shape,), layer, "detector")
    pools = 2 if side >= 2 * POOLED else int(side >= POOLED)
    log.line(f"looks at {path}: {channels} channels, {side} pixels a side")
    with seeded(draw_seed(rng)):
        net = network(channels, width, pools)
    watched = Watched([classifier], net, path, channels=channels, width=width, pools=pools)
    watched.to(_device(model))
    validation = _marked(model, data.validation, threat, rng, steps)
    if adversary == "static":
        train = _marked(model, data.train, threat, rng, steps)
        loss: Loss = cross_entropy
    else:
        train, loss = _twice(data.train), _chasing(threat, rng, steps)
    marks = TrainingData(train, validation, ("clean", "attacked"))
    learned = fit(
        _Learner(watched), marks, loss, clean_accuracy, rng, log,
        loop=loop, threat=None, guard=lambda *_: "",
    )  # fmt: skip
    assert isinstance(learned, _Learner)
    trained = learned.watched.requires_grad_(True).eval()
    trained.set_threshold(data.validation, false_positives)
    told = clean_accuracy(learned, validation)
    log.line(f"tells {told:.1%} of clean and attacked validation images")
    return trained


class _Learner(nn.Module):
    """The detector as a classifier of two classes, (B, 2): clean, attacked."""

    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self.watched = watched

    def forward(self, x: Tensor) -> Tensor:
        # Cross entropy of these two is the binary one of the score.
        score = self.watched.suspicion(x)
        return torch.stack([-score / 2, score / 2], 1)


def _marked(
    model: nn.Module, images: Labelled, threat: ThreatModel, rng: torch.Generator, steps: int
) -> Labelled:
    """The images as they are, 0, and as PGD on the model makes them, 1."""
    device, made = _device(model), []
    for x, y in images.batches(BATCH):
        start = threat.sample(x, rng)
        place = x.to(device), y.to(device), start.to(device)
        made.append(worst(model, *place, threat, steps=steps).cpu())
    attacked = torch.cat(made)
    if images.images.dtype == torch.uint8:
        # On the grid of the clean ones: to lie off it would give every attacked image away.
        attacked = (attacked * 255).round().to(torch.uint8)
    return Labelled(torch.cat([images.images, attacked]), _twice(images).labels)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _twice(images: Labelled) -> Labelled:
    """The images twice: marked 0, and 1."""
    marks = torch.arange(2).repeat_interleave(len(images))
    return Labelled(images.images.repeat(2, 1, 1, 1), marks)


def _chasing(threat: ThreatModel, rng: torch.Generator, steps: int) -> Loss:
    """Cross entropy where every image marked 1 is first attacked, by the paper's dynamic adversary.

    Its steps go along (1 - s) times the direction that raises the classifier's loss and s times the
    one that raises the detector's, s uniform in [0, 1] for each image. What the classifier says of
    an image stands for its label.
    """

    def loss(model: nn.Module, x: Tensor, marks: Tensor, _: ThreatModel | None) -> Tensor:
        assert isinstance(model, _Learner)
        attacked = marks == 1
        shares = torch.rand(int(attacked.sum()), generator=rng).to(x)
        start = threat.sample(x[attacked], rng)
        moved = _chased(model, x[attacked], start, shares, threat, steps)
        return F.cross_entropy(model(x.index_put((attacked,), moved)), marks)

    return loss


def _chased(
    model: _Learner, x: Tensor, start: Tensor, shares: Tensor, threat: ThreatModel, steps: int
) -> Tensor:
    classifier, own = model.watched.parts[0], shares[:, None, None, None]
    with torch.no_grad():
        y = classifier(x).argmax(1)
    marks, x_adv, training = torch.ones_like(y), start, model.training
    model.eval()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        losses = (
            F.cross_entropy(classifier(x_adv), y, reduction="sum"),
            F.cross_entropy(model(x_adv), marks, reduction="sum"),
        )
        first, second = (threat.ascend(torch.autograd.grad(each, x_adv)[0]) for each in losses)
        step = 2.5 * threat.eps / steps
        x_adv = threat.project(x, x_adv.detach() + step * ((1 - own) * first + own * second))
    model.train(training)
    return x_adv.detach()
