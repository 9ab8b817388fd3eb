"""Proposals of the square attack, and its independence of gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.proposals import PROPOSALS, _bump
from attacks.square import square
from hardening.threat import ThreatModel

SHAPES = [(1, 6, 6), (3, 8, 8), (3, 5, 9), (1, 1, 1), (2, 2, 3)]
LARGE = SHAPES[:3]  # in fewer pixels a bump may cancel what is there
EPS = {"linf": 0.1, "l2": 0.8, "l1": 8}


def uniform(x, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return lambda count: torch.rand(len(x), count, generator=rng)


def inside(shape, seed=0, count=4):
    """Images far from the ends of the range: no pixel is cut."""
    return 0.3 + 0.4 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linf_starts_with_vertical_stripes_at_the_border(shape):
    x, threat = inside(shape), ThreatModel(norm="linf", eps=EPS["linf"])
    delta = PROPOSALS["linf"].start(threat, x, uniform(x)) - x
    assert torch.allclose(delta.abs(), torch.tensor(threat.eps))
    assert torch.allclose(delta, delta[:, :, :1], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(shape=st.sampled_from(SHAPES), area=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_linf_changes_one_square_of_the_given_area_and_never_nothing(shape, area, seed):
    x, threat = inside(shape, seed), ThreatModel(norm="linf", eps=EPS["linf"])
    scheme, draw = PROPOSALS["linf"], uniform(x, seed)
    now = scheme.start(threat, x, draw)
    new = scheme.change(threat, x, now, area, draw(scheme.places + shape[0]))
    changed = new != now
    assert changed.flatten(1).any(1).all()
    side = min(max(round((area * shape[1] * shape[2]) ** 0.5), 1), *shape[1:])
    for image in changed.any(1):
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert rows.max() - rows.min() < side
        assert columns.max() - columns.min() < side
    assert torch.allclose((new - x).abs(), torch.tensor(threat.eps))


@pytest.mark.parametrize("queries", [100, 1000])
def test_squares_shrink_on_the_papers_schedule_whatever_the_budget(queries):
    """Nothing is ever accepted here, so each proposal differs from the start in one square."""
    seen = []

    def unmoved(x):
        seen.append(x)
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    x = inside((1, 20, 20), count=1)
    threat = ThreatModel(norm="linf", eps=0.1)
    square(unmoved, x, torch.zeros(1, dtype=torch.long), threat, torch.Generator(), queries=queries)
    _, start, *proposals = seen
    assert len(seen) == queries + 1
    for share, area in [(0.04, 0.1), (0.15, 0.025), (0.3, 0.0125), (0.9, 0.8 / 512)]:
        around = proposals[int(share * queries) : int(share * queries) + queries // 20]
        changed = [(proposal != start)[0, 0] for proposal in around]
        sides = [max(int(c.any(0).sum()), int(c.any(1).sum())) for c in changed]
        assert max(sides) <= max(round(20 * area**0.5), 1)
        assert sum(sides) >= 0.6 * len(sides) * max(round(20 * area**0.5), 1)


def test_images_get_windows_of_their_own():
    x, threat = inside((1, 12, 12), count=32), ThreatModel(norm="linf", eps=0.1)
    scheme, draw = PROPOSALS["linf"], uniform(x)
    now = scheme.start(threat, x, draw)
    changed = scheme.change(threat, x, now, 0.01, draw(3)) != now
    assert len({tuple(image.flatten().nonzero()[0].tolist()) for image in changed}) > 16


@settings(deadline=None, max_examples=40)
@given(
    norm=st.sampled_from(["l2", "l1"]),
    shape=st.sampled_from(LARGE),
    area=st.floats(0.001, 1),
    seed=st.integers(0, 99),
)
def test_bumps_spend_the_whole_budget(norm, shape, area, seed):
    x, threat = inside(shape, seed), ThreatModel(norm=norm, eps=0.2)
    scheme, draw = PROPOSALS[norm], uniform(x, seed)
    point = scheme.start(threat, x, draw)
    for _ in range(3):
        assert torch.allclose(threat.distance(x, point), torch.tensor(0.2), rtol=1e-4)
        assert threat.contains(x, point).all()
        point = scheme.change(threat, x, point, area, draw(scheme.places + shape[0]))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_a_bump_has_unit_norm_and_two_opposite_halves(side, power):
    bump = _bump(side, power)
    assert bump.shape == (side, side)
    assert float(bump.flatten().norm(power)) == pytest.approx(1, abs=1e-6)
    assert (bump[: side // 2] > 0).all()
    assert (bump[side // 2 :] < 0).all()


def test_l1_bumps_are_steeper():
    """Of two neighbouring heights, the sums of 1/k^4 and of 1/k^2 from their distance on."""
    for power, ratio in (
        (1, (1 + 1 / 16 + 1 / 81) / (1 / 16 + 1 / 81)),
        (2, (49 / 36) / (13 / 36)),
    ):
        column = _bump(5, power)[3:, 2]
        peak = int(column.abs().argmax())
        assert float(column[peak] / column[peak - 1]) == pytest.approx(ratio, rel=1e-5)


def test_needs_no_gradients(norm, curved, images, rng):
    model = curved(48, 5)
    x, y = images(model, 16, 3, 4, 4)

    def answers(x):
        return torch.from_numpy(model(x).detach().numpy().round(2))

    x_adv = square(answers, x, y, ThreatModel(norm=norm, eps=EPS[norm]), rng).x_adv
    assert (answers(x_adv).argmax(1) != y).sum() > 8


def test_inputs_that_are_no_images_are_refused_in_one_line(rng):
    threat = ThreatModel(norm="linf", eps=0.1)
    with pytest.raises(ValueError, match=r"shape \(4, 9\), expected \(B, C, H, W\)"):
        square(lambda x: x, torch.zeros(4, 9), torch.zeros(4, dtype=torch.long), threat, rng)
