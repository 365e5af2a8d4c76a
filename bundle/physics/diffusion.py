"""Formation factor and tortuosity of a segmented rock: steady conduction (or diffusion) through its phases, solved by taufactor.

taufactor (Kench, Squires & Cooper, 2023, J. Open Source Softw. 8, 5358) holds the two ends at fixed values and lets nothing through the sides.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bundle.errors import InputError, optional
from bundle.physics.percolation import check_volume, percolating

logger = logging.getLogger(__name__)

CHECK_EVERY = 100  # iterations: taufactor has no result before


@dataclass(frozen=True)
class FormationFactor:
    """What `formation_factor` finds.

    Attributes:
        factor: conductivity 1 / effective conductivity, F = 1 / (D_eff / D_0) where one phase conducts with 1; inf where nothing percolates.
        tortuosity: mean conductivity of the volume / effective conductivity (porosity x F where one phase conducts with 1); inf likewise.
        percolates: whether conducting phases lead from one end to the other.
        iterations: of the solver.
        converged: whether the solver reached its tolerance.
    """

    factor: float
    tortuosity: float
    percolates: bool
    iterations: int
    converged: bool


def formation_factor(
    labels: np.ndarray, conductivity: Sequence[float], axis: int, tolerance: float = 1e-3, max_iterations: int = 20000
) -> FormationFactor:
    """Resistance of a volume relative to that of its brine (Archie, 1942, Trans. AIME 146, 54).

    Args:
        labels: integers (z, y, x), 0 to n - 1.
        conductivity: of each phase relative to the brine: 1 for brine, 0 for an insulator, in between for clay. The same function takes
            diffusivities relative to that in free fluid.
        axis: of the current, 0 (z), 1 (y) or 2 (x).
        tolerance: largest difference between the currents through two planes, relative.
        max_iterations: after so many, rounded up to hundreds, it gives up with a warning.

    Raises:
        InputError: no 3D volume, a label without conductivity, a conductivity that is negative or not finite; taufactor is not installed.
    """
    labels = check_volume(labels, axis)
    values = np.asarray(conductivity, float)
    if labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() >= len(values):
        found = f"{labels.dtype}, {labels.min()} to {labels.max()}"
        raise InputError(f"labels ({found}) must be whole numbers 0 to {len(values) - 1}: one conductivity each")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"conductivity {list(conductivity)}: must be finite and not negative")
    path = percolating(values[labels] > 0, axis)
    if not path.any():
        return FormationFactor(np.inf, np.inf, False, 0, True)
    if labels.shape[axis] == 1:  # a sheet: its voxels conduct side by side
        effective = float(values[labels].mean())
        return FormationFactor(1 / effective, 1.0, True, 0, True)
    taufactor = optional("taufactor", "the formation factor needs taufactor", "physics")
    field = np.ascontiguousarray(np.moveaxis(np.where(path, labels + 1, 0), axis, 0))  # taufactor's 0 insulates
    phases = {int(label): float(values[label - 1]) for label in np.unique(field[field > 0])}
    length = field.shape[0]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its warnings
        if len(set(phases.values())) == 1:  # much the faster of its two solvers
            (value,) = set(phases.values())
            solver = taufactor.Solver((field > 0).astype(np.uint8), device="cpu")
            added, end = 0.0, 0
        else:
            # This solver continues the outermost planes by half a voxel, a bias of one voxel of the length. Planes of an excellent conductor
            # at the ends take its place; their resistance is known and taken off.
            value, metal, added = 1.0, len(values) + 1, 100 * max(phases.values())
            field, end = np.pad(field, [(1, 1), (0, 0), (0, 0)], constant_values=metal), 3
            solver = taufactor.MultiPhaseSolver(field, cond={**phases, metal: added}, device="cpu")
        solver.solve(iter_limit=-(-max_iterations // CHECK_EVERY) * CHECK_EVERY, verbose=False, conv_crit=tolerance)
    resistance = (length + end) / float(np.ravel(solver.D_eff)[0]) - (end / added if end else 0)
    effective = value * length / resistance
    if not solver.converged:
        logger.warning("formation factor along axis %d: not converged after %d iterations", axis, solver.iter)
    return FormationFactor(1 / effective, float(values[labels].mean()) / effective, True, solver.iter, bool(solver.converged))
