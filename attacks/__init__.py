"""Attacks are functions: `attack(model, x, y, threat, rng, *, hyperparameters) -> Found`."""
