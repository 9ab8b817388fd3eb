"""How well twins follow the sessions of their files, and what a step of attack through them costs.

    python benchmarks/parity.py                                # every network, 1,000 inputs: hours
    python benchmarks/parity.py resnet18 vit --inputs 64       # two of them, fewer inputs

Networks have random weights, batch norm calibrated on noise and logits scaled to 10: they test
operators, not accuracy. Prints a Markdown table. `--speed` prints the cost of a step instead.
"""

import argparse
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hardening.deployment.export import export
from hardening.deployment.parity import compare
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import HardeningError

CLASSES = 10


def resnet20() -> nn.Module:
    return importlib.import_module("hardening.models.resnet20").ResNet20(3, CLASSES)


def vit() -> nn.Module:
    network = torchvision.models.VisionTransformer(
        64,
        patch_size=16,
        num_layers=3,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        num_classes=CLASSES,
    )
    nn.init.normal_(network.heads.head.weight)
    return network


def googlenet() -> nn.Module:
    return torchvision.models.googlenet(num_classes=CLASSES, init_weights=False, aux_logits=False)


def zoo(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(num_classes=CLASSES)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (resnet20, 32),
    "resnet18": (zoo("resnet18"), 32),
    "resnet50": (zoo("resnet50"), 64),
    "vgg11_bn": (zoo("vgg11_bn"), 32),
    "squeezenet1_0": (zoo("squeezenet1_0"), 64),
    "googlenet": (googlenet, 64),
    "densenet121": (zoo("densenet121"), 64),
    "shufflenet_v2_x0_5": (zoo("shufflenet_v2_x0_5"), 64),
    "mobilenet_v2": (zoo("mobilenet_v2"), 64),
    "mobilenet_v3_small": (zoo("mobilenet_v3_small"), 64),
    "efficientnet_b0": (zoo("efficientnet_b0"), 64),
    "regnet_y_400mf": (zoo("regnet_y_400mf"), 64),
    "convnext_tiny": (zoo("convnext_tiny"), 64),
    "vit": (vit, 64),
    "swin_t": (zoo("swin_t"), 64),
}
"""How each is made, and the side of its pictures."""


@torch.no_grad()
def settled(network: nn.Module, x: Tensor) -> nn.Module:
    """Batch norm of `x`, and a last layer whose largest logit is 10: differences then mean the same
    everywhere. A last layer that is no matrix is left as it is."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    for _ in range(3):
        network.train()(x)
    network.eval().requires_grad_(False)
    last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    if isinstance(last, nn.Linear):
        logits = network(x)
        factor = 10 / (logits - logits.mean(0)).abs().max()
        last.bias.copy_((last.bias - logits.mean(0)) * factor)
        last.weight.mul_(factor)
    return network


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(z), y, reduction="sum"), z)[0]


def attacked(twin: Twin, x: Tensor, steps: int = 5, eps: float = 8 / 255) -> Tensor:
    """PGD from the twin's own decisions."""
    y, x_adv = _logits(twin, x).argmax(1), x
    for _ in range(steps):
        signs = torch.cat(
            [
                gradient(twin, *part).sign()
                for part in zip(x_adv.split(64), y.split(64), strict=True)
            ]
        )
        x_adv = (x + (x_adv + eps / 4 * signs - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


@torch.no_grad()
def _logits(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(64)])


def row(name: str, data: bytes, x: Tensor) -> str:
    """One line of the table for a file."""
    twin, session = Twin(data), Session(data)
    x_adv = attacked(twin, x)
    clean, adversarial = (compare(session(part), _logits(twin, part)) for part in (x, x_adv))
    before = _logits(twin, x).argmax(1)
    fallen = _logits(twin, x_adv).argmax(1) != before
    confirmed = int((session(x_adv).argmax(1) != before)[fallen].sum())
    cells = [
        f"{part.max_difference:.1e} | {part.agreement:.1%} ({part.near_ties})"
        for part in (clean, adversarial)
    ]
    return f"| {name} | {' | '.join(cells)} | {confirmed} / {int(fallen.sum())} |"


def made(name: str) -> tuple[nn.Module, bytes, bytes, int]:
    """The module, its float file, its int8 file and the side of its pictures."""
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    module = settled(make(), torch.rand(32, 3, side, side))
    data = export(module, (3, side, side))
    return module, data, quantize_int8(data, torch.rand(32, 3, side, side)), side


def table(names: list[str], inputs: int) -> Iterator[str]:
    yield f"| file, {inputs} inputs | max diff. | agreement (near ties) | adversarial: max diff. | agreement (near ties) | confirmed |"  # noqa: E501
    yield "|---|---|---|---|---|---|"
    for name in names:
        _, *files, side = made(name)
        x = torch.rand(inputs, 3, side, side, generator=torch.Generator().manual_seed(1))
        for kind, data in zip(("float", "int8"), files, strict=True):
            try:
                yield row(f"{name} {kind}", data, x)
            except HardeningError as error:
                yield f"| {name} {kind} | {error} | | | | |"


def speed(names: list[str], rounds: int) -> Iterator[str]:
    """Milliseconds of a step of attack at batch 64, interleaved: module, float twin, int8 twin."""
    yield "| network | module | float twin | int8 twin |"
    yield "|---|---|---|---|"
    for name in names:
        module, *files, side = made(name)
        forms = [module, *map(Twin, files)]
        x, y = torch.rand(64, 3, side, side), torch.arange(64) % CLASSES
        times: list[list[float]] = [[] for _ in forms]
        for _ in range(rounds + 1):
            for spent, form in zip(times, forms, strict=True):
                start = perf_counter()
                gradient(form, x, y)
                spent.append(perf_counter() - start)
        first, *others = (median(spent[1:]) for spent in times)
        cells = [f"{1000 * own:.0f} ms ({own / first:.2f}x)" for own in others]
        yield f"| {name} | {1000 * first:.0f} ms | {' | '.join(cells)} |"


def foreign(paths: list[Path], inputs: int) -> Iterator[str]:
    """Rows of files from elsewhere."""
    for path in paths:
        data = path.read_bytes()
        x = torch.rand(inputs, *Twin(data).image_shape, generator=torch.Generator().manual_seed(1))
        yield row(path.stem, data, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="ONNX files, too")
    parser.add_argument("--speed", type=int, default=0, help="rounds: the cost of a step instead")
    options = parser.parse_args()
    names = options.networks or ([] if options.files else list(NETWORKS))
    unknown = sorted({*names} - {*NETWORKS})
    if unknown:
        parser.error(f"got {unknown}, expected networks of {sorted(NETWORKS)}")
    torch.set_num_threads(1)
    lines = speed(names, options.speed) if options.speed else table(names, options.inputs)
    for line in lines:
        print(line, flush=True)
    for line in foreign(options.files, options.inputs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
