"""Which generated images are kept, so that together they hold what the real ones hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

MOST = 4.0  # times as many as were made of the images that are too rare: at least one in four is kept
PULL = 0.01  # to keeping all alike: it bounds the choice where no images have what is wanted


@dataclass(frozen=True)
class Calibration:
    """Keeps an image with a chance that depends on its statistics.

    Args:
        tilt: (S,) change of the logarithm of the chance per unit of each statistic.
        level: logarithm of the chance of an image whose statistics are all 0.
    """

    tilt: np.ndarray
    level: float

    def chance(self, values: np.ndarray) -> np.ndarray:
        """Of being kept, 0 to 1, for images of statistics (..., S)."""
        return np.exp(np.minimum(values @ self.tilt + self.level, 0.0))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means (S,) of the images that are kept, as expected from those of statistics (N, S)."""
        chance = self.chance(values)
        return chance @ values / chance.sum()


def calibrate(values: np.ndarray, wanted: np.ndarray) -> Calibration:
    """The choice that gives the wanted means and changes the images' distribution least.

    Of all weights between 0 and `MOST` with mean 1 under which the statistics have the wanted means, those of least relative entropy are
    min(MOST, exp(tilt · statistics + level)); tilt and level minimise the convex dual (Csiszár 1975, Annals of Probability 3, 146-158). A weight
    divided by `MOST` is the chance of an image to be kept.

    Args:
        values: (N, S) statistics of images as they come.
        wanted: (S,) means of the real images.
    """
    scale = values.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    x = np.column_stack([(values - wanted) / scale, np.ones(len(values))])
    pulled = np.append(np.full(len(wanted), PULL), 0.0)

    def dual(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        exponent = x @ parameters
        weights = np.exp(np.minimum(exponent, np.log(MOST)))
        price = weights + MOST * np.maximum(exponent - np.log(MOST), 0.0)
        gradient = weights @ x / len(x) + pulled * parameters
        gradient[-1] -= 1.0
        return price.mean() - parameters[-1] + 0.5 * pulled @ parameters**2, gradient

    found = minimize(dual, np.zeros(x.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-6}).x
    tilt = found[:-1] / scale
    return Calibration(tilt, float(found[-1] - tilt @ wanted - np.log(MOST)))
