"""Datasets: what they are, how they are read, checked and split."""

from hardening.data.digits import digits
from hardening.data.folder import folder
from hardening.data.npz import npz
from hardening.data.raw import Loader, RawData
from hardening.data.torchvision_sets import TORCHVISION
from hardening.data.types import Labelled, TestData, TrainingData

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "folder": folder,
    "npz": npz,
    **TORCHVISION,
}

__all__ = ["DATASETS", "Labelled", "Loader", "RawData", "TestData", "TrainingData"]
