import pytest
import torch

from hardening.deployment.parity import compare, prove, together
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ParityError


def images(logits):
    """Pictures (N, 1, 1, K) whose logits are their pixels."""
    return torch.tensor(logits).view(len(logits), 1, 1, -1)


def pixels(x):
    return x.flatten(1)


def test_compare_counts_images_differences_and_near_ties():
    first = torch.tensor([[1.0, 0.0, -4.0], [0.5, 0.4, 0.0], [0.0, 0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0, -4.0], [0.4, 0.5, 0.0], [0.0, 0.0, 1.1]])

    found = compare(first, second)

    assert found.images == 3
    assert found.max_difference == pytest.approx(0.1)
    assert found.scale == 4
    assert found.agreement == pytest.approx(2 / 3)
    assert found.near_ties == 1


def test_equal_forms_are_proven(int8_file, tools):
    parity = prove("twin", Session(int8_file), Twin(int8_file), tools.pictures(40))

    assert parity.max_difference == 0
    assert parity.images == 40


def test_a_perturbed_form_is_refused_with_name_difference_tolerance_and_agreement(int8_file, tools):
    twin = Twin(int8_file)
    heads = [step for step in twin.steps if step.outputs == ("logits",)]
    heads[0].compute.bias[3] += 50  # one of 2^24 integers of an accumulator's range

    with pytest.raises(ParityError, match=r"^shipped: logits differ by .*at most .* of 40 dec"):
        prove("shipped", Session(int8_file), twin, tools.pictures(40))


def test_near_ties_may_be_decided_differently():
    x = images([[0.30001, 0.3, 0.0], [0.9, 0.1, 0.0]])
    flipped = x.clone()
    flipped[0, 0, 0, :2] = torch.tensor([0.3, 0.30001])

    parity = prove("near", pixels, lambda part: pixels(_swap(part, x, flipped)), x)

    assert parity.agreement == 0.5
    assert parity.near_ties == 1


def _swap(part, x, other):
    return other if part.shape == x.shape else part


def test_a_tolerance_grows_with_logits_above_one_only():
    x = images([[100.0, 0.0], [0.0, 50.0]])

    prove("large", pixels, lambda part: pixels(part) + 0.009, x)
    with pytest.raises(ParityError, match="differ by"):
        prove("large", pixels, lambda part: pixels(part) + 0.011, x)
    with pytest.raises(ParityError, match="differ by"):
        prove("small", pixels, lambda part: pixels(part) + 2e-4, x / 1000)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad):
    x = images([[1.0, 0.0], [0.0, 1.0]])

    def broken(part):
        return torch.where(part.flatten(1) == 0, bad, part.flatten(1))

    with pytest.raises(ParityError, match="2 of 2 images get logits of the second form"):
        prove("bad", pixels, broken, x)
    with pytest.raises(ParityError, match="of the first form"):
        prove("bad", broken, pixels, x)


def test_another_number_of_classes_is_refused():
    x = images([[1.0, 0.0], [0.0, 1.0]])

    with pytest.raises(ParityError, match=r"got logits \(2, 3\), expected \(2, 2\)"):
        prove("wide", pixels, lambda part: torch.cat([pixels(part), pixels(part)[:, :1]], 1), x)


def test_a_form_that_depends_on_the_batch_is_refused():
    x = images([[1.0, 0.0], [0.0, 1.0], [0.5, 0.2]])

    def centred(part):
        return pixels(part) - pixels(part).mean()

    with pytest.raises(ParityError, match="logits at batch size 1 differ"):
        prove("centred", centred, centred, x)


def test_several_proofs_are_told_as_one():
    first = compare(torch.tensor([[1.0, 0.0], [0.0, 9.0]]), torch.tensor([[1.0, 0.0], [0.0, 9.0]]))
    second = compare(torch.tensor([[0.1, 0.0]]), torch.tensor([[0.1, 0.2]]))

    found = together([first, second])

    assert (found.images, found.scale, found.near_ties) == (3, 9, 1)
    assert found.max_difference == pytest.approx(0.2)
    assert found.agreement == pytest.approx(2 / 3)
