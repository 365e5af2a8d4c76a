"""Effective elastic moduli of a segmented rock by FFT homogenisation.

The Lippmann-Schwinger equation (Moulinec & Suquet, 1998, Comput. Methods Appl. Mech. Eng. 157, 69) solved with conjugate gradients (Zeman et
al., 2010, J. Comput. Phys. 229, 8065) on the rotated grid of Willot (2015, C. R. Mecanique 343, 232), which converges with empty pores too.
muSpectre does the like, but is LGPL and has no wheels for Python 3.13 and newer.

The volume is taken to repeat itself along all axes. Stress and strain are six components in Mandel's notation (xx, yy, zz, √2 yz, √2 xz, √2 xy),
here in the order of the array axes: zz, yy, xx, √2 yx, √2 zx, √2 zy.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bundle.errors import InputError
from bundle.physics.percolation import check_volume

logger = logging.getLogger(__name__)

# Bulk and shear modulus, GPa: Mavko, Mukerji & Dvorkin, The Rock Physics Handbook, 2nd ed., 2009, appendix A.4 (minerals); water and air
# as usual at room conditions. "feldspar" is its average feldspar, "clay" Han's clays, both soft compared with single crystals.
MODULI: dict[str, tuple[float, float]] = {
    "quartz": (37.0, 44.0),
    "feldspar": (37.5, 15.0),
    "clay": (25.0, 9.0),
    "calcite": (76.8, 32.0),
    "dolomite": (94.9, 45.0),
    "water": (2.2, 0.0),
    "air": (1.31e-4, 0.0),
}

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # array axes of the six components


@dataclass(frozen=True)
class ElasticModuli:
    """What `elastic_moduli` finds.

    Attributes:
        bulk: effective bulk modulus, GPa: of the isotropic stiffness nearest to `stiffness`, as is `shear`.
        shear: effective shear modulus, GPa.
        stiffness: (6, 6), GPa, in Mandel's notation and the order zz, yy, xx, yx, zx, zy: the three lower right diagonal elements are twice
            the shear moduli.
        iterations: of the six load cases together.
        converged: whether all of them reached the tolerance.
    """

    bulk: float
    shear: float
    stiffness: np.ndarray
    iterations: int
    converged: bool


def elastic_moduli(
    labels: np.ndarray, bulk: Sequence[float], shear: Sequence[float], tolerance: float = 5e-3, max_iterations: int = 1000
) -> ElasticModuli:
    """Effective moduli of a volume of isotropic phases.

    The error of the moduli goes with the square of the tolerance and is a share of the minerals' stiffness: the default leaves 0.01 % of a frame
    of 20 % porosity, but 1 to 2 % of a soft one of 60 %, and grains that do not touch may come out with a modulus a little below 0. Patterns that
    alternate from voxel to voxel are invisible to the rotated grid and come out too stiff. A volume that does not repeat itself has a
    seam at its faces, which counts as rock. Pores of few voxels come out somewhat too soft: the loss of stiffness that a spherical pore of radius 6
    (13) voxels causes is 6 % (3 %) too large.

    Args:
        labels: integers (z, y, x), 0 to n - 1.
        bulk: modulus of each phase, GPa; 0 for an empty one.
        shear: the same; 0 for a fluid.
        tolerance: of the residual stress divergence, relative.
        max_iterations: of a load case; after so many it gives up, with a warning.

    Raises:
        InputError: no 3D volume, a label without moduli, moduli that are negative or not finite.
    """
    labels = check_volume(labels)
    if labels.dtype.kind not in "ui":
        raise InputError(f"labels are {labels.dtype}, not whole numbers")
    moduli = np.array([bulk, shear], float) if len(bulk) == len(shear) else np.empty((2, 0))
    if labels.min() < 0 or labels.max() >= moduli.shape[1]:
        raise InputError(f"labels are {labels.min()} to {labels.max()}, with {len(bulk)} bulk and {len(shear)} shear moduli: one of each a phase")
    if not np.isfinite(moduli).all() or (moduli < 0).any():
        raise InputError(f"bulk {list(bulk)} and shear {list(shear)} moduli: must be finite and not negative")
    present = np.unique(labels)
    first, second = moduli[0] - 2 / 3 * moduli[1], 2 * moduli[1]  # stress = first tr(strain) 1 + second strain
    if not moduli[:, present].any():
        return ElasticModuli(0.0, 0.0, np.zeros((6, 6)), 0, True)
    scale = float(moduli[:, present].max())
    index = torch.from_numpy(labels.astype(np.int64))
    solver = _Homogenisation(*(torch.tensor(values / scale, dtype=torch.float32)[index] for values in (first, second)))
    columns, steps, converged = [], 0, True
    for load in range(6):
        stress, iterations, residual = solver.mean_stress(load, tolerance, max_iterations)
        if residual > tolerance:
            logger.warning("elastic moduli, load case %d: residual still %.1e after %d iterations", load, residual, iterations)
        converged &= residual <= tolerance
        steps += iterations
        columns.append(scale * stress)
    stiffness = np.stack(columns, 1)
    stiffness = (stiffness + stiffness.T) / 2
    trace = stiffness[:3, :3].sum()
    return ElasticModuli(float(trace / 9), float((np.trace(stiffness) - trace / 3) / 10), stiffness, steps, bool(converged))


class _Homogenisation:
    """The volume under a mean strain.

    Args:
        first: Lamé's first parameter (z, y, x), float32.
        second: twice the shear modulus, likewise.
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        self.first, self.second = first, second
        self.direction = _directions(first.shape)

    def stress(self, strain: torch.Tensor) -> torch.Tensor:
        """Hooke's law, (6, z, y, x)."""
        stress = self.second * strain
        stress[:3] += self.first * strain[:3].sum(0)
        return stress

    def project(self, field: torch.Tensor) -> torch.Tensor:
        """The part of a symmetric tensor field that is the strain of a periodic displacement, orthogonal to the rest; it has no mean.

        With n the direction of the frequency and t = field n, it is the symmetric part of n (2 t - n (n t)): Green's operator of a medium
        whose stress is its strain.
        """
        n, root = self.direction, np.sqrt(0.5)
        spectrum = torch.fft.rfftn(field, dim=(1, 2, 3))
        d, (yx, zx, zy) = spectrum[:3], root * spectrum[3:]
        t = torch.stack([d[0] * n[0] + zy * n[1] + zx * n[2], zy * n[0] + d[1] * n[1] + yx * n[2], zx * n[0] + yx * n[1] + d[2] * n[2]])
        t = 2 * t - n * (n * t).sum(0)
        for k, (i, j) in enumerate(PAIRS):
            spectrum[k] = n[i] * t[i] if i == j else root * (n[i] * t[j] + n[j] * t[i])
        return torch.fft.irfftn(spectrum, s=field.shape[1:], dim=(1, 2, 3))

    def mean_stress(self, load: int, tolerance: float, max_iterations: int) -> tuple[np.ndarray, int, float]:
        """Mean stress (6,) under a mean strain whose component `load` is 1; iterations and relative residual of conjugate gradients."""
        strain = torch.zeros((6, *self.first.shape))
        strain[load] = 1
        residual = -self.project(self.stress(strain))
        step, square = residual.clone(), _dot(residual, residual)
        # A homogeneous medium is in balance from the start but for rounding.
        start, iterations = max(square, 1e-10 * _dot(strain, strain)), 0
        while square > tolerance**2 * start and iterations < max_iterations:
            response = self.project(self.stress(step))
            length = square / _dot(step, response)
            strain.add_(step, alpha=length)
            residual.sub_(response, alpha=length)
            old, square = square, _dot(residual, residual)
            step.mul_(square / old).add_(residual)
            iterations += 1
        return self.stress(strain).double().mean((1, 2, 3)).numpy(), iterations, float(np.sqrt(square / start))


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    # float32 products, added up in float64 a plane at a time: exact enough where the sum runs over millions
    return float(torch.einsum("kzyx,kzyx->kz", a, b).double().sum())


def _directions(shape: Sequence[int]) -> torch.Tensor:
    """Unit vectors (3, z, y, x // 2 + 1) of the rotated grid's frequencies (Willot's eq. 24 without its common phase), 0 where it has none."""
    frequency = [np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])]
    sine = np.meshgrid(*(np.sin(np.pi * f) for f in frequency), indexing="ij", sparse=True)
    cosine = np.meshgrid(*(np.where(np.abs(f) == 0.5, 0.0, np.cos(np.pi * f)) for f in frequency), indexing="ij", sparse=True)
    vector = np.stack(np.broadcast_arrays(*(sine[i] * cosine[(i + 1) % 3] * cosine[(i + 2) % 3] for i in range(3))))
    length = np.sqrt((vector**2).sum(0))
    return torch.from_numpy(np.divide(vector, length, out=np.zeros_like(vector), where=length > 0).astype(np.float32))
