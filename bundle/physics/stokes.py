"""Permeability of a segmented rock: steady Stokes flow through its pore voxels.

The libraries on PyPI for it are lattice-Boltzmann codes made for GPUs, which take thousands of time steps (xlb, lettucecfd, poromics), or work on
pore networks (OpenPNM). So the discretisation is here, and its linear algebra is a library's: SciPy's MINRES with PyAMG's multigrid.

Velocities lie on voxel faces, pressures in voxel centres (Harlow & Welch, 1965, Phys. Fluids 8, 2182). A velocity along a wall vanishes half a
voxel away, on the wall itself: of second order. Between plates h voxels apart the permeability is h² / 12 + 1 / 6 squared voxels instead of h² / 12:
too large by a share of 2 / h² (3 % at 8 voxels, 12 % at 4, three times too large at 1).
"""

import logging
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg, minres

from bundle.errors import InputError, optional
from bundle.physics.percolation import check_volume, percolating

logger = logging.getLogger(__name__)

MILLIDARCY = 9.869233e-4  # µm²
BOUNDARIES = ("mirror", "walls", "periodic")


@dataclass(frozen=True)
class Permeability:
    """What `permeability` finds.

    Attributes:
        um2: permeability in µm²; infinite where all is pore and there are no walls.
        percolates: whether pores lead from one end to the other; where they do not, the permeability is 0.
        flowing: share of the volume that is pore on a path from one end to the other; only there water flows.
        iterations: of the solver.
        residual: of the Stokes equations at the end, relative, in the norm of the preconditioner.
        converged: whether the solver reached its tolerance.
    """

    um2: float
    percolates: bool
    flowing: float
    iterations: int
    residual: float
    converged: bool

    @property
    def millidarcy(self) -> float:
        """Permeability in mD."""
        return self.um2 / MILLIDARCY


def permeability(
    pore: np.ndarray, voxel_size: float, axis: int, boundary: str = "mirror", tolerance: float = 1e-7, max_iterations: int = 1000
) -> Permeability:
    """Permeability along an axis, from Darcy's law and the mean velocity of Stokes flow (no inertia).

    Pores that do not lead from one end to the other are filled first. Sandstone of 64^3 voxels takes seconds, of 128^3 about a minute and 1 GB;
    more where more of it is pore. Narrow pores are too permeable (see above): to see how much, or to compare volumes of different voxel
    sizes, repeat the voxels (`pore.repeat(2, 0).repeat(2, 1).repeat(2, 2)`, half the voxel size).

    Args:
        pore: bool (z, y, x), True where the fluid is.
        voxel_size: edge of a voxel in µm (cubes).
        axis: of the flow, 0 (z), 1 (y) or 2 (x).
        boundary: what is around the sample. "mirror": its mirror image on all sides, which is the same as pressures held at the two ends,
            flow straight through these, and sides along which it slips. "walls": the same ends, sides closed by walls as in a core holder.
            "periodic": the sample itself, again and again.
        tolerance: `rtol` of scipy.sparse.linalg.minres; on Berea sandstone 1e-7 leaves 0.1 % of the permeability or less, 1e-9 1e-6 of it.
        max_iterations: after so many it gives up, with a warning.

    Raises:
        InputError: no 3D volume of booleans, an impossible voxel size, axis or boundary; PyAMG is not installed.
    """
    pore = check_volume(pore, axis, "pore")
    if pore.dtype != bool:
        raise InputError(f"pore holds {pore.dtype}, not booleans: give labels == pore label")
    if not np.isscalar(voxel_size) or not np.isfinite(voxel_size) or voxel_size <= 0:
        raise InputError(f"voxel_size {voxel_size}: must be one positive number in µm")
    if boundary not in BOUNDARIES:
        raise InputError(f"boundary {boundary!r} is none of {', '.join(BOUNDARIES)}")
    periodic = boundary == "periodic"
    open_pore = percolating(pore, axis, periodic)
    if not open_pore.any():
        return Permeability(0.0, False, 0.0, 0, 0.0, True)
    if open_pore.all() and boundary != "walls":
        return Permeability(np.inf, True, 1.0, 0, 0.0, True)  # nothing resists the flow
    flowing = float(open_pore.mean())
    open_pore = np.moveaxis(open_pore, axis, 0)
    if boundary == "walls":
        open_pore = np.pad(open_pore, [(0, 0), (1, 1), (1, 1)])
    velocity, force, iterations, residual, converged = _solve(*_stokes(open_pore, periodic), tolerance, max_iterations)
    if not converged:
        logger.warning("permeability along axis %d: residual still %.1e after %d iterations", axis, residual, iterations)
    return Permeability(float(force @ velocity) / pore.size * voxel_size**2, True, flowing, iterations, residual, converged)


def _solve(
    viscous: sparse.csr_array, divergence: sparse.csr_array, force: np.ndarray, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, int, float, bool]:
    """Solve viscous u - divergence' p = force, divergence u = 0 -> u, force, iterations, residual, converged.

    MINRES with a block-diagonal preconditioner (Elman, Silvester & Wathen, Finite Elements and Fast Iterative Solvers, 2014, ch. 4). The
    pressure's is that of Cahouet & Chabard (1988, Int. J. Numer. Meth. Fluids 8, 869): within a pore the Schur complement is the identity, over
    many pores Darcy flow. The conductance of each face in the latter is the velocity that a uniform force would give without pressure:
    without it, 48^3 of Berea takes 289 iterations instead of 31.
    """
    n, m = viscous.shape[0], divergence.shape[0]
    precondition = _multigrid(viscous)
    conductance, _ = cg(viscous, np.ones(n), M=precondition, rtol=1e-2, maxiter=max_iterations)
    conductance = np.maximum(conductance, 1 / viscous.diagonal())  # an estimate: it must stay positive
    gradient = divergence.T.tocsr()
    darcy = _multigrid((divergence @ sparse.diags_array(conductance) @ gradient).tocsr())

    def stokes(x: np.ndarray) -> np.ndarray:
        return np.concatenate([viscous @ x[:n] - gradient @ x[n:], -(divergence @ x[:n])])

    def inverse(x: np.ndarray) -> np.ndarray:
        return np.concatenate([precondition @ x[:n], x[n:] + darcy @ x[n:]])

    size, steps = (n + m, n + m), []
    b = np.concatenate([force, np.zeros(m)])
    x, info = minres(LinearOperator(size, stokes, dtype=float), b, M=LinearOperator(size, inverse, dtype=float), rtol=tolerance,
                     maxiter=max_iterations, callback=lambda _: steps.append(1))  # fmt: skip
    residual = b - stokes(x)
    relative = float(np.sqrt((residual @ inverse(residual)) / (b @ inverse(b))))
    return x[:n], force, len(steps), relative, info == 0


def _multigrid(matrix: sparse.csr_array) -> LinearOperator:
    """One symmetric V-cycle of smoothed aggregation."""
    pyamg = optional("pyamg", "the permeability needs PyAMG", "physics")
    # Local weights, because the default estimates a spectral radius from random vectors: results would differ from run to run.
    return pyamg.smoothed_aggregation_solver(matrix, smooth=("jacobi", {"weighting": "local"}), max_coarse=200).aspreconditioner()


def _stokes(pore: np.ndarray, periodic: bool) -> tuple[sparse.csr_array, sparse.csr_array, np.ndarray]:
    """Viscous matrix (faces, faces), divergence (cells, faces) and force (faces,) of a flow along axis 0.

    Lengths are in voxels, viscosity and force are 1, so the velocity summed up and divided by the volume is the permeability in squared voxels.
    """
    parts = [_component(pore, axis, periodic) for axis in range(3)]
    viscous, divergence = sparse.block_diag([p[0] for p in parts], format="csr"), sparse.hstack([p[1] for p in parts], format="csr")
    force = np.concatenate([weight * (axis == 0) for axis, (_, _, weight) in enumerate(parts)])
    return sparse.csr_array(viscous), sparse.csr_array(divergence), force


def _component(pore: np.ndarray, axis: int, periodic: bool) -> tuple[sparse.coo_array, sparse.coo_array, np.ndarray]:
    """What the velocities along `axis` add to `_stokes`: viscous matrix, divergence and the weight of every face.

    Along an axis of n voxels lie n faces in a periodic volume, n + 1 in a mirrored one, whose two outermost lie on the mirrors: at the ends
    their control volume is half, at the sides no flow passes.
    """
    before, after = _neighbours(pore, axis, "wrap" if periodic else "edge")
    before, after = (np.concatenate([side, end.take([-1], axis)], axis) for side, end in ((before, pore), (pore, after)))
    if periodic:
        before, after = (side.take(range(pore.shape[axis]), axis) for side in (before, after))
    fluid, solid = before & after, ~(before | after)
    weight = np.ones(fluid.shape)
    if not periodic:
        ends = np.moveaxis(fluid if axis else weight, axis, 0)
        ends[[0, -1]] = 0 if axis else 0.5
    number = _number(fluid)
    weight, own = weight[fluid], np.arange(np.count_nonzero(fluid))
    diagonal, entries = np.zeros(len(own)), []
    for along in range(3):
        mode = "wrap" if periodic else "reflect" if along == axis else "symmetric"
        # In the mirror at an end the flow goes on, so a velocity across it turns round.
        image = -1.0 if not periodic and along == 0 and axis != 0 else 1.0
        sides = zip(_neighbours(number, along, mode), _neighbours(solid, along, mode),
                    _neighbours(np.ones(fluid.shape), along, "constant", constant_values=image), strict=True)  # fmt: skip
        for near, wall, sign in sides:
            near = near[fluid]
            diagonal += weight * (1.0 + wall[fluid])  # a wall is half as far away as a neighbour
            entries.append(_entries(own, near, -(weight * sign[fluid])))
    entries.append((diagonal, (own, own)))
    first, second = (number, np.roll(number, -1, axis)) if periodic else (
        number.take(range(pore.shape[axis]), axis), number.take(range(1, pore.shape[axis] + 1), axis))  # fmt: skip
    cells = np.arange(np.count_nonzero(pore))
    flux = [_entries(cells, first[pore], -np.ones(len(cells))), _entries(cells, second[pore], np.ones(len(cells)))]
    return _matrix(entries, (len(own), len(own))), _matrix(flux, (len(cells), len(own))), weight


def _neighbours(array: np.ndarray, axis: int, mode: str, **padding) -> tuple[np.ndarray, np.ndarray]:
    """The neighbour before and the neighbour after every element along an axis; beyond the ends those of `np.pad`."""
    wide = np.pad(array, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode, **padding)
    n = array.shape[axis]
    return wide.take(range(n), axis), wide.take(range(2, n + 2), axis)


def _number(mask: np.ndarray) -> np.ndarray:
    """0, 1, .. where the mask is True, -1 elsewhere: int32."""
    number = np.full(mask.shape, -1, np.int32)
    number[mask] = np.arange(np.count_nonzero(mask), dtype=np.int32)
    return number


def _entries(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    known = columns >= 0
    return values[known], (rows[known], columns[known])


def _matrix(entries: list, shape: tuple[int, int]) -> sparse.coo_array:
    values = np.concatenate([e[0] for e in entries])
    places = tuple(np.concatenate([e[1][i] for e in entries]).astype(np.int32) for i in (0, 1))
    return sparse.coo_array((values, places), shape)
