"""Gates on other attacks: those that should agree with each other, or lose."""

from hardening.diagnosis.catalogue import alarm
from hardening.diagnosis.sample import Sample
from hardening.evidence import Alarm


def losses(sample: Sample) -> Alarm:
    """G14: cross entropy and margin leave the same accuracy."""
    by_ce = sample.falls("cross entropy", sample.probes.apgd_ce, sample.correct)
    by_margin = sample.falls("margin", sample.probes.apgd_margin, sample.correct)
    n = len(sample.images)
    left = {
        "cross entropy": int((sample.correct & ~by_ce).sum()) / n,
        "margin": int((sample.correct & ~by_margin).sum()) / n,
    }
    detail = ", ".join(f"{loss}: {share:.3g}" for loss, share in left.items())
    apart = abs(left["cross entropy"] - left["margin"])
    return alarm("losses", apart, n, sample.limits, detail)


def noise(sample: Sample) -> Alarm:
    """G15: random noise breaks none of the survivors; a single image fires."""
    fell = sample.falls("random noise", sample.probes.noise, sample.survivors)
    found, n = int(fell.sum()), len(sample.images)
    return alarm("noise", found / n, n, sample.limits, f"{found} of {n}")
