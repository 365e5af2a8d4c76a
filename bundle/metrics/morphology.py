"""Morphology of one phase: lineal path, chords, pore sizes, Euler number, percolation, specific surface.

A phase is a mask, True where it is: `labels == 0`, a 2D image (y, x) or a 3D volume (z, y, x). Neighbours are voxels that share a face (6 in 3D, 4 in
2D), for the Euler number as for the percolation.
"""

import logging
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np
import torch
from scipy import ndimage

from bundle.errors import InputError, optional
from bundle.io.volume import are_cubes, as_voxel_size
from bundle.metrics.correlation import line_blocks
from bundle.metrics.fractions import slabs
from bundle.metrics.interfaces import face_counts, interior_faces

VoxelSize = float | Sequence[float]


def lineal_path(mask: np.ndarray, axis: int, max_lag: int) -> np.ndarray:
    """Lineal-path function L(r) along one array axis, non-periodic -> (lags,), lag r = 0, 1, .., max_lag voxels.

    L(r) = probability that a segment between the centres of two voxels r apart along the axis lies wholly in the phase, that is, that all r + 1
    voxels from one to the other are of it (Lu & Torquato, Phys. Rev. A 45, 922, 1992). Lags are those of `two_point`: L(0) = S2(0) is the volume
    fraction and L(r) <= S2(r). A run of n voxels holds n - r of the N - r segments of a line of N voxels.

    Args:
        mask: True where the phase is.
        axis: array axis along which r is measured.
        max_lag: largest lag in voxels; cut to what the array allows.

    Raises:
        InputError: not a boolean image or volume.
    """
    mask = _as_mask(mask)
    length = mask.shape[axis]
    whole, cut = run_lengths(mask, axis)
    runs = whole + cut  # a run cut by the border still holds all its segments
    lags = np.arange(min(max_lag, length - 1) + 1)
    inside = np.array([runs[lag + 1 :] @ np.arange(1, length - lag + 1) for lag in lags])
    return inside / ((length - lags) * (mask.size // length))


def half_path(mask: np.ndarray, axis: int, voxel_size: VoxelSize = 1.0) -> float | None:
    """Length of the segments along an array axis that lie wholly in the phase half as often as its points do, µm: where L(r) = L(0) / 2.

    Linear between lags. None where the phase is absent, or L falls to no half within the volume.
    """
    path = lineal_path(mask, axis, mask.shape[axis] - 1)
    below = np.flatnonzero(path <= path[0] / 2)
    if path[0] == 0 or below.size == 0:
        return None
    lag = int(below[0])
    part = (path[lag - 1] - path[0] / 2) / (path[lag - 1] - path[lag])
    return float((lag - 1 + part) * as_voxel_size(voxel_size, n_axes=mask.ndim)[axis])


def chord_lengths(mask: np.ndarray, axis: int, voxel_size: VoxelSize = 1.0) -> dict:
    """Distribution of the chords of the phase along one array axis: runs of its voxels between two voxels of others.

    Chords that the border cuts are left out, for nobody knows how long they are. Long ones are cut more often, so the mean falls short where chords
    are not small against the volume; `left_out` tells how much of the phase is not seen. (All lines are read. porespy's `apply_chords` takes a
    quarter of them in 3D and drops whole chords in the outer planes with the cut ones.)

    Args:
        mask: True where the phase is.
        axis: array axis along the chords.
        voxel_size: µm, a number or one an axis.

    Returns:
        `length`: (N + 1,), 0 to N voxels in µm; `probability`: (N + 1,), share of the chords, by number, that are so long; `mean`: µm; `chords`:
        their number; `left_out`: share of the phase in cut chords. Without a whole chord `probability` and `mean` are None, without the phase
        `left_out` too.

    Raises:
        InputError: not a boolean image or volume, or no voxel size.
    """
    mask = _as_mask(mask)
    size = as_voxel_size(voxel_size, n_axes=mask.ndim)[axis]
    whole, cut = run_lengths(mask, axis)
    voxels = np.arange(whole.size)
    chords, inside, outside = int(whole.sum()), int(whole @ voxels), int(cut @ voxels)
    return {
        "length": voxels * size,
        "probability": whole / chords if chords else None,
        "mean": inside / chords * size if chords else None,
        "chords": chords,
        "left_out": outside / (inside + outside) if inside + outside else None,
    }


def pore_sizes(mask: np.ndarray, voxel_size: VoxelSize = 1.0) -> dict | None:
    """Pore-size distribution by volume: the radius of the largest inscribed ball that covers a voxel (porespy's local thickness, whole voxels).

    The border is no wall: pores that it cuts are measured as far as they are seen.

    Args:
        mask: True where the phase is.
        voxel_size: µm; porespy measures in voxels, so all axes must be alike.

    Returns:
        `radius`: (sizes,) in µm, 1, 2, .. voxels; `probability`: (sizes,), share of the phase; `mean`: µm, by volume. None where the phase is absent
        or fills all, as then nothing bounds a ball.

    Raises:
        InputError: not a boolean image or volume, voxels that are no cubes, or porespy is absent.
    """
    mask = _as_mask(mask)
    size = as_voxel_size(voxel_size, n_axes=mask.ndim)
    if not are_cubes(size):
        raise InputError(f"pore sizes need cubic voxels, got {size} µm: resample the volume")
    if mask.all() or not mask.any():
        return None
    threads = torch.get_num_threads()
    try:
        radii = _lab("porespy").filters.local_thickness(mask)[mask].astype(np.int64)
    finally:
        torch.set_num_threads(threads)  # porespy's numba sets OpenMP to all cores, whatever OMP_NUM_THREADS says: torch would be ten times as slow
    probability = np.bincount(radii)[1:] / radii.size
    radius = np.arange(1, probability.size + 1) * size[0]
    return {"radius": radius, "probability": probability, "mean": float(radius @ probability)}


def euler_number(mask: np.ndarray, voxel_size: VoxelSize = 1.0) -> dict:
    """Euler number: clusters - loops + enclosed cavities in 3D, clusters - holes in 2D, of face neighbours (scikit-image).

    A loop ("redundant connection") lowers it by one, so a well-connected pore space has a negative one. The mask counts as it is cut by the border.
    Read slab by slab: X(A u B) = X(A) + X(B) - X(A n B), where two slabs share a plane.

    Returns:
        `number`; `density`: number per µm³ (per µm² of an image); `connectivity`: neighbours of a voxel, 6 or 4.

    Raises:
        InputError: not a boolean image or volume, or scikit-image is absent.
    """
    mask = _as_mask(mask)
    measure = _lab("skimage.measure", "scikit-image")
    size = as_voxel_size(voxel_size, n_axes=mask.ndim)
    number = 0
    for slab, shared in _overlapping(mask):
        number += measure.euler_number(slab, 1) - (measure.euler_number(slab[:1], 1) if shared else 0)
    return {"number": int(number), "density": float(number / (mask.size * np.prod(size))), "connectivity": 2 * mask.ndim}


def connected_fraction(mask: np.ndarray) -> list[float | None]:
    """Connected porosity: along each array axis the share of the phase in clusters of face neighbours that touch both faces.

    Returns:
        One number an axis, 0.0 where no cluster percolates; None where the phase is absent. Multiply by the porosity for a share of the volume.

    Raises:
        InputError: not a boolean image or volume.
    """
    mask = _as_mask(mask)
    clusters, n_clusters = ndimage.label(mask)
    if n_clusters == 0:
        return [None] * mask.ndim
    sizes = sum(np.bincount(slab.ravel(), minlength=n_clusters + 1) for slab in slabs(clusters))  # bincount widens to 8 bytes
    sizes[0] = 0  # what is not the phase
    faces = [(clusters.take(0, axis), clusters.take(-1, axis)) for axis in range(mask.ndim)]
    return [float(sizes[np.intersect1d(first, last)].sum() / sizes.sum()) for first, last in faces]


def specific_surface(mask: np.ndarray, voxel_size: VoxelSize = 1.0) -> dict[str, float]:
    """Surface of the phase per volume of the sample, µm² per µm³, by marching cubes (scikit-image, Lewiner) and by counting voxel faces.

    The border is no surface. Each is divided by the volume that it can see: the cells between voxel centres, and for the faces normal to an axis the
    interior ones. Of a smooth isotropic surface faces find 1.5 times the area however small the voxels, marching cubes 1.09
    times (1.14 where voxels are 0.5 x 1 x 1.25 µm).

    Args:
        mask: True where the phase is, (z, y, x) and at least 2 voxels along each axis.
        voxel_size: µm, a number or (z, y, x).

    Raises:
        InputError: no 3D boolean volume or one too thin, or scikit-image is absent.
    """
    mask = _as_mask(mask)
    if mask.ndim != 3 or min(mask.shape) < 2:
        raise InputError(f"specific surface needs a 3D volume of 2 voxels or more along each axis, got shape {mask.shape}")
    measure = _lab("skimage.measure", "scikit-image")
    size = as_voxel_size(voxel_size)
    area = 0.0
    for slab, _ in _overlapping(mask):
        if len(slab) > 1 and slab.any() and not slab.all():
            vertices, triangles, _, _ = measure.marching_cubes(slab.astype(np.float32), 0.5, spacing=size)
            area += float(measure.mesh_surface_area(vertices, triangles))
    cells = np.prod([(n - 1) * edge for n, edge in zip(mask.shape, size, strict=True)])
    counts = face_counts(mask.view(np.uint8), 2)[:, 0, 1]
    faces = sum(counts[axis] / interior_faces(mask.shape, axis) / size[axis] for axis in range(3))
    return {"marching_cubes": area / float(cells), "faces": float(faces)}


def run_lengths(mask: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of True along an axis by their length in voxels, each (N + 1,) int64: whole ones, and those that touch the border."""
    length = mask.shape[axis]
    whole, cut = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64)
    for lines in line_blocks(mask, axis, None):
        steps = np.diff(np.pad(lines, ((0, 0), (1, 1))).view(np.int8), axis=1)
        first, behind = np.nonzero(steps == 1)[1], np.nonzero(steps == -1)[1]  # both run line by line, so they pair up
        at_border = (first == 0) | (behind == length)
        whole += np.bincount((behind - first)[~at_border], minlength=length + 1)
        cut += np.bincount((behind - first)[at_border], minlength=length + 1)
    return whole, cut


def _overlapping(mask: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Slabs along axis 0, each from the second on with the last plane of the one before in front, and whether it has it."""
    previous = mask[:0]
    for slab in slabs(mask):
        yield np.concatenate([previous, slab]), len(previous) > 0
        previous = slab[-1:]


def _as_mask(mask: np.ndarray) -> np.ndarray:
    if mask.dtype != bool or mask.ndim not in (2, 3) or mask.size == 0:
        raise InputError(f"a phase is a boolean 2D image or 3D volume (labels == phase), got {mask.dtype} of shape {mask.shape}")
    return mask


def _lab(module: str, package: str | None = None) -> ModuleType:
    """An optional library of the extra [lab]; porespy puts a handler on the root logger when it is imported, which is taken off again."""
    handlers = logging.root.handlers[:]
    try:
        return optional(module, f"this measure needs {package or module}", "lab")
    finally:
        logging.root.handlers[:] = handlers
