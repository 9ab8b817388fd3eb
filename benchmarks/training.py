"""Hardening at an equal budget of processor time: ours, a plain loop, and a published library.

All contestants start from the same trained weights, see the same training images and stop after the
same CPU seconds of one thread. What they leave is exported, and the exported file is evaluated by
the profile `standard`. The loop is that of https://arxiv.org/abs/1706.06083 with the settings of
its authors' code: PGD-7 of step eps/4 in training mode, SGD with momentum, a learning rate that
falls in steps. The library is ART's `AdversarialTrainer`.

    TEMPER_DATA=/path/to/data python -m benchmarks.training cifar10 --minutes 30
    TEMPER_DATA=/path/to/data python -m benchmarks.training mnist --passes 100
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.profiles import PROFILES, in_order
from benchmarks.attacks import ours
from benchmarks.starts import TASKS, Task, fresh_rng
from benchmarks.subjects import Subject
from defenses import DEFENSES
from defenses.adversarial_training import worst_case
from defenses.augment import AUGMENTATIONS
from defenses.epoch import backward
from defenses.loop import Loop
from defenses.trainee import Trainee
from hardening.deployment.export import export
from hardening.log import Silent
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel

BATCH = 128
STEPS = 7


class Told(Silent):
    """A log that shows the lines of a training, and nothing else."""

    def line(self, text: str) -> None:
        print(f"    {text}", file=sys.stderr, flush=True)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.line(f"epoch {step}: " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))


def auto(task: Task, seconds: float) -> nn.Module:
    """What the product chooses for the budget."""
    spec = Spec(name="auto", params={"minutes": seconds / 60, "augment": task.augment})
    return bind(DEFENSES, spec)(task.start, task.data, task.threat, fresh_rng(), Told())


def plain_loop(task: Task, seconds: float) -> nn.Module:
    """PGD-7 adversarial training as in the papers, from the given weights."""
    model, rng, data = deepcopy(task.start).train(), fresh_rng(), task.data.train
    optimizer = torch.optim.SGD(model.parameters(), task.rate, momentum=0.9, weight_decay=2e-4)
    begin = time.process_time()
    while True:
        for places in torch.randperm(len(data), generator=rng).split(BATCH):
            spent = (time.process_time() - begin) / seconds
            if spent >= 1:
                return model
            for group in optimizer.param_groups:
                group["lr"] = task.rate * (1 if spent < 0.5 else 0.1 if spent < 0.75 else 0.01)
            part = data.take(places)
            x, y = AUGMENTATIONS[task.augment](part.floats(), rng), part.labels
            plain_step(model, optimizer, x, y, task.threat, rng)


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
) -> None:
    """One step of the loop of the papers."""
    x_adv = threat.sample(x, rng)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = threat.project(x, x_adv.detach() + threat.eps / 4 * gradient.sign())
    optimizer.zero_grad()
    F.cross_entropy(model(x_adv.detach()), y).backward()
    optimizer.step()


def art_trainer(task: Task, seconds: float) -> nn.Module:
    """ART's `AdversarialTrainer` on PGD-7; epoch after epoch until the time is over."""
    model = deepcopy(task.start).train()
    optimizer = torch.optim.SGD(model.parameters(), task.rate, momentum=0.9, weight_decay=2e-4)
    trainer = _art(task, model, optimizer)
    images, labels = task.data.train.floats().numpy(), task.data.train.labels.numpy()
    begin, epochs = time.process_time(), 0
    while time.process_time() - begin < seconds * (epochs / (epochs + 1) if epochs else 1):
        trainer.fit(images, labels, batch_size=BATCH, nb_epochs=1)
        epochs += 1
    print(f"    {epochs} epochs", file=sys.stderr)
    return model


def _art(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer):  # type: ignore[no-untyped-def]
    classifiers = importlib.import_module("art.estimators.classification")
    evasion = importlib.import_module("art.attacks.evasion")
    trainers = importlib.import_module("art.defences.trainer")
    classifier = classifiers.PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        tuple(task.data.train.images.shape[1:]),
        len(task.data.classes),
        optimizer,
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = evasion.ProjectedGradientDescentPyTorch(
        classifier,
        eps=task.threat.eps,
        eps_step=task.threat.eps / 4,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=BATCH,
        verbose=False,
    )
    return trainers.AdversarialTrainer(classifier, attack, ratio=1.0)


CONTESTANTS: dict[str, Callable[[Task, float], nn.Module]] = {
    "temper auto": auto,
    "plain loop": plain_loop,
    "ART": art_trainer,
}


def compare(task: Task, minutes: float, only: str) -> None:
    """Give everybody the same time and evaluate what they leave."""
    print(f"{'by':<14}{'CPU s':>8}{'clean':>8}{'robust':>8}{'2 SE':>7}", flush=True)
    for name, train in {"start": lambda task, _: task.start, **CONTESTANTS}.items():
        if only in name:
            begin = time.process_time()
            model = train(task, 60 * minutes).eval()
            seconds = time.process_time() - begin
            clean, robust = _evaluate(task, model)
            error = 2 * (robust * (1 - robust) / len(task.test)) ** 0.5
            print(f"{name:<14}{seconds:>8.0f}{clean:>8.3f}{robust:>8.3f}{error:>7.3f}", flush=True)


def _evaluate(task: Task, model: nn.Module) -> tuple[float, float]:
    """Clean and worst-case accuracy of the exported file under the attacks of `standard`."""
    shape = tuple(int(side) for side in task.test.images.shape[1:])
    file = export(model.cpu(), (shape[0], shape[1], shape[2]))
    subject = Subject(model, file, task.test, task.threat)
    specs = [s for s in in_order(PROFILES["standard"].attacks) if s.source == "file"]
    x_adv = ours(subject, specs)(0).x_adv
    x, y = task.test.floats(), task.test.labels
    with torch.no_grad():
        right = torch.cat([model(part) for part in x.split(100)]).argmax(1) == y
        stands = torch.cat([model(part) for part in x_adv.split(100)]).argmax(1) == y
    return float(right.float().mean()), float((right & stands).float().mean())


def passes(task: Task, count: int) -> None:
    """Milliseconds of CPU of one training step on PGD-7, in turns: median over `count` rounds."""
    rng, loss = fresh_rng(), worst_case(fresh_rng(), steps=STEPS)
    x, y = task.data.train.take(torch.arange(BATCH)).floats(), task.data.train.labels[:BATCH]
    trainee = Trainee.start(task.start.train(), "adamw", 5e-4, {})
    plain, bare, library = (deepcopy(task.start).train() for _ in range(3))
    optimizers = [torch.optim.SGD(m.parameters(), 1e-3, momentum=0.9) for m in (plain, library)]
    trainer = _art(task, library, optimizers[1])
    images, labels = x.numpy(), y.numpy()

    def temper() -> None:
        backward(trainee.model, loss, x, y, task.threat, Loop())
        trainee.step(1e-3, 0.99, 1000)

    rounds: dict[str, Callable[[], None]] = {
        "bare passes": lambda: _bare(bare, x, y),
        "temper": temper,
        "plain loop": lambda: plain_step(plain, optimizers[0], x, y, task.threat, rng),
        "ART": lambda: trainer.fit(images, labels, batch_size=BATCH, nb_epochs=1),
    }
    seen: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(count):
        for name, step in rounds.items():
            begin = time.process_time()
            step()
            seen[name].append(1000 * (time.process_time() - begin))
    base = median(seen["bare passes"][1:])
    for name, times in seen.items():
        print(f"{name:<14}{median(times[1:]):>9.1f} ms {median(times[1:]) / base:>6.2f} x bare")


def _bare(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The passes of a step and nothing else: 7 for the images' gradients, 1 for the weights'."""
    model.eval().requires_grad_(False)
    for _ in range(STEPS):
        point = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
    model.train().requires_grad_(True)
    F.cross_entropy(model(x), y).backward()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=[*TASKS])
    parser.add_argument("--minutes", type=float, default=30, help="CPU minutes of one thread each")
    parser.add_argument("--only", default="", help="contestants whose name has this in it")
    parser.add_argument("--passes", type=int, default=0, help="compare the cost of a step instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tasks:
        task = TASKS[name]()
        print(f"\n{name}: {len(task.data.train)} training images, {task.threat}")
        if options.passes:
            passes(task, options.passes)
        else:
            compare(task, options.minutes, options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
