"""Two-point correlation along an axis, without periodic images."""

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.metrics import compare_curves, correlation, two_point


def brute_force(array: np.ndarray, phase: int, axis: int, max_lag: int) -> np.ndarray:
    inside = np.moveaxis(array == phase, axis, 0)
    return np.array([np.mean(inside[: len(inside) - lag] & inside[lag:]) for lag in range(max_lag + 1)])


@pytest.mark.parametrize(("shape", "axis"), [((9, 12), 0), ((9, 12), 1), ((7, 8, 9), 0), ((7, 8, 9), 1), ((7, 8, 9), 2)])
@pytest.mark.parametrize("block_voxels", [1 << 22, 40])
def test_equals_a_loop_over_lags(shape, axis, block_voxels, monkeypatch):
    monkeypatch.setattr(correlation, "BLOCK_VOXELS", block_voxels)
    labels = np.random.default_rng(5).integers(0, 3, shape, np.uint8)
    found = two_point(labels, 3, axis, 6)
    np.testing.assert_allclose(found, [brute_force(labels, phase, axis, 6) for phase in range(3)], atol=1e-6)


def test_stripes_of_period_four():
    stripes = np.tile(np.array([0, 0, 1, 1], np.uint8), (3, 25))
    # In-phase pairs start at 2 of 4 places at lag 0, 4, .., 1 of 4 at odd lags, none at lag 2.
    np.testing.assert_allclose(two_point(stripes, 2, 1, 4)[0], [0.5, 25 / 99, 0.0, 24 / 97, 0.5], atol=1e-6)
    np.testing.assert_allclose(two_point(stripes, 2, 0, 2)[0], 0.5, atol=1e-6)


def test_ends_of_a_line_do_not_meet():
    line = np.array([[1, 0, 0, 0, 0, 0, 0, 1]], np.uint8)
    np.testing.assert_allclose(two_point(line, 2, 1, 7)[1], [0.25, 0, 0, 0, 0, 0, 0, 1], atol=1e-6)


def test_images_are_pooled_and_lags_cut_to_the_shortest():
    images = [np.zeros((4, 9), np.uint8), np.ones((4, 6), np.uint8)]
    found = two_point(images, 2, 1, 50)
    lags = np.arange(6)
    np.testing.assert_allclose(found[0], (9 - lags) / (9 - lags + 6 - lags), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_evenly_spaced_lines_estimate_the_same_curve(axis):
    labels = np.random.default_rng(6).integers(0, 2, (40, 40, 40), np.uint8)
    labels[:, :, 20:] = 1
    few = two_point(labels, 2, axis, 5, max_lines=100)  # every 4th line: the same lines by hand
    step = [slice(2, None, 4)] * 3
    step[axis] = slice(None)
    np.testing.assert_allclose(few[0], brute_force(labels[tuple(step)], 0, axis, 5), atol=1e-6)
    np.testing.assert_allclose(few, two_point(labels, 2, axis, 5), atol=0.03)


def test_a_cross_section_thinner_than_the_step_is_still_read():
    labels = np.zeros((1, 1000, 5), np.uint8)
    np.testing.assert_allclose(two_point(labels, 2, 2, 3, max_lines=10)[0], 1.0, atol=1e-6)


def test_porespy_finds_the_same_along_a_line():
    porespy = pytest.importorskip("porespy", reason="the oracle porespy is not installed")
    line = np.random.default_rng(7).integers(0, 2, (1, 64), np.uint8)
    # Its curve is radial, of a single line it is ours; bins of one voxel around each lag.
    theirs = porespy.metrics.two_point_correlation(line == 1, bins=np.arange(-0.5, 20))
    np.testing.assert_allclose(two_point(line, 2, 1, 19)[1], theirs.probability_scaled, atol=1e-6)


def test_curves_are_compared_at_every_lag():
    curve, reference = [[0.5, 0.25, 0.0], [0.5, 0.5, 0.5]], [[0.5, 0.5, 0.25], [0.5, 0.5, 0.0]]
    assert compare_curves(np.array(curve), np.array(reference)) == {"mean": pytest.approx(1.0 / 6), "max": 0.5}
    assert compare_curves(np.array([1, 2], np.uint8), np.array([2, 1], np.uint8)) == {"mean": 1.0, "max": 1.0}  # unsigned does not wrap


def test_curves_that_cannot_be_compared_are_told():
    with pytest.raises(InputError, match="same lags"):
        compare_curves(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="same lags"):
        compare_curves(np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="NaN"):
        compare_curves(np.array([0.5, np.nan]), np.zeros(2))
