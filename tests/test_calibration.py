"""Which generated images are kept: the constrained entropy problem, solved by another method."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from bundle.calibration import MOST, PULL, calibrate


def skewed(number: int, seed: int = 0) -> np.ndarray:
    """Statistics that hang together and differ in size, as fractions and areas do."""
    rng = np.random.default_rng(seed)
    return rng.gamma(1.5, size=(number, 3)) @ np.array([[0.2, 0.01, 0.0], [0.0, 0.004, 0.001], [0.1, 0.0, 0.002]])


def test_weights_are_those_of_least_relative_entropy():
    values = skewed(60)
    wanted = values.mean(0) * [1.1, 0.85, 1.2]
    x = (values - wanted) / values.std(0)

    def entropy(w: np.ndarray) -> float:  # the pull to equal weights is a charge on what the means are off
        off = w @ x / len(w)
        return float(np.sum(w * np.log(w + 1e-300)) / len(w) + off @ off / (2 * PULL))

    mean_one = {"type": "eq", "fun": lambda w: w.mean() - 1}
    options = {"maxiter": 1000, "ftol": 1e-14}
    found = minimize(entropy, np.ones(60), bounds=[(1e-9, MOST)] * 60, constraints=mean_one, method="SLSQP", options=options)
    assert found.success
    weights = MOST * calibrate(values, wanted).chance(values)
    np.testing.assert_allclose(weights, found.x, atol=2e-3)
    assert weights.max() == pytest.approx(MOST)  # the bound matters here


def test_kept_images_have_the_wanted_means():
    values, rng = skewed(20000), np.random.default_rng(1)
    wanted = values.mean(0) * [0.9, 1.05, 1.1]
    calibration = calibrate(values, wanted)
    np.testing.assert_allclose(calibration.means(values), wanted, rtol=0.02)
    others = skewed(20000, seed=5)
    kept = others[rng.random(len(others)) < calibration.chance(others)]
    assert len(kept) / len(others) == pytest.approx(1 / MOST, rel=0.05)
    np.testing.assert_allclose(kept.mean(0), wanted, rtol=0.05)


def test_a_small_shift_of_normal_values_is_a_linear_tilt():
    # For normal values exp(tilt · x) shifts the mean by covariance · tilt (closed form); the bound of 4 hardly matters.
    rng = np.random.default_rng(0)
    values = rng.multivariate_normal([1.0, 2.0], [[0.5, 0.2], [0.2, 0.3]], size=200000)
    shift = np.array([0.1, -0.05])
    found = calibrate(values, values.mean(0) + shift)
    np.testing.assert_allclose(found.tilt, np.linalg.solve([[0.5, 0.2], [0.2, 0.3]], shift), rtol=0.05)


def test_alike_already_keeps_all_alike():
    values = skewed(500)
    np.testing.assert_allclose(calibrate(values, values.mean(0)).chance(values), 1 / MOST, rtol=1e-4)


def test_what_no_image_has_leaves_finite_chances():
    values = np.column_stack([skewed(300)[:, 0], np.zeros(300)])
    chance = calibrate(values, np.array([10.0, 0.3])).chance(values)
    assert np.isfinite(chance).all() and 0 < chance.max() <= 1
    order = np.argsort(values[:, 0])
    assert chance[order[-75:]].mean() > 0.9 > 0.1 > chance[order[:150]].mean()  # the quarter that is nearest to it
