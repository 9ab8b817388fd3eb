"""A substitute trained on the labels of the attacked model, https://arxiv.org/abs/1602.02697.

With the periodic step and the reservoir sampling of https://arxiv.org/abs/1605.07277.
Shapes: B images (B, C, H, W) or of any other rank, S of them labelled so far, K classes.
"""

from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.gradient import differentiate, look
from attacks.losses import ce
from attacks.noise import mistaken
from attacks.parameters import Count
from attacks.search import Search
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel

SHIFT = 0.1  # pixel units by which augmentation moves an image, the papers' lambda
PERIOD = 3  # rounds after which it turns around, the papers' tau
EPOCHS, IMAGES, RATE = 10, 64, 1e-3  # passes after each round, images a step, Adam's step
CHANNELS, HIDDEN, POOLED = (16, 32), 128, 8  # of the substitute; side of its last feature maps


@describes("labels", norms=("linf", "l2", "l1"), whole=True)
def substitute(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    seeds: Count = 150,
    rounds: Count = 6,
    queries: Count = 2000,
    steps: Count = 40,
) -> Found:
    """Train a network on labels asked of the model, attack that, and try the result; (B, ...).

    Starts from `seeds` of the images. A round adds for images x labelled o the images
    x + 0.1 sign(gradient of the substitute's logit o), the sign turned around every three rounds,
    and has them labelled; when the labels left do not pay for all, a random sample. The substitute
    is a small convolutional network, or a fully connected one where inputs are not (B, C, H, W),
    trained for 10 epochs a round. Each image is then moved by projected ascent of the substitute's
    cross entropy and tried once. Costs `queries` labels in all, and two forward passes an image.

    Args:
        seeds: Images the attacker begins with.
        rounds: Augmentations.
        queries: Labels asked for training, in all.
        steps: Gradient steps on the substitute per image.

    Raises:
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    # The substitute's convolutions round differently in another memory format.
    x = x.detach().contiguous()
    search = Search(model, x, y, mistaken, rng)
    if search.done:
        return search.found
    order = torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)
    known = x[order[: min(seeds, queries)]]
    net = _train(model, known, search.clean.shape[1], rounds, queries, rng)
    points, stride = search.x, threat.eps * 2.5 / steps
    for _ in range(steps):
        _, _, gradient = differentiate(net, points, ce, search.y)
        points = threat.project(search.x, points + stride * threat.ascend(gradient))
    logits, losses = look(model, points, mistaken, search.y)
    standing = search.settle(points, logits)
    # The only point there is: kept whatever it does.
    search.offer(points[standing], torch.full_like(losses[standing], float("inf")))
    return search.found


def _train(
    model: Model, known: Tensor, classes: int, rounds: int, queries: int, rng: torch.Generator
) -> nn.Module:
    """A network that says what the model says on `known` and on images made from them."""
    labels = _ask(model, known)
    net = _network(known.shape[1:], classes, rng).to(known.device)
    _fit(net, known, labels, rng)
    for turn in range(rounds):
        left = queries - len(known)
        if left == 0:
            break
        share = min(ceil(left / (rounds - turn)), len(known))
        chosen = torch.randperm(len(known), generator=rng, device=rng.device)[:share]
        chosen = chosen.to(known.device)
        shift = SHIFT * (-1) ** (turn // PERIOD)
        _, _, gradient = differentiate(net, known[chosen], _logit, labels[chosen])
        new = (known[chosen] + shift * gradient.sign()).clamp(0, 1)
        known, labels = torch.cat([known, new]), torch.cat([labels, _ask(model, new)])
        _fit(net, known, labels, rng)
    return net


def _ask(model: Model, points: Tensor) -> Tensor:
    """The label the model gives each point: all that is ever used of its answer."""
    anything = torch.zeros(len(points), dtype=torch.long, device=points.device)
    return look(model, points, mistaken, anything)[0].argmax(1)


def _logit(logits: Tensor, label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None])[:, 0]


def _network(shape: torch.Size, classes: int, rng: torch.Generator) -> nn.Module:
    """A small network for inputs of `shape`, its weights drawn from `rng`."""
    if len(shape) == 3:
        channels, height, width = shape
        size = min(POOLED, ceil(height / 4)), min(POOLED, ceil(width / 4))
        layers = [
            _drawn(rng, nn.Conv2d, channels, CHANNELS[0], 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            _drawn(rng, nn.Conv2d, CHANNELS[0], CHANNELS[1], 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(size),
            nn.Flatten(),
            _drawn(rng, nn.Linear, CHANNELS[1] * prod(size), HIDDEN),
        ]
    else:
        layers = [
            nn.Flatten(),
            _drawn(rng, nn.Linear, prod(shape), HIDDEN),
            nn.ReLU(),
            _drawn(rng, nn.Linear, HIDDEN, HIDDEN),
        ]
    return nn.Sequential(*layers, nn.ReLU(), _drawn(rng, nn.Linear, HIDDEN, classes))


def _drawn(rng: torch.Generator, layer: type[nn.Module], *sizes: int, **form: int) -> nn.Module:
    """A layer whose weights come from `rng`: its own initialiser would use the global one."""
    made: nn.Module = nn.utils.skip_init(layer, *sizes, device=rng.device, **form)
    nn.init.kaiming_uniform_(made.get_parameter("weight"), nonlinearity="relu", generator=rng)
    nn.init.zeros_(made.get_parameter("bias"))
    return made


@torch.enable_grad()
def _fit(net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
    """Train `net` a few epochs further."""
    net.requires_grad_(True)
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)
        for chosen in order.split(IMAGES):
            optimizer.zero_grad()
            F.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
    net.requires_grad_(False)
