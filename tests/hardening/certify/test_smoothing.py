"""Certified radii of smoothing come near what is true of a linear model, and not beyond."""

from functools import partial

import pytest
import torch
from scipy.stats import norm as normal

from hardening.certify import CERTIFIERS
from hardening.certify.smoothing import certify, radius, smoothing
from hardening.data import Labelled
from hardening.errors import ConfigError, ModelError, NumericsError
from hardening.log import Silent
from hardening.spec import Spec, bind, parameters
from hardening.threat import ThreatModel

L2 = ThreatModel(norm="l2", eps=0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def halves(x):
    """Two classes meet where the first pixel is 1/2: the distance is |x - 1/2| in every norm."""
    t = x.flatten(1)[:, 0] - 0.5
    return torch.stack([t, -t], 1)


def at(*distances, pixels=2):
    """One image for each signed distance, of label 0."""
    x = torch.full((len(distances), 1, 1, pixels), 0.5)
    x[:, 0, 0, 0] += torch.tensor(distances)
    return Labelled(x, torch.zeros(len(distances), dtype=torch.int64))


def smooth(model, images, threat=L2, seed=0, sigma=0.25, n0=100, n=1000, alpha=0.001):
    return certify(model, images, threat, seeded(seed), Silent(), sigma, n0, n, alpha)


def test_a_linear_models_radius_approaches_its_distance_from_below():
    """The smoothed linear classifier is the linear classifier: its true radius is the distance."""
    true = [0.05, 0.1, 0.2, 0.3]
    radii = {n: smooth(halves, at(*true), n=n).radii for n in (100, 1000, 20_000)}
    for i, distance in enumerate(true):
        assert radii[20_000][i] <= distance
        assert radii[20_000][i] == pytest.approx(distance, abs=0.02)
        assert radii[100][i] < radii[20_000][i]


@pytest.mark.parametrize("distance", [0.1, 0.25])
def test_a_radius_beyond_the_truth_is_as_rare_as_stated(distance):
    radii = torch.tensor(smooth(halves, at(*[distance] * 2000), n=200, alpha=0.05).radii)
    false = float((radii > distance).double().mean())
    assert 0.02 < false <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_the_choice_and_the_bound_see_different_noise():
    """On the boundary a vote that also chose the class would be above 1/2 twice as often."""
    certificate = smooth(halves, at(*[0.0] * 2000), n0=100, n=100, alpha=0.05)
    chosen = certificate.figures["chosen rightly"] * 2000
    false = sum(radius > 0 for radius in certificate.radii) / chosen
    assert 0.45 < chosen / 2000 < 0.55
    assert false <= 0.05 + 3 * (0.05 * 0.95 / chosen) ** 0.5


def test_a_close_vote_abstains_and_a_wrong_one_does_not():
    certificate = smooth(halves, at(0.03, -0.3, 0.5), n0=1000, n=20)
    assert certificate.abstained == [True, False, False]
    assert certificate.certified == [False, False, True]
    assert certificate.radii[:2] == [0, 0]
    assert certificate.accuracy.correct == 1


@pytest.mark.parametrize(
    ("share", "radii", "abstained"), [(0.0, True, False), (0.6, False, True), (1.0, False, True)]
)
def test_classes_that_tie_get_no_vote(share, radii, abstained):
    """As behind a Sigmoid that saturates: the lowest class is not what such a file says."""
    limit = normal.ppf(share, scale=0.25)

    def ties(x):
        tied = x.flatten(1)[:, 0] - 0.5 < limit
        return torch.stack([torch.ones(len(x)), tied.float(), torch.full((len(x),), -1.0)], 1)

    certificate = smooth(ties, at(0.0))
    assert [radius > 0 for radius in certificate.radii] == [radii]
    assert certificate.abstained == [abstained]
    # Where most votes tie, the class that has the others is chosen.
    assert certificate.figures["chosen rightly"] == (share < 1)


def test_votes_without_dissent_give_the_radius_of_the_closed_form():
    """All of n votes bound the probability below by alpha^(1 / n)."""
    assert radius(1000, 1000, 1.0, 0.001) == pytest.approx(2.463, abs=0.0005)
    assert radius(100_000, 100_000, 1.0, 0.001) == pytest.approx(3.81, abs=0.005)
    assert radius(1000, 1000, 0.5, 0.001) == pytest.approx(0.5 * normal.ppf(0.001**0.001))
    assert radius(500, 1000, 1.0, 0.001) == 0


@pytest.mark.parametrize(
    ("norm", "eps", "needed"),
    [("l2", 0.1, 0.1), ("linf", 0.05, 0.1), ("l1", 0.1, 0.1), ("l0", 1.0, 1.0), ("linf", 1, 2)],
)
def test_other_norms_need_the_l2_ball_around_their_set(norm, eps, needed):
    images = at(*[0.02 * i for i in range(20)], pixels=4)
    certificate = smooth(halves, images, ThreatModel(norm=norm, eps=eps))
    assert certificate.figures["L2 radius needed"] == pytest.approx(needed)
    assert certificate.certified == [radius > needed for radius in certificate.radii]
    assert any(certificate.certified) == (needed < 0.3)
    assert (certificate.norm, certificate.eps) == (norm, eps)
    assert certificate.radius_norm == "l2"


def test_the_certificate_says_that_it_is_not_of_the_file():
    certificate = smooth(halves, at(0.3))
    assert certificate.subject == "smoothed classifier"
    assert "not of the file itself" in certificate.text
    assert "with so few draws" not in certificate.text
    out_of_reach = smooth(halves, at(0.3), ThreatModel(norm="l2", eps=0.7))
    assert "no radius above 0.6158 can be certified with so few draws" in out_of_reach.text
    assert type(certificate).model_validate_json(certificate.model_dump_json()) == certificate


def test_the_same_seed_gives_the_same_certificate_and_another_another():
    images = at(0.1, 0.2, 0.3)
    before = torch.random.get_rng_state()
    first = smooth(halves, images)
    assert first == smooth(halves, images)
    assert first.radii != smooth(halves, images, seed=1).radii
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_images_noise_does_not_depend_on_the_images_after_it():
    distances = [0.1, -0.4, 0.2, 0.15, 0.3]
    whole = smooth(halves, at(*distances), n0=50, n=333)
    for count in (1, 3):
        assert smooth(halves, at(*distances[:count]), n0=50, n=333).radii == whole.radii[:count]


def test_noise_is_gaussian_of_the_given_size_not_clipped_and_batches_are_full():
    seen = []

    def spy(x):
        seen.append(x.clone())
        return halves(x)

    smooth(spy, at(*[0.3] * 7, pixels=5), sigma=0.5, n0=100, n=1000)
    sizes = [len(x) for x in seen]
    assert sum(sizes) == 7 * 1100
    assert sum(size < 256 for size in sizes) <= 2
    assert max(sizes) < 256 + 64
    noise = torch.cat(seen).flatten(1)[:, 1:] - 0.5
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.abs().max()) > 1.5
    assert len(noise.unique(dim=0)) == len(noise)


def test_images_of_the_wrong_choice_cost_no_second_vote():
    count = 0

    def spy(x):
        nonlocal count
        count += len(x)
        return halves(x)

    smooth(spy, at(0.4, -0.4, -0.4), sigma=0.1, n0=10, n=100)
    assert count == 30 + 100


def test_a_file_is_certified_through_its_session_whatever_its_precision(files, rng):
    images = Labelled(torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64))
    certificate = smoothing(files.quantized(), images, L2, rng, Silent(), n=500)
    assert certificate.certified == [True] * 3
    assert certificate.figures["n"] == 500


def test_the_registry_binds_hyper_parameters_and_explains_them(files, rng):
    images = Labelled(torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64))
    bound = bind(CERTIFIERS, Spec(name="smoothing", params={"sigma": 0.1, "n": 200}))
    certificate = bound(files.quantized(), images, L2, rng, Silent())
    assert certificate.figures["sigma"] == 0.1
    assert certificate.method == "smoothing"
    for name in CERTIFIERS.values():
        assert all(parameter.meaning for parameter in parameters(name))
    for params in ({"sigma": 0}, {"alpha": 0.5}, {"n": 0}, {"draws": 3}):
        with pytest.raises(ConfigError):
            bind(CERTIFIERS, Spec(name="smoothing", params=params))


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (lambda x: halves(x) * float("nan"), NumericsError, "not finite for 100 of 100 noisy"),
        (lambda x: halves(x)[:, :1], ModelError, "expected .100, K. with K at least 2"),
        (lambda x: halves(x)[:1], ModelError, "got logits of shape"),
    ],
)
def test_a_model_that_gives_no_logits_is_named(model, error, text):
    with pytest.raises(error, match=text):
        smooth(model, at(0.1))


def test_a_model_of_constant_answer_is_certified_as_far_as_the_votes_go():
    constant = partial(torch.Tensor.new_tensor, data=[1.0, 0.0])
    certificate = smooth(lambda x: constant(x).expand(len(x), 2), at(0.1))
    assert certificate.radii == [radius(1000, 1000, 0.25, 0.001)]
