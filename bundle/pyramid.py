"""Coarser copies of a label volume by majority, for viewers."""

from __future__ import annotations

import numpy as np


def majority_pyramid(labels: np.ndarray, n_phases: int, levels: int) -> list[np.ndarray]:
    """Label volumes 2, 4, 8, … times coarser: the label that most voxels of a block hold, the lowest of those that hold equally many.

    Counted in the finest voxels at every level: a majority of majorities may be another.

    Args:
        labels: uint8 (z, y, x); a last block that the volume only partly fills counts what there is.
        n_phases: number of labels.
        levels: of the pyramid beyond the volume itself; 5 at most, where a block has 2^15 voxels.

    Returns:
        uint8 arrays of ceil(n / 2^k) voxels along each axis, k = 1, 2, …
    """
    if not levels:
        return []
    shape = tuple(-(-n // 2) for n in labels.shape)
    counts = np.empty((n_phases, *shape), np.uint8)
    for z in range(shape[0]):  # two planes at a time stay in the cache
        planes = labels[2 * z : 2 * z + 2]
        for phase in range(n_phases):
            counts[phase, z] = _halved((planes == phase).view(np.uint8))[0]
    pyramid = []
    for level in range(levels):
        if level:
            counts = np.stack([_halved(count.astype(np.uint16, copy=False)) for count in counts])
        pyramid.append(counts.argmax(0).astype(np.uint8))
    return pyramid


def _halved(x: np.ndarray) -> np.ndarray:
    """Sums of blocks of 2^3, zeros beyond the end: (z, y, x) -> (ceil(z / 2), ceil(y / 2), ceil(x / 2))."""
    for axis in range(3):
        first, second = x[_every(0, axis)], x[_every(1, axis)]
        total = first.copy()
        total[_until(second.shape[axis], axis)] += second
        x = total
    return x


def _every(start: int, axis: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, None, 2),)


def _until(stop: int, axis: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(0, stop),)
