"""Gates on effort: more of it finds more, as it must, and at the end no more, as it should."""

from hardening.diagnosis.catalogue import counted, sampled
from hardening.diagnosis.sample import Sample
from hardening.evidence import Alarm


def one_step(sample: Sample) -> Alarm:
    """G7: what one step breaks, many steps break; per image (Athalye et al. 2018)."""
    single = sample.falls("one step", sample.probes.fgsm, sample.correct)
    # Only images that one step breaks can count.
    many = sample.falls("many steps", sample.probes.pgd, single)
    found = int((single & ~many).sum())
    return sampled("one_step", found, len(sample.images), sample.limits)


def unbounded(sample: Sample) -> Alarm:
    """G8: without a bound nothing stands (Carlini et al. 2019).

    What fell within eps has fallen: only survivors are attacked.
    """
    everywhere = sample.threat.unbounded(sample.images.images.shape[1:])
    fell = sample.falls("unbounded", sample.probes.unbounded, sample.survivors, everywhere)
    standing = int((sample.survivors & ~fell).sum())
    detail = f"{standing} of {int(sample.survivors.sum())} survivors stand at {everywhere}"
    return counted("unbounded", standing, len(sample.images), sample.limits, detail)


def convergence(sample: Sample) -> Alarm:
    """G12: twice the iterations break no more of the survivors.

    The share is of all images of the sample, so it is how far the headline would move.
    """
    fell = sample.falls("twice the iterations", sample.probes.apgd_long, sample.survivors)
    return sampled("convergence", int(fell.sum()), len(sample.images), sample.limits)


def restarts(sample: Sample) -> Alarm:
    """G13: more restarts break no more of the survivors."""
    fell = sample.falls("more restarts", sample.probes.apgd_restarts, sample.survivors)
    return sampled("restarts", int(fell.sum()), len(sample.images), sample.limits)
