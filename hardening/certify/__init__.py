"""Certifiers are functions: `certifier(file, images, threat, rng, log, *, hyperparameters)`."""

from hardening.certify.certificate import Certifier
from hardening.certify.interval import interval
from hardening.certify.smoothing import smoothing

CERTIFIERS: dict[str, Certifier] = {"interval": interval, "smoothing": smoothing}

__all__ = ["CERTIFIERS", "Certifier", "interval", "smoothing"]
