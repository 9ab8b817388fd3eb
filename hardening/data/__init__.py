"""Datasets: what they are, how they are read, checked and split."""

from hardening.data.types import Labelled, TestData, TrainingData

__all__ = ["Labelled", "TestData", "TrainingData"]
