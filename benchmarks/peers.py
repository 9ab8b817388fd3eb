"""Published implementations of the attacks that we have, called as their documentation says.

They are no dependencies of the project: `benchmarks/README.md` says how to install them beside it.
Each entry is `(module, x, y, threat, seed) -> x_adv` at the budget of ours with the same name.
"""

from collections.abc import Callable
from math import inf

import foolbox
import numpy as np
import torch
import torchattacks
from adv_lib import attacks as adv_lib
from adv_lib.attacks.fast_adaptive_boundary import fab as adv_lib_fab
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from hardening.threat import ThreatModel

Peer = Callable[[nn.Module, Tensor, Tensor, ThreatModel, int], Tensor]

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDERS = {"linf": inf, "l2": 2.0, "l1": 1.0}
BATCH = 100


def standard(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    """AutoAttack's standard composition."""
    whole = AutoAttack(model, norm=NAMES[threat.norm], eps=threat.eps, seed=seed, device="cpu")
    found = whole.run_standard_evaluation(x, y, batch_size=BATCH)
    return found[0] if isinstance(found, tuple) else found


def auto_apgd(loss: str, steps: int) -> Peer:
    """APGD of AutoAttack's authors."""

    def run(model, x, y, threat, seed):
        norm = NAMES[threat.norm]
        attack = APGDAttack(
            model, n_iter=steps, norm=norm, eps=threat.eps, seed=seed, loss=loss, device="cpu"
        )
        return attack.perturb(x, y)

    return run


def auto_targeted(steps: int, targets: int) -> Peer:
    """Targeted APGD of AutoAttack's authors."""

    def run(model, x, y, threat, seed):
        attack = APGDAttack_targeted(
            model,
            n_iter=steps,
            norm=NAMES[threat.norm],
            eps=threat.eps,
            seed=seed,
            n_target_classes=targets,
            device="cpu",
        )
        return attack.perturb(x, y)

    return run


def auto_fab(steps: int, targets: int) -> Peer:
    """Targeted FAB of AutoAttack's authors."""

    def run(model, x, y, threat, seed):
        attack = FABAttack_PT(
            model,
            norm=NAMES[threat.norm],
            n_iter=steps,
            eps=threat.eps,
            seed=seed,
            targeted=True,
            n_target_classes=targets,
            device="cpu",
        )
        return attack.perturb(x, y)

    return run


def auto_square(queries: int) -> Peer:
    """Square of AutoAttack's authors."""

    def run(model, x, y, threat, seed):
        attack = SquareAttack(
            model,
            norm=NAMES[threat.norm],
            n_queries=queries,
            eps=threat.eps,
            seed=seed,
            device="cpu",
        )
        return attack.perturb(x, y)

    return run


def torch_attack(name: str, **params: object) -> Peer:
    """An attack of torchattacks; those without a norm are Linf."""

    def run(model, x, y, threat, seed):
        torch.manual_seed(seed)
        given = dict(params)
        if "norm" in given:
            given["norm"] = NAMES[threat.norm]
        return getattr(torchattacks, name)(model, eps=threat.eps, **given)(x, y)

    return run


def torch_cw(steps: int) -> Peer:
    """C&W of torchattacks: no search for c."""

    def run(model, x, y, threat, seed):  # noqa: ARG001
        torch.manual_seed(seed)
        return torchattacks.CW(model, c=1, steps=steps)(x, y)

    return run


def adv(name: str, **params: object) -> Peer:
    """An attack of adv-lib that takes a norm and, where it has one, eps."""

    def run(model, x, y, threat, seed):
        torch.manual_seed(seed)
        given = dict(params)
        if "norm" in given:
            given["norm"] = ORDERS[threat.norm]
        if "eps" in given or "ε" in given:
            given["eps" if "eps" in given else "ε"] = threat.eps
        function = adv_lib_fab if name == "fab" else getattr(adv_lib, name)
        return function(model, x, y, **given)

    return run


def fool(name: str, **params: object) -> Peer:
    """An attack of foolbox; minimum-norm ones are asked for their smallest perturbation."""

    def run(model, x, y, threat, seed):
        torch.manual_seed(seed)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = getattr(foolbox.attacks, name)(**params)
        minimal = "Minimization" in " ".join(kind.__name__ for kind in type(attack).__mro__)
        _, clipped, _ = attack(wrapped, x, y, epsilons=None if minimal else threat.eps)
        return clipped

    return run


def art(name: str, **params: object) -> Peer:
    """An attack of ART."""

    def run(model, x, y, threat, seed):
        np.random.seed(seed)  # noqa: NPY002  that is the generator it draws from
        torch.manual_seed(seed)
        classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        given = dict(params)
        if name != "CarliniL2Method":
            given |= {"norm": ORDERS[threat.norm], "eps": threat.eps}
        attack = getattr(evasion, name)(classifier, batch_size=BATCH, **given)
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return run


def single(threat: ThreatModel) -> dict[str, dict[str, Peer]]:
    """By the name of our attack: every peer that has it for this norm."""
    linf, l2 = threat.norm == "linf", threat.norm == "l2"
    step = threat.eps * 2.5 / 40
    table: dict[str, dict[str, Peer]] = {
        "apgd-ce": {
            "pyautoattack": auto_apgd("ce", 100),
            "torchattacks": torch_attack("APGD", norm="", steps=100, loss="ce"),
            "adv-lib": adv("apgd", norm=0, eps=0, n_iter=100, loss_function="ce"),
            "ART": art(
                "AutoProjectedGradientDescent",
                eps_step=2 * threat.eps,
                max_iter=100,
                nb_random_init=1,
                loss_type="cross_entropy",
                verbose=False,
            ),
        },
        "apgd-dlr-targeted": {
            "pyautoattack": auto_targeted(100, 9),
            "adv-lib": adv("apgd_targeted", norm=0, eps=0, n_iter=100, num_targets=9),
        },
        "fab": {"pyautoattack": auto_fab(100, 9)},
        "square": {
            "pyautoattack": auto_square(1000),
            "torchattacks": torch_attack("Square", norm="", n_queries=1000),
            "ART": art("SquareAttack", max_iter=1000, verbose=False),
        },
        "fmn": {"adv-lib": adv("fmn", norm=0, steps=100)},
    }
    if linf:
        table["fgsm"] = {
            "torchattacks": torch_attack("FGSM"),
            "foolbox": fool("LinfFastGradientAttack"),
            "ART": art("FastGradientMethod", eps_step=threat.eps),
        }
        table["pgd-ce"] = {
            "torchattacks": torch_attack("PGD", alpha=step, steps=40),
            "adv-lib": adv("pgd_linf", ε=0, steps=40, absolute_step_size=step),
            "foolbox": fool("LinfPGD", steps=40, abs_stepsize=step),
            "ART": art(
                "ProjectedGradientDescentPyTorch",
                eps_step=step,
                max_iter=40,
                num_random_init=1,
                verbose=False,
            ),
        }
        table["fmn"]["foolbox"] = fool("LInfFMNAttack", steps=100)
        table["deepfool"] = {"foolbox": fool("LinfDeepFoolAttack", steps=50)}
    if l2:
        table["ddn"] = {
            "adv-lib": adv("ddn", steps=100, levels=None),
            "foolbox": fool("DDNAttack", steps=100),
        }
        table["fmn"]["foolbox"] = fool("L2FMNAttack", steps=100)
        table["deepfool"] = {"foolbox": fool("L2DeepFoolAttack", steps=50)}
        table["cw"] = {
            "adv-lib": adv("carlini_wagner_l2", binary_search_steps=5, max_iterations=200),
            "foolbox": fool("L2CarliniWagnerAttack", binary_search_steps=5, steps=200),
            "torchattacks": torch_cw(1000),
        }
    return table
