"""Strength and cost of our attacks beside the published implementations, on one small model.

A convolutional network is trained adversarially on scikit-learn's digits in about a minute; then
every implementation gets the same images, eps, steps and seed. Needs, in an environment of their
own (they are no dependencies of the project):

    pip install --no-deps torchattacks pyautoattack adv-lib tqdm visdom requests

    python benchmarks/peers.py --norm linf --eps 0.15 --images 500 --threads 1
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from math import inf, sqrt

import pyautoattack.autopgd_base
import pyautoattack.square
import torch
import torchattacks
from adv_lib.attacks.auto_pgd import apgd as adv_lib_apgd
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import ATTACKS
from attacks.gradient import differentiate
from attacks.losses import ce
from hardening.threat import ThreatModel

Run = Callable[[nn.Module, Tensor, Tensor, ThreatModel, int], Tensor]


class Counted(nn.Module):
    """Counts images forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    x = F.interpolate(x, scale_factor=2, mode="bilinear").clamp(0, 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.from_numpy(data.target)[order]


def trained(x: Tensor, y: Tensor, threat: ThreatModel, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rng = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=rng).split(100):
            points = threat.sample(x[part], rng)
            model.eval()
            for _ in range(5):
                _, _, gradient = differentiate(model, points, y[part], ce)
                points = threat.project(x[part], points + threat.eps / 2 * threat.ascend(gradient))
            model.train()
            optimizer.zero_grad()
            ce(model(points), y[part]).mean().backward()
            optimizer.step()
    return model.eval()


def ours(model, x, y, threat, seed, *, name, **params):
    return ATTACKS[name](model, x, y, threat, torch.Generator().manual_seed(seed), **params)


def torchattacks_apgd(model, x, y, threat, seed, *, steps, loss):
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    attack = torchattacks.APGD(model, norm=norm, eps=threat.eps, steps=steps, loss=loss, seed=seed)
    return attack(x, y)


def torchattacks_square(model, x, y, threat, seed, *, queries):
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    attack = torchattacks.Square(model, norm=norm, eps=threat.eps, n_queries=queries, seed=seed)
    return attack(x, y)


def autoattack_apgd(model, x, y, threat, seed, *, steps, loss):
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    attack = pyautoattack.autopgd_base.APGDAttack(
        model, n_iter=steps, norm=norm, eps=threat.eps, seed=seed, loss=loss, device="cpu"
    )
    return attack.perturb(x, y)


def autoattack_square(model, x, y, threat, seed, *, queries):
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    attack = pyautoattack.square.SquareAttack(
        model, norm=norm, n_queries=queries, eps=threat.eps, seed=seed, device="cpu"
    )
    return attack.perturb(x, y)


def adv_lib(model, x, y, threat, seed, *, steps, loss):
    torch.manual_seed(seed)
    norm = {"linf": inf, "l2": 2.0}[threat.norm]
    return adv_lib_apgd(model, x, y, eps=threat.eps, norm=norm, n_iter=steps, loss_function=loss)


def runs(steps: int, queries: int) -> dict[str, dict[str, Run]]:
    table: dict[str, dict[str, Run]] = {}
    for loss in ("ce", "dlr"):
        table[f"apgd-{loss}"] = {
            "ours": partial(ours, name="apgd", steps=steps, loss=loss),
            "auto-attack": partial(autoattack_apgd, steps=steps, loss=loss),
            "torchattacks": partial(torchattacks_apgd, steps=steps, loss=loss),
            "adv-lib": partial(adv_lib, steps=steps, loss=loss),
        }
    table["square"] = {
        "ours": partial(ours, name="square", queries=queries),
        "auto-attack": partial(autoattack_square, queries=queries),
        "torchattacks": partial(torchattacks_square, queries=queries),
    }
    return table


def measure(
    run: Run, model: nn.Module, batch: tuple[Tensor, Tensor], threat: ThreatModel, seeds: int
):
    x, y = batch
    correct = robust = forwards = backwards = outside = 0
    seconds = 0.0
    for seed in range(seeds):
        counted = Counted(model).eval()
        begin = time.process_time()
        parts = [
            run(counted, *part, threat, seed).detach()
            for part in zip(x.split(250), y.split(250), strict=True)
        ]
        seconds += time.process_time() - begin
        x_adv = torch.cat(parts)
        with torch.no_grad():
            correct = model(x_adv).argmax(1) == y
        robust += int(correct.sum())
        forwards += counted.forwards
        backwards += counted.backwards
        outside += int((threat.distance(x, x_adv) > threat.eps * (1 + 1e-5)).sum())
    n = seeds * len(x)
    return robust / n, seconds / seeds, forwards / n, backwards / n, outside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--norm", choices=["linf", "l2"], default="linf")
    parser.add_argument("--eps", type=float, default=0.15)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threat = ThreatModel(norm=options.norm, eps=options.eps)
    x, y = digits()
    begin = time.monotonic()
    model = trained(x[options.images :], y[options.images :], threat, options.epochs)
    x, y = x[: options.images], y[: options.images]
    with torch.no_grad():
        clean = (model(x).argmax(1) == y).float().mean()
    print(
        f"trained in {time.monotonic() - begin:.0f} s, clean {clean:.3f}, {threat}, {len(x)} images"
    )
    heads = "".join(f"{head:>8}" for head in ("robust", "2 SE", "CPU s", "F", "B", "outside"))
    print(f"{'attack':<10}{'by':<14}{heads}")
    for attack, by in runs(options.steps, options.queries).items():
        for name, run in by.items():
            robust, *cost, outside = measure(run, model, (x, y), threat, options.seeds)
            error = 2 * sqrt(robust * (1 - robust) / len(x))
            seconds, forwards, backwards = cost
            print(
                f"{attack:<10}{name:<14}{robust:>8.3f}{error:>8.3f}{seconds:>8.2f}"
                f"{forwards:>8.1f}{backwards:>8.1f}{outside:>8}"
            )


if __name__ == "__main__":
    main()
