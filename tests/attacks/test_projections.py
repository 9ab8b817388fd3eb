"""Projections that minimum-norm attacks rest on, against other solvers and by definition."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, lsq_linear

from attacks.fmn import GEOMETRIES
from attacks.hyperplane import onto
from hardening.threat import ThreatModel


def drawn(count, pixels, seed=0):
    """Points, normals and changes: some saturated pixels, some out of the box's reach."""
    rng = torch.Generator().manual_seed(seed)
    points = (1.4 * torch.rand(count, pixels, generator=rng) - 0.2).clamp(0, 1)
    normal = torch.randn(count, pixels, generator=rng)
    normal[torch.rand(count, pixels, generator=rng) < 0.1] = 0
    change = torch.randn(count, generator=rng) * pixels**0.5
    return points, normal, change


def smallest(point, normal, change, norm):
    """The size of the smallest move by a general solver; None where there is none."""
    d = len(point)
    limits = np.stack([-point, 1 - point], 1)
    if np.maximum(limits[:, 0] * normal, limits[:, 1] * normal).sum() < change:
        return None
    if np.minimum(limits[:, 0] * normal, limits[:, 1] * normal).sum() > change:
        return None
    if norm == "l2":
        heavy = 1e4  # the equation, so heavy that the move's size cannot bend it
        rows = np.concatenate([heavy * normal[None], np.eye(d)])
        aims = np.concatenate([[heavy * change], np.zeros(d)])
        lower, upper = limits[:, 0] - 1e-12, limits[:, 1] + 1e-12
        return np.linalg.norm(lsq_linear(rows, aims, (lower, upper), method="bvls").x)
    sizes = 1 if norm == "linf" else d
    spread = np.ones((d, 1)) if norm == "linf" else np.eye(d)
    found = linprog(
        np.concatenate([np.zeros(d), np.ones(sizes)]),
        A_ub=np.block([[np.eye(d), -spread], [-np.eye(d), -spread]]),
        b_ub=np.zeros(2 * d),
        A_eq=np.concatenate([normal, np.zeros(sizes)])[None],
        b_eq=[change],
        bounds=[*limits, *[(0, None)] * sizes],
    )
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_move_onto_a_hyperplane_is_the_smallest(norm):
    points, normal, change = drawn(60, 9)
    moves = onto(points, normal, change, norm)
    sizes = ThreatModel(norm=norm, eps=1.0).distance(points, points + moves)
    assert (points + moves >= -1e-6).all()
    assert (points + moves <= 1 + 1e-6).all()
    reached = (normal * moves).sum(1)
    solved = 0
    for row in range(len(points)):
        arrays = (tensor[row].double().numpy() for tensor in (points, normal, change))
        optimum = smallest(*arrays, norm)
        if optimum is None:  # out of reach: as far as the box lets
            up = normal[row] * change[row].sign()
            most = torch.where(up > 0, up * (1 - points[row]), -up * points[row]).sum()
            assert float(reached[row].abs()) == pytest.approx(float(most), rel=1e-5)
            continue
        solved += 1
        assert float(reached[row]) == pytest.approx(float(change[row]), abs=1e-5)
        assert float(sizes[row]) == pytest.approx(optimum, rel=1e-4, abs=1e-5)
    assert 30 < solved < 60


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_move_does_not_depend_on_the_batch_nor_on_the_normals_scale(norm):
    points, normal, change = drawn(40, 30, seed=1)
    moves = onto(points, normal, change, norm)
    assert torch.equal(onto(points[:3], normal[:3], change[:3], norm), moves[:3])
    for scale in (2.0**-100, 2.0**60):
        assert torch.allclose(onto(points, normal * scale, change * scale, norm), moves, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_without_a_normal_or_a_change_nothing_moves(norm):
    points, normal, change = drawn(5, 6)
    assert not onto(points, torch.zeros_like(normal), change, norm).any()
    assert not onto(points, normal, torch.zeros_like(change), norm).any()


@pytest.mark.parametrize("norm", GEOMETRIES)
def test_what_lies_inside_its_own_radius_does_not_move(norm):
    """The two published projections move it: one onto the sphere, one not even what is outside."""
    delta = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(2))
    size = ThreatModel(norm=norm, eps=1.0).distance(torch.zeros_like(delta), delta)
    radius = torch.where(torch.arange(20) % 2 == 0, size * 1.001, size * 0.6)
    radius = radius.ceil() if norm == "l0" else radius
    projected = GEOMETRIES[norm].project(delta, radius)
    inside = torch.arange(20) % 2 == 0
    assert torch.equal(projected[inside], delta[inside])
    sizes = ThreatModel(norm=norm, eps=1.0).distance(torch.zeros_like(delta), projected)
    assert torch.allclose(sizes[~inside], radius[~inside], rtol=1e-5)


@pytest.mark.parametrize("norm", GEOMETRIES)
def test_the_projection_is_the_nearest_point_of_the_ball(norm):
    rng = torch.Generator().manual_seed(4)
    delta = torch.randn(10, 12, generator=rng)
    radius = torch.tensor([0.3, 1.0, 2.0, 3.0, 5.0]).repeat(2)
    projected = GEOMETRIES[norm].project(delta, radius)
    distance = (delta - projected).square().sum(1)
    for _ in range(200):
        other = projected + 0.3 * torch.randn(10, 12, generator=rng)
        other = GEOMETRIES[norm].project(other, radius)
        assert ((delta - other).square().sum(1) >= distance - 1e-5).all()


@pytest.mark.parametrize("norm", GEOMETRIES)
def test_a_radius_of_zero_is_the_image(norm):
    delta = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(2))
    assert not GEOMETRIES[norm].project(delta, torch.zeros(4)).any()
