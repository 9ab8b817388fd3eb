"""Every gate: its number, what a fired one means, and what to do about it."""

from typing import NamedTuple

from hardening.diagnosis.limits import Limits
from hardening.evidence import Alarm
from hardening.statistics import clopper_pearson

ONE_SIDED = 0.90  # each end of this interval is wrong in 5 % of samples at most


class Gate(NamedTuple):
    """One entry of the catalogue; its key is the name of its limit."""

    number: str
    name: str
    meaning: str
    advice: str


GATES: dict[str, Gate] = {
    "determinism": Gate(
        "G1",
        "answers change from pass to pass",
        "largest distance between the normalised logits of five passes over the same images: "
        "a random model survives single attempts by luck",
        "average gradients over random draws (expectation over transformation) and judge an image "
        "by many passes",
    ),
    "state": Gate(
        "G2",
        "a forward pass changes the model",
        "tensors of the model's state that differ after a forward pass: what is attacked is not "
        "what was measured",
        "put normalisation layers in evaluation mode and freeze running statistics",
    ),
    "batch": Gate(
        "G3",
        "answers depend on the batch",
        "largest logit difference of the same images in another batch, relative to the largest "
        "logit: neighbours or randomness decide about an image",
        "put normalisation layers in evaluation mode; attack a random model by expectation",
    ),
    "probabilities": Gate(
        "G4",
        "outputs are probabilities",
        "1 when all outputs lie in [0, 1] and sum to 1: a softmax flattens every loss that expects "
        "logits",
        "remove the softmax from the model and evaluate again",
    ),
    "zero_gradients": Gate(
        "G5",
        "zero gradients",
        "largest share of images whose input gradient is exactly zero, of cross entropy and of the "
        "margin, at the image and at a random start: gradient attacks are blind there",
        "cross entropy alone: attack the margin or its ratio, free of the logits' scale; the "
        "margin too: give non-differentiable parts a stand-in in the backward pass",
    ),
    "finite_differences": Gate(
        "G6",
        "gradients are not the slopes",
        "median relative error of the margin's gradient against finite differences of step 0.001: "
        "gradients that point elsewhere mislead every attack that follows them",
        "attack through a smooth stand-in, by expectation where the model is random, and without "
        "gradients",
    ),
    "one_step": Gate(
        "G7",
        "one step beats many",
        "share of images that a single step breaks and an iterative attack does not: gradients are "
        "shattered or the step size is wrong",
        "more steps, another step size, random starts; if it stays, an adaptive attack is due",
    ),
    "unbounded": Gate(
        "G8",
        "stands without any bound",
        "share of images that no perturbation within the pixel range breaks, although any image "
        "could be turned into any other: the attack fails, not the adversary",
        "repair the attack (stand-in gradients, another loss) until this accuracy is zero",
    ),
    "monotone": Gate(
        "G9",
        "robust accuracy rises with eps",
        "largest rise of the robust accuracy from one radius to a larger one, each attacked on its "
        "own: a larger ball holds every point of a smaller one",
        "more steps or restarts at the larger radius, started at what the smaller one found",
    ),
    "gradient_free": Gate(
        "G10",
        "gradient-free beats white-box",
        "share of images that stand under every gradient attack and fall to one without gradients: "
        "gradients mislead",
        "give the gradient attacks more steps, restarts, another loss or a stand-in; until then "
        "run the gradient-free attack with its full budget",
    ),
    "transfer": Gate(
        "G11",
        "transfer beats white-box",
        "share of images that stand under every gradient attack and fall to adversarial images of "
        "another model: the model's own gradients are worse than borrowed ones",
        "attack through the model whose images transfer, or through a stand-in",
    ),
    "convergence": Gate(
        "G12",
        "attacks had not converged",
        "share of images that stood under all attacks and fall to one with twice the iterations",
        "double the iterations until this share no longer moves",
    ),
    "restarts": Gate(
        "G13",
        "restarts still help",
        "share of images that stood under all attacks and fall to one with more random restarts",
        "more restarts in every attack of the evaluation",
    ),
    "losses": Gate(
        "G14",
        "losses disagree",
        "robust accuracy under cross entropy and under the margin, how far apart: one of the two "
        "is saturated or scaled away",
        "believe the lower number; attack with losses that are free of the logits' scale",
    ),
    "noise": Gate(
        "G15",
        "random noise beats white-box",
        "share of images that stood under all attacks and fall to random noise in the same ball: "
        "blind search should never win",
        "treat the robust accuracy as not measured; look for masked gradients first",
    ),
    "rounding": Gate(
        "G16",
        "lost in 8 bits",
        "share of adversarial images that no longer fool when stored with 8 bits a channel: "
        "reported, never fires",
        "only an adversary who submits image files is bound by it; compare it between models",
    ),
    "unsolved": Gate(
        "G17",
        "binarisation test",
        "share of two-class problems built on the model's own features, with an adversarial point "
        "known to exist, that the attack does not solve (https://arxiv.org/abs/2206.13991)",
        "the attack is too weak for this model: adapt it until it solves problems known to be "
        "solvable",
    ),
    "violations": Gate(
        "G18",
        "successes verified",
        "adversarial images outside the threat model: each is an error that ends the run, so there "
        "are none; a success that the file does not confirm in float32 is not counted as one",
        "nothing to do",
    ),
    "backdoor": Gate(
        "G19",
        "backdoor",
        "by how many robust deviations the smallest patch that turns all images into one class is "
        "smaller than the other classes' (Neural Cleanse); fires when it is also below half of "
        "their median: a trigger was probably trained in, and hardening does not remove it",
        "do not deploy; look for the patch in the training data, and train anew without it or "
        "fine-tune on images with the patch and their right labels",
    ),
    "unconfirmed": Gate(
        "twin",
        "unconfirmed successes",
        "share of images that fool the differentiable twin at the end of an attack and not the "
        "file: the twin is not the file",
        "look at the twin's parity; an operator may be computed differently",
    ),
    "int8": Gate(
        "int8",
        "int8 above float",
        "robust accuracy of a quantized file minus that of its float parent: rounding hides "
        "gradients, it does not harden",
        "transfer from the float parent and attack through straight-through gradients",
    ),
}
"""In the order of a report. The numbers are those of the published checks they come from:
Athalye et al. 2018 (https://arxiv.org/abs/1802.00420), Carlini et al. 2019
(https://arxiv.org/abs/1902.06705), Croce and Hein 2020 (https://arxiv.org/abs/2003.01690)."""


def alarm(key: str, value: float | None, images: int, limits: Limits, detail: str = "") -> Alarm:
    """The alarm of one gate: fires when `value` is above its limit, never when there is none."""
    limit: float = getattr(limits, key)
    return _alarm(GATES[key], value, limit, images, detail)


def counted(key: str, found: int, images: int, limits: Limits, detail: str = "") -> Alarm:
    """The alarm of a gate that counts images: fires above the limit, and from two images on.

    One image alone is luck: on a healthy model a fresh random start finds one that the attacks
    before it missed, and of 500 images one is already as much as the strictest limit.
    """
    limit = max(getattr(limits, key), 1 / images)
    return _alarm(GATES[key], found / images, limit, images, detail or f"{found} of {images}")


def sampled(key: str, found: int, images: int, limits: Limits) -> Alarm:
    """The alarm of a gate that estimates a share of all images: fires when a sample shows it.

    That is when the share is above the limit beyond the sample's noise (one-sided, 95 %, exact).
    The alarm's limit is the largest share that a sample of this size leaves quiet.
    """
    quiet, limit = 0, getattr(limits, key)
    while quiet < images and clopper_pearson(quiet + 1, images, ONE_SIDED)[0] <= limit:
        quiet += 1
    return _alarm(GATES[key], found / images, quiet / images, images, f"{found} of {images}")


def not_run(number: str, limits: Limits, why: str = "not run at this effort") -> Alarm:
    """The entry of a gate that was left out, and why: listed, so that nobody misses it."""
    key = next(key for key, gate in GATES.items() if gate.number == number)
    return alarm(key, None, 0, limits, why)


def _alarm(gate: Gate, value: float | None, limit: float, images: int, detail: str) -> Alarm:
    return Alarm(
        gate=gate.number,
        name=gate.name,
        fired=value is not None and value > limit,
        value=value,
        limit=limit,
        images=images,
        meaning=gate.meaning,
        advice=gate.advice,
        detail=detail,
    )
