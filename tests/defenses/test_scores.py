import torch
from torch import nn

from defenses.scores import clean_accuracy, robust_accuracy
from hardening.data import Labelled
from hardening.threat import ThreatModel


class Threshold(nn.Module):
    """Class 1 where the one pixel is above 1/2: the robust accuracy is known by counting."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        margin = self.scale * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-margin, margin], 1)


def line(*pixels):
    images = torch.tensor(pixels).view(-1, 1, 1, 1)
    return Labelled(images, (images.flatten() > 0.5).long())


def test_clean_accuracy_counts_correct_images():
    data = line(0.1, 0.4, 0.6, 0.9)

    assert clean_accuracy(Threshold(), data) == 1.0
    assert clean_accuracy(Threshold(), Labelled(data.images, 1 - data.labels)) == 0.0


def test_robust_accuracy_counts_images_further_than_eps_from_the_boundary(generator):
    data = line(0.1, 0.35, 0.41, 0.49, 0.51, 0.59, 0.65, 0.95)

    assert robust_accuracy(ThreatModel(eps=0.1), generator())(Threshold(), data) == 0.5


def test_an_image_that_is_wrong_already_is_not_robust(generator):
    data = line(0.1, 0.9)

    assert (
        robust_accuracy(ThreatModel(eps=0.01), generator())(
            Threshold(), Labelled(data.images, 1 - data.labels)
        )
        == 0
    )


def test_robust_accuracy_of_one_model_is_always_the_same(model, data, generator):
    score = robust_accuracy(ThreatModel(eps=0.2), generator())

    assert score(model, data.validation) == score(model, data.validation)


def test_scoring_leaves_the_model_alone(model, data, threat, bits, generator):
    before = bits(model.train())

    clean_accuracy(model, data.validation)
    robust_accuracy(threat, generator())(model, data.validation)

    assert bits(model) == before
