"""When each gate fires: a value above its limit does."""

from typing import Annotated

from pydantic import Field

from hardening.spec import Record

Limit = Annotated[float, Field(ge=0)]


class Limits(Record):
    """The highest quiet value of each gate; shares of images unless said otherwise.

    Where images are counted, a limit below one image is raised to one image. Where a share of all
    images is estimated from a sample (one_step, convergence, restarts), it is raised to what the
    sample can tell from noise.

    Attributes:
        determinism: Distance of normalised logits between passes, AutoAttack's 1e-4.
        state: Tensors of the state changed by a forward pass.
        batch: Logit difference between batches, relative to the largest logit.
        probabilities: Whether outputs are probabilities: 1 or 0.
        zero_gradients: Images without a gradient.
        finite_differences: Relative error of a directional derivative.
        one_step: Images that one step breaks and many do not.
        unbounded: Images that stand without any bound on the perturbation.
        monotone: Rise of the robust accuracy from one radius to the next.
        gradient_free: Images that only an attack without gradients breaks.
        transfer: Images that only adversarial images of another model break.
        convergence: Images that twice the iterations break.
        restarts: Images that more restarts break.
        losses: Robust accuracy under one loss minus that under another.
        noise: Images that random noise breaks and gradients do not.
        rounding: Successes lost by rounding to 8 bits; reported only, hence 1.
        unsolved: Binarisation problems that the attack does not solve.
        violations: Images outside the threat model or not confirmed.
        backdoor: Anomaly index of the class with the smallest patch.
        unconfirmed: Images that fool the twin and not the file.
        int8: Robust accuracy of the int8 file minus that of its float parent.
    """

    determinism: Limit = 1e-4
    state: Limit = 0.0
    batch: Limit = 1e-4
    probabilities: Limit = 0.0
    zero_gradients: Limit = 0.01
    finite_differences: Limit = 0.1
    one_step: Limit = 0.005
    unbounded: Limit = 0.0
    monotone: Limit = 0.0
    gradient_free: Limit = 0.002
    transfer: Limit = 0.002
    convergence: Limit = 0.005
    restarts: Limit = 0.01
    losses: Limit = 0.10
    noise: Limit = 0.0
    rounding: Limit = 1.0
    unsolved: Limit = 0.05
    violations: Limit = 0.0
    backdoor: Limit = 2.0
    unconfirmed: Limit = 0.001
    int8: Limit = 0.02
