"""Interfacial ("relative surface") area of every pair of phases, by counting voxel faces.

Area of the pair (a, b) = faces with a on one side and b on the other / all interior faces. An (X, Y, Z) volume has
3XYZ - (XY + YZ + ZX) interior faces, an (X, Y) image 2XY - X - Y: per face, so 2D and 3D agree where the rock is isotropic.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bundle.errors import InputError
from bundle.metrics.fractions import Labels, as_arrays, bin_labels, slabs


def phase_pairs(n_phases: int) -> list[tuple[int, int]]:
    """All pairs a < b in the order of every result here: (0, 1), (0, 2), .., (1, 2), .."""
    return list(combinations(range(n_phases), 2))


def face_counts(labels: np.ndarray, n_phases: int) -> np.ndarray:
    """Faces between labels a and b (either way round) normal to each axis of one image or volume -> (ndim, n_phases, n_phases), symmetric.

    The diagonal holds the faces inside a phase, so the upper triangle with it adds up to the interior faces of that axis.

    Raises:
        InputError: a label outside 0..n_phases-1.
    """
    (array,) = as_arrays(labels)
    ordered = np.zeros((array.ndim, n_phases * n_phases), np.int64)
    code = np.uint16 if n_phases * n_phases > 256 else np.uint8
    previous = array[:0]
    for slab in slabs(array):
        bin_labels(slab, n_phases)  # a label out of range would count as another pair
        joined = np.concatenate([previous, slab])  # faces between this slab and the one before
        for axis, part in enumerate([joined] + [slab] * (array.ndim - 1)):
            part = np.moveaxis(part, axis, 0)
            ordered[axis] += np.bincount((part[:-1].astype(code) * code(n_phases) + part[1:].astype(code)).ravel(), minlength=n_phases**2)
        previous = slab[-1:]
    counts = ordered.reshape(-1, n_phases, n_phases)
    return counts + np.swapaxes(counts, 1, 2) - np.einsum("aij,ij->aij", counts, np.eye(n_phases, dtype=np.int64))


def interior_faces(shape: Sequence[int], axis: int) -> int:
    """Faces normal to `axis` between two voxels of an array of this shape."""
    return int(np.prod(shape, dtype=object)) // shape[axis] * (shape[axis] - 1)


def interfacial_areas(labels: Labels, n_phases: int, axes: Sequence[int] | None = None, upsample: int = 1) -> np.ndarray:
    """Area of every pair of `phase_pairs` relative to the interior faces -> (n_phases (n_phases - 1) / 2,).

    Faces and interior faces are each added up over the arrays given, so a list of images is one sample.

    Args:
        labels: a 2D image, a 3D volume or a list of either.
        axes: count faces normal to these array axes only; default all.
        upsample: areas depend on the voxel size: as if every array were first repeated (nearest neighbour) this many times along each
            axis. LR areas fall by about this factor; without it LR and HR values cannot be compared.

    Raises:
        InputError: a label outside 0..n_phases-1, or an array too thin to have a face.
    """
    faces = np.zeros((n_phases, n_phases))
    total = 0
    for array in as_arrays(labels):
        counts = face_counts(array, n_phases)
        fine = [size * upsample for size in array.shape]
        for axis in range(array.ndim) if axes is None else axes:
            # Each coarse face becomes upsample^(ndim-1) fine ones; the new faces inside coarse voxels are never between two phases.
            faces += counts[axis] * float(upsample) ** (array.ndim - 1)
            total += interior_faces(fine, axis)
    if total == 0:
        raise InputError("images or volumes of one voxel have no interfaces")
    return np.array([faces[pair] / total for pair in phase_pairs(n_phases)])
