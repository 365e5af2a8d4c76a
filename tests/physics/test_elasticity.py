"""Elastic moduli against closed forms: laminates, dilute spheres, bounds."""

import logging

import numpy as np
import pytest
import torch

from bundle.errors import InputError
from bundle.physics import MODULI, elastic_moduli
from bundle.physics.elasticity import _Homogenisation

QUARTZ, CLAY = MODULI["quartz"], MODULI["clay"]


def spheres_in(matrix, inclusion, c):
    """Mori & Tanaka's moduli, which for spheres are Hashin & Shtrikman's bound with the matrix around them, and Eshelby's where c is small."""
    (k, g), (ki, gi) = matrix, inclusion
    bulk = k + c / (1 / (ki - k) + (1 - c) * 3 / (3 * k + 4 * g))
    shear = g + c / (1 / (gi - g) + (1 - c) * 6 * (k + 2 * g) / (5 * g * (3 * k + 4 * g)))
    return np.array([bulk, shear])


def ball(n: int, radius: float) -> np.ndarray:
    return (((np.indices((n,) * 3) - (n - 1) / 2) ** 2).sum(0) < radius**2).astype(np.uint8)


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 6, 7), (1, 3, 2)])
def test_a_homogeneous_volume_has_the_moduli_of_its_phase(shape):
    found = elastic_moduli(np.ones(shape, np.uint8), [1.0, QUARTZ[0]], [1.0, QUARTZ[1]])
    assert (found.bulk, found.shear) == pytest.approx(QUARTZ, rel=1e-6) and found.converged
    k, g = QUARTZ
    expected = np.zeros((6, 6))
    expected[:3, :3] = k - 2 / 3 * g
    expected[range(6), range(6)] = [k + 4 / 3 * g] * 3 + [2 * g] * 3
    np.testing.assert_allclose(found.stiffness, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("soft", [CLAY, (2.25, 0.0)])
def test_a_laminate_is_backus_average(axis, soft):
    """Backus, 1962, J. Geophys. Res. 67, 4427: all five constants of the layered medium, layers normal to `axis`."""
    layers = np.zeros((8, 3, 4), np.uint8)
    layers[3:] = 1
    found = elastic_moduli(np.moveaxis(layers, 0, axis), [QUARTZ[0], soft[0]], [QUARTZ[1], soft[1]], tolerance=1e-4)
    k, g = np.array([QUARTZ, soft]).T
    share, lame = np.array([3 / 8, 5 / 8]), k - 2 / 3 * g
    p_wave = lame + 2 * g
    normal = 1 / (share / p_wave).sum()
    cross = (share * lame / p_wave).sum() * normal
    along = (share * 4 * g * (lame + g) / p_wave).sum() + cross**2 / normal
    in_plane = (share * g).sum()
    across = 1 / (share / g).sum() if g.all() else 0.0
    expected = np.zeros((6, 6))
    expected[:3, :3] = along - 2 * in_plane
    expected[axis, :3] = expected[:3, axis] = cross
    expected[range(3), range(3)] = along
    expected[axis, axis] = normal
    expected[range(3, 6), range(3, 6)] = 2 * across  # the component that lacks the axis is the one with its number
    expected[3 + axis, 3 + axis] = 2 * in_plane
    np.testing.assert_allclose(found.stiffness, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("inclusion", [CLAY, (74.0, 88.0)])
def test_dilute_spheres(inclusion):
    labels = ball(24, 4.6)
    found = elastic_moduli(labels, [QUARTZ[0], inclusion[0]], [QUARTZ[1], inclusion[1]], tolerance=1e-3)
    change = np.array([found.bulk, found.shear]) - QUARTZ
    np.testing.assert_allclose(change, spheres_in(QUARTZ, inclusion, labels.mean()) - QUARTZ, rtol=0.03)


def test_a_dilute_spherical_pore():
    """The modulus is right to 0.5 %; what the pore takes from it is 10 % too much at 5 voxels of radius and gets better as the radius grows."""
    errors = []
    for n in (12, 24):
        labels = ball(n, n * 0.2)
        exact = spheres_in(QUARTZ, (0, 0), labels.mean())
        found = elastic_moduli(labels, [QUARTZ[0], 0], [QUARTZ[1], 0], tolerance=1e-3)
        errors.append(abs((np.array([found.bulk, found.shear]) - exact) / (exact - QUARTZ)))
    assert (errors[1] < 0.1).all() and (errors[1] < errors[0]).all()
    np.testing.assert_allclose([found.bulk, found.shear], exact, rtol=0.006)


def test_a_random_medium_lies_between_the_bounds():
    """Hashin & Shtrikman, 1963, J. Mech. Phys. Solids 11, 127."""
    labels = (np.random.default_rng(0).random((24, 24, 24)) < 0.4).astype(np.uint8)
    found = elastic_moduli(labels, [QUARTZ[0], CLAY[0]], [QUARTZ[1], CLAY[1]])
    upper, lower = spheres_in(QUARTZ, CLAY, labels.mean()), spheres_in(CLAY, QUARTZ, 1 - labels.mean())
    assert (lower < [found.bulk, found.shear]).all() and ([found.bulk, found.shear] < upper).all()
    empty = elastic_moduli(labels, [QUARTZ[0], 0], [QUARTZ[1], 0])
    assert empty.converged and 0 < empty.bulk < spheres_in(QUARTZ, (0, 0), labels.mean())[0] and empty.shear > 0


def test_phases_of_one_shear_modulus_are_hill_s():
    """Hill, 1963, J. Mech. Phys. Solids 11, 357: with one shear modulus the bulk modulus is exact for any geometry.

    The sides are odd, because the rotated grid has no direction for some of the highest frequencies of even ones.
    """
    labels = np.random.default_rng(1).integers(0, 3, (11, 9, 13)).astype(np.uint8)
    bulk, g = np.array([37.0, 20.0, 5.0]), 15.0
    share = np.bincount(labels.ravel()) / labels.size
    exact = 1 / (share / (bulk + 4 / 3 * g)).sum() - 4 / 3 * g
    found = elastic_moduli(labels, bulk, [g] * 3, tolerance=1e-4)
    assert (found.bulk, found.shear) == pytest.approx((exact, g), rel=1e-3)


def test_turning_the_volume_turns_the_stiffness():
    labels = np.random.default_rng(2).integers(0, 2, (6, 8, 10)).astype(np.uint8)
    labels[2:4] = 0
    a = elastic_moduli(labels, [37, 2], [44, 1], tolerance=1e-4).stiffness
    order = (2, 0, 1)
    b = elastic_moduli(labels.transpose(order), [37, 2], [44, 1], tolerance=1e-4).stiffness
    components = [*order, *(3 + o for o in order)]
    np.testing.assert_allclose(b, a[np.ix_(components, components)], rtol=1e-3, atol=1e-2)


def test_nothing_but_pore_is_without_stiffness():
    found = elastic_moduli(np.zeros((4, 4, 4), np.uint8), [0, 37], [0, 44])
    assert found.bulk == found.shear == 0 and found.converged


def test_a_plane_of_pore_bears_nothing_across_it():
    labels = np.ones((6, 6, 6), np.uint8)
    labels[2] = 0
    found = elastic_moduli(labels, [0, 37], [0, 44])
    assert abs(found.stiffness[0, 0]) < 1e-3 and found.stiffness[1, 1] > 10


def test_the_operator_is_the_orthogonal_projection_on_strains():
    solver = _Homogenisation(torch.ones(6, 5, 8), torch.ones(6, 5, 8))
    a, b = torch.randn((2, 6, 6, 5, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(solver.project(solver.project(a)), solver.project(a), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((a * solver.project(b)).sum(), (b * solver.project(a)).sum(), rtol=1e-3, atol=1e-3)


def test_a_solver_that_gives_up_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        found = elastic_moduli(ball(8, 3), [37, 0], [44, 0], max_iterations=1)
    assert not found.converged and "after 1 iterations" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4), np.uint8), [1], [1]), "3D volume"),
        ((np.zeros((4, 4, 4)), [1], [1]), "whole numbers"),
        ((np.ones((4, 4, 4), np.uint8), [1], [1]), "labels are 1 to 1"),
        ((np.zeros((4, 4, 4), np.uint8), [1, 2], [1]), "one of each"),
        ((np.zeros((4, 4, 4), np.uint8), [-1], [1]), "negative"),
        ((np.zeros((4, 4, 4), np.uint8), [1], [np.nan]), "finite"),
    ],
)
def test_impossible_input_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        elastic_moduli(*arguments)
