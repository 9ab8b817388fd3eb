"""Eight small digit classifiers: two healthy ones, and six that are broken on purpose.

And, for exact counts, a model and attacks whose outcome is written into the images.
"""

from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.gradient import differentiate
from attacks.losses import ce
from attacks.noise import noise
from attacks.pgd import pgd
from hardening.attack import Found, describes
from hardening.data import Labelled
from hardening.diagnosis import DIAGNOSED, Limits, Probes, diagnose
from hardening.evaluation import all_logits, run_attack
from hardening.log import Silent
from hardening.randomness import seeded
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.15)
TRAINED = 1000  # digits; those after them are attacked
PROBES = Probes(
    fgsm=fgsm,
    pgd=partial(pgd, steps=40),
    apgd_ce=partial(apgd, steps=30, loss="ce"),
    apgd_margin=partial(apgd, steps=30, loss="margin"),
    apgd_long=partial(apgd, steps=100, loss="dlr"),
    apgd_restarts=partial(apgd, steps=30, loss="dlr", restarts=5),
    unbounded=partial(apgd, steps=50, loss="margin"),
    noise=partial(noise, draws=200),
)


class Changed(nn.Module):
    """A trained model whose inputs or logits are changed on their way."""

    def __init__(self, model, before=None, after=None):
        super().__init__()
        self.model = model
        self.before = before or (lambda x: x)
        self.after = after or (lambda logits: logits)

    def forward(self, x):
        return self.after(self.model(self.before(x)))


class WinnersTakeAll(nn.Module):
    """Keeps the largest tenth of an image's activations (Xiao et al. 2019)."""

    def forward(self, x):
        flat = x.flatten(1)
        least = flat.topk(max(flat.shape[1] // 10, 1), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


def network(activation=nn.ReLU):
    layers = []
    for before, after in ((1, 12), (12, 24)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), activation()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 16, 10))


def fit(x, y, *, epochs, steps=0, activation=nn.ReLU):
    """Train on the points that `steps` steps of gradient ascent find."""
    with seeded(0):
        model = network(activation)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    rng = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=rng).split(100):
            points = THREAT.sample(x[part], rng) if steps else x[part]
            model.eval()
            for _ in range(steps):
                _, _, gradient = differentiate(model, points, ce, y[part])
                step = THREAT.eps / 2 * THREAT.ascend(gradient)
                points = THREAT.project(x[part], points + step)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(points), y[part]).backward()
            optimizer.step()
    return model.eval()


def rounded(x):
    return (x * 15).round() / 15


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    x = F.interpolate(x, scale_factor=2, mode="bilinear").clamp(0, 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.from_numpy(data.target)[order]


@pytest.fixture(scope="session")
def learn():
    """`learn(x, y, epochs)`: a model trained on these images."""
    return fit


@pytest.fixture(scope="session")
def zoo(digits):
    """`zoo(name)`: a model trained once; `std` and `at` are healthy."""
    train = partial(fit, digits[0][:TRAINED], digits[1][:TRAINED])

    @cache
    def model(name):
        made = {
            "std": lambda: train(epochs=8),
            "at": lambda: train(epochs=9, steps=3),
            "winners": lambda: train(epochs=6, activation=WinnersTakeAll),
            "rounding": lambda: Changed(model("std"), before=rounded),
            "scale": lambda: Changed(model("std"), after=lambda logits: 200 * logits),
            "softmax": lambda: Changed(model("std"), after=lambda logits: logits.softmax(1)),
            "noise": lambda: Changed(model("std"), before=noisy),
            "norm": lambda: train(epochs=2).train(),
        }
        return made[name]()

    return model


@pytest.fixture(scope="session")
def attacked(digits):
    """Images that no model was trained on: `attacked(n)`."""
    first = TRAINED + 128
    return lambda n: Labelled(digits[0][first : first + n], digits[1][first : first + n])


@pytest.fixture(scope="session")
def cascade():
    """`cascade(model, images)`: who stands under cross entropy, and under its rival thrice."""

    def stand(model, images):
        standing = all_logits(model, images).argmax(1) == images.labels
        for attack in (PROBES.apgd_ce, partial(apgd, steps=50, loss="dlr", restarts=3)):
            places = standing.nonzero()[:, 0]
            if len(places):
                run = (attack, model, model, images, places, THREAT, 0, Silent())
                standing[run_attack("cascade", *run).fell] = False
        return standing

    return stand


@pytest.fixture
def examine():
    """`examine(model, images, survivors, gates)`: the alarms by gate."""

    def run(
        model,
        images,
        survivors=None,
        gates=tuple(DIAGNOSED),
        *,
        probes=PROBES,
        threat=THREAT,
        limits=None,
        seed=0,
        **options,
    ):
        survivors = torch.ones(len(images), dtype=torch.bool) if survivors is None else survivors
        limits = limits or Limits()
        problem = (model, images, survivors, probes, threat, seed, limits, gates, Silent())
        with seeded(seed):  # the noisy model draws from the global generator
            return {alarm.gate: alarm for alarm in diagnose(*problem, **options).alarms}

    return run


@pytest.fixture
def written():
    """A model and attacks whose outcome is written into the images.

    Image i holds i in its first pixel (in thousandths). The model is wrong where the last pixel is
    above zero, and an attack `breaking(i, ...)` sets that pixel of those images.
    """

    class Model(nn.Module):
        def forward(self, x):
            last = x.flatten(1)[:, -1]
            return torch.stack([0.001 - last, last - 0.001], 1)

    def images(n):
        x = torch.zeros(n, 1, 2, 2)
        x[:, 0, 0, 0] = torch.arange(n) / 1000
        return Labelled(x, torch.zeros(n, dtype=torch.long))

    def breaking(*which, seen=None):
        @describes("nothing", norms=("linf",))
        def attack(model, x, y, threat, rng, /):
            numbers = (x[:, 0, 0, 0] * 1000).round().long()
            if seen is not None:
                seen.append((numbers.tolist(), threat.eps))
            x_adv = x.clone()
            x_adv[torch.isin(numbers, torch.tensor(which, dtype=torch.long)), 0, 1, 1] = 0.1
            return Found(x_adv, torch.full((len(x),), -1))

        return attack

    return SimpleNamespace(
        model=Model(), images=images, breaking=breaking, probes=Probes(*[breaking()] * 8)
    )
