"""Permeability against closed forms, a series, a doubled volume and the published drag on spheres."""

import logging

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import InputError
from bundle.physics import MILLIDARCY, permeability
from bundle.physics.percolation import percolating

pytest.importorskip("pyamg")


def sponge(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1) > -0.05


def spheres(n: int, concentration: float) -> np.ndarray:
    """Pore between the spheres of a simple cubic array, one in n^3 voxels."""
    radius = (3 * concentration / (4 * np.pi)) ** (1 / 3) * n
    return ((np.indices((n,) * 3) - (n - 1) / 2) ** 2).sum(0) > radius**2


def drag(concentration: float) -> float:
    """Drag on a sphere of a simple cubic array / Stokes's drag: Sangani & Acrivos, 1982, Int. J. Multiphase Flow 8, 343, dilute series."""
    c = concentration
    return 1 / (1 - 1.7601 * c ** (1 / 3) + c - 1.5593 * c**2 + 3.9799 * c ** (8 / 3) - 3.0734 * c ** (10 / 3))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
def test_flow_between_plates(axis, boundary):
    """h² / 12 times the porosity; the error is 2 / h² of it, so it falls fourfold where the voxels are halved."""
    errors = {}
    for h in (4, 8, 16):
        slit = np.zeros((5, 2 * h, 3), bool)
        slit[:, h // 2 : h // 2 + h] = True
        pore = np.moveaxis(slit, 0, axis)
        found = permeability(pore, 0.5, axis, boundary)
        exact = 0.5 * h**2 / 12 * 0.5**2
        errors[h] = found.um2 / exact - 1
        assert found.percolates and found.converged and found.flowing == 0.5
    np.testing.assert_allclose(list(errors.values()), [2 / h**2 for h in errors], rtol=1e-3)
    assert errors[16] < 0.01


def test_flow_in_a_square_duct_of_walls():
    """White, Viscous Fluid Flow, eq. 3-48, for a square: mean velocity = a² / 12 (1 - 192 / pi^5 sum of tanh(n pi / 2) / n^5)."""
    odd = np.arange(1, 100, 2)
    exact = 1 / 12 * (1 - 192 / np.pi**5 * (np.tanh(odd * np.pi / 2) / odd**5).sum())
    errors = [permeability(np.ones((3, n, n), bool), 1 / n, 0, "walls").um2 / exact - 1 for n in (8, 16)]
    assert abs(errors[1]) < 0.02 and errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("concentration", [0.064, 0.216])
def test_flow_through_a_cubic_array_of_spheres(concentration):
    n = 32
    pore = spheres(n, concentration)
    made = 1 - pore.mean()  # of the sphere of voxels: the exact sphere of that volume is compared
    assert made == pytest.approx(concentration, rel=0.06)
    exact = 1 / (6 * np.pi * (3 * made / (4 * np.pi)) ** (1 / 3) * drag(made))
    # Zick & Homsy, 1982, J. Fluid Mech. 115, 13, table 2
    assert drag(0.064) == pytest.approx(2.810, rel=1e-3) and drag(0.216) == pytest.approx(7.442, rel=0.01)
    assert permeability(pore, 1 / n, 1, "periodic").um2 == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_is_the_volume_and_its_mirror_images(axis):
    pore = sponge((9, 11, 8))
    doubled = pore
    for a in range(3):
        doubled = np.concatenate([doubled, np.flip(doubled, a)], a)
    assert permeability(pore, 1.0, axis, "mirror").um2 == pytest.approx(permeability(doubled, 1.0, axis, "periodic").um2, rel=1e-5)


def test_walls_are_solid_around_the_sides():
    pore = sponge((9, 11, 8))
    boxed = np.pad(pore, ((0, 0), (1, 1), (1, 1)))
    expected = permeability(boxed, 1.0, 0, "mirror").um2 * boxed.size / pore.size
    assert permeability(pore, 1.0, 0, "walls").um2 == pytest.approx(expected, rel=1e-6)


def test_periodic_does_not_care_where_the_period_starts():
    pore = spheres(12, 0.4)
    pore[:3] = spheres(12, 0.2)[:3]
    rolled = np.roll(pore, (5, 3, 7), (0, 1, 2))
    assert permeability(rolled, 1.0, 2, "periodic").um2 == pytest.approx(permeability(pore, 1.0, 2, "periodic").um2, rel=1e-5)


def test_a_dense_solution_of_the_equations_agrees():
    """The same equations written voxel by voxel, solved by least squares."""
    pore = sponge((5, 4, 6), 3)
    shape, faces = pore.shape, {}
    for a in range(3):
        for place in np.ndindex(shape):
            before = tuple((p - (a == b)) % shape[b] for b, p in enumerate(place))
            if pore[place] and pore[before]:
                faces[a, place] = len(faces)
    cells = {place: len(faces) + i for i, place in enumerate(map(tuple, np.argwhere(pore)))}

    def step(place, b, by):
        return tuple((p + by * (b == c)) % shape[c] for c, p in enumerate(place))

    matrix, b = np.zeros((len(faces) + len(cells),) * 2), np.zeros(len(faces) + len(cells))
    for (a, place), row in faces.items():
        for along in range(3):
            for by in (-1, 1):
                other = step(place, along, by)
                if (a, other) in faces:
                    matrix[row, row] += 1
                    matrix[row, faces[a, other]] -= 1
                else:  # a wall half a voxel away, or a face of a wall one voxel away
                    matrix[row, row] += 1 if pore[other] or pore[step(other, a, -1)] else 2
        matrix[row, cells[place]] += 1
        matrix[row, cells[step(place, a, -1)]] -= 1
        b[row] = a == 2
    for place, row in cells.items():
        for a in range(3):
            for sign, face in ((-1, (a, place)), (1, (a, step(place, a, 1)))):
                if face in faces:
                    matrix[row, faces[face]] += sign
    velocity = np.linalg.lstsq(matrix, b, rcond=None)[0]
    expected = sum(velocity[i] for (a, _), i in faces.items() if a == 2) / pore.size
    assert permeability(pore, 1.0, 2, "periodic").um2 == pytest.approx(expected, rel=1e-5)


def test_unit_of_length_and_of_permeability():
    pore = sponge((8, 8, 8))
    fine, coarse = permeability(pore, 1.0, 0), permeability(pore, 3.0, 0)
    assert coarse.um2 == pytest.approx(9 * fine.um2)
    assert fine.millidarcy * MILLIDARCY == pytest.approx(fine.um2) and MILLIDARCY * 1e3 == pytest.approx(0.9869233)


def test_isolated_pores_carry_nothing():
    slit = np.zeros((6, 12, 6), bool)
    slit[:, :4] = True
    alone = permeability(slit, 1.0, 0)
    slit[2:4, 6:9, 2:4] = True
    slit[0, 11, 0] = True
    more = permeability(slit, 1.0, 0)
    assert more.um2 == pytest.approx(alone.um2) and more.flowing == alone.flowing == pytest.approx(1 / 3)


@pytest.mark.parametrize("boundary", ["mirror", "walls", "periodic"])
@pytest.mark.parametrize("pore", [np.zeros((4, 4, 4), bool), np.arange(4)[:, None, None] < np.full((1, 4, 4), 2)])
def test_no_path_no_flow(pore, boundary):
    result = permeability(pore, 1.0, 0, boundary)
    assert result.um2 == 0 and not result.percolates and result.converged


def test_two_strands_of_a_braid_wind_together():
    """Each strand ends where the other begins, so a path reaches its own image after two periods; one strand alone does not."""
    first, second = np.zeros((7, 4, 4), bool), np.zeros((7, 4, 4), bool)
    first[:2, 0, 0] = first[1, 0, :3] = first[1:6, 0, 2] = first[5, :3, 2] = first[5:, 2, 2] = True
    second[:4, 2, 2] = second[3, 2, :3] = second[3, :3, 0] = second[3:, 0, 0] = True
    assert ndimage.label(first | second)[1] == 2
    np.testing.assert_array_equal(percolating(first | second, 0, periodic=True), first | second)
    assert not percolating(first, 0, periodic=True).any() and not percolating(first | second, 1, periodic=True).any()
    np.testing.assert_array_equal(percolating(first, 0), first)
    assert permeability(first | second, 1.0, 0, "periodic").um2 > 1e-4
    assert not permeability(first, 1.0, 0, "periodic").percolates and permeability(first, 1.0, 0, "mirror").percolates


def test_a_path_through_the_side_of_a_periodic_volume():
    """Three pieces that only the period joins, the last a blind one; no piece leads from end to end by itself."""
    pore = np.zeros((6, 3, 5), bool)
    pore[:3, 1, 0] = pore[2:, 1, 4] = pore[0, 1, 4] = pore[0, 1, 3] = True
    assert not percolating(pore, 0).any()
    np.testing.assert_array_equal(percolating(pore, 0, periodic=True), pore)
    centred = np.roll(pore, 2, 2)
    expected = permeability(centred, 1.0, 0, "periodic").um2
    assert expected > 1e-4 and permeability(pore, 1.0, 0, "periodic").um2 == pytest.approx(expected, rel=1e-5)


def test_a_solver_that_gives_up_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        result = permeability(sponge((9, 11, 8)), 1.0, 0, max_iterations=2)
    assert not result.converged and result.residual > 1e-4 and "after 2 iterations" in caplog.text


@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
def test_without_any_wall_the_permeability_is_infinite(boundary):
    result = permeability(np.ones((6, 6, 6), bool), 1.0, 0, boundary)
    assert result.um2 == np.inf and result.percolates and result.converged


def test_the_same_twice():
    pore = sponge((16, 16, 16))
    assert permeability(pore, 1.0, 0) == permeability(pore, 1.0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 4), bool), 1.0, 0), "3D volume"),
        ((np.ones((4, 4, 4), np.uint8), 1.0, 0), "booleans"),
        ((np.ones((4, 4, 4), bool), 0.0, 0), "voxel_size"),
        ((np.ones((4, 4, 4), bool), (1.0, 1.0, 1.0), 0), "voxel_size"),
        ((np.ones((4, 4, 4), bool), 1.0, 3), "axis 3"),
        ((np.ones((4, 4, 4), bool), 1.0, 0, "open"), "boundary"),
    ],
)
def test_impossible_input_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        permeability(*arguments)
