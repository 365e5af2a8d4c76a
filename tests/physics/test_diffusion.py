"""Formation factor against closed forms and, for a porous volume, a direct solution of its resistor network."""

import logging

import numpy as np
import pytest
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from bundle.errors import InputError
from bundle.physics import formation_factor

pytest.importorskip("taufactor")


def network(conductivity: np.ndarray) -> float:
    """Effective conductivity along axis 0 of resistors between voxel centres, the ends half a voxel from the outermost."""
    n, number = conductivity.size, np.arange(conductivity.size).reshape(conductivity.shape)
    rows, columns, values = [], [], []
    for axis in range(3):
        a, b = (np.moveaxis(x, axis, 0) for x in (number, conductivity))
        with np.errstate(divide="ignore"):
            link = 2 / (1 / b[:-1] + 1 / b[1:])
        rows.append(a[:-1].ravel()), columns.append(a[1:].ravel()), values.append(link.ravel())
    links = sparse.coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (n, n)).tocsr()
    links = links + links.T
    ends = np.zeros(conductivity.shape)
    ends[0] += 2 * conductivity[0]
    ends[-1] += 2 * conductivity[-1]
    source = np.zeros(conductivity.shape)
    source[0] = 2 * conductivity[0]
    total = np.asarray(links.sum(1)).ravel() + ends.ravel()
    matrix = sparse.diags_array(total + 1e-9) - links  # isolated clusters would be singular
    potential = spsolve(matrix.tocsc(), source.ravel()).reshape(conductivity.shape)
    flow = (2 * conductivity[0] * (1 - potential[0])).sum()
    return flow * conductivity.shape[0] / conductivity[0].size


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_straight_channels(axis):
    labels = np.zeros((12, 8, 6), np.uint8)
    labels[:, 2:4] = 1
    found = formation_factor(np.moveaxis(labels, 0, axis), [0.0, 1.0], axis)
    assert found.percolates and found.converged
    assert (found.factor, found.tortuosity) == pytest.approx((4, 1), rel=1e-3)
    assert formation_factor(np.moveaxis(labels, 0, axis), [0.0, 0.25], axis).factor == pytest.approx(16, rel=1e-3)


def test_laminate_in_series_and_in_parallel():
    labels = np.zeros((20, 8, 8), np.uint8)
    labels[:5] = 1
    assert formation_factor(labels, [1.0, 0.1], 0).factor == pytest.approx(0.75 + 0.25 / 0.1, rel=0.02)
    assert formation_factor(labels, [1.0, 0.1], 1).factor == pytest.approx(1 / (0.75 + 0.25 * 0.1), rel=1e-3)


@pytest.mark.parametrize("conductivity", [0.0, 0.1, 5.0])
def test_dilute_spheres_are_maxwell_s(conductivity):
    """Maxwell, 1873, art. 314."""
    n = 24
    labels = (((np.indices((n,) * 3) - (n - 1) / 2) ** 2).sum(0) < 5.5**2).astype(np.uint8)
    c, beta = labels.mean(), (conductivity - 1) / (conductivity + 2)
    exact = (1 - c * beta) / (1 + 2 * c * beta)
    assert formation_factor(labels, [1.0, conductivity], 2).factor == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("clay", [0.0, 0.2])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_resistor_network_agrees(clay, axis):
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((14, 12, 13)), 1)
    labels = np.digitize(field, [-0.05, 0.1]).astype(np.uint8)  # quartz, clay, pore
    values = np.array([0.0, clay, 1.0])
    effective = network(np.moveaxis(values[labels], axis, 0))
    found = formation_factor(labels, values, axis)
    assert found.factor == pytest.approx(1 / effective, rel=0.02)
    assert found.tortuosity == pytest.approx(values[labels].mean() / effective, rel=0.02)


@pytest.mark.parametrize("labels", [np.zeros((6, 6, 6), np.uint8), np.eye(6, dtype=np.uint8)[:, :, None].repeat(6, 2)])
def test_no_path_is_infinite_and_said(labels, capsys):
    found = formation_factor(labels, [0.0, 1.0], 0)
    assert np.isinf(found.factor) and np.isinf(found.tortuosity) and not found.percolates
    assert capsys.readouterr().out == ""


def test_a_solver_that_gives_up_says_so(caplog, capsys):
    labels = (ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((24, 12, 12)), 1) > 0).astype(np.uint8)
    with caplog.at_level(logging.WARNING):
        found = formation_factor(labels, [0.0, 1.0], 0, max_iterations=3)
    assert not found.converged and "after 100 iterations" in caplog.text and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 4), np.uint8), [1.0], 0), "3D volume"),
        ((np.ones((4, 4, 4), np.uint8), [1.0], 0), "one conductivity each"),
        ((np.zeros((4, 4, 4)), [1.0], 0), "whole numbers"),
        ((np.zeros((4, 4, 4), np.uint8), [-1.0], 0), "negative"),
        ((np.zeros((4, 4, 4), np.uint8), [1.0], 5), "axis 5"),
    ],
)
def test_impossible_input_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        formation_factor(*arguments)


def test_a_sheet_conducts_side_by_side():
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 0] = 1
    result = formation_factor(labels, [1.0, 0.5], 0)
    assert result.factor == pytest.approx(1 / (0.75 + 0.25 * 0.5)) and result.converged
