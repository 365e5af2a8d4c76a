"""Coarser copies of a volume, for viewers."""

from __future__ import annotations

import numpy as np


def majority_pyramid(labels: np.ndarray, n_phases: int, levels: int) -> list[np.ndarray]:
    """Label volumes 2, 4, 8, … times coarser: the label that most voxels of a block hold; of those that hold equally many that of its first voxel,
    if it is one of them, else the lowest.

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
    counts = _phase_counts(labels, n_phases)
    pyramid = [_most(counts, labels[::2, ::2, ::2])]
    for level in range(2, levels + 1):
        counts = np.stack([_halved(count.astype(np.uint16, copy=False)) for count in counts])
        pyramid.append(_most(counts, labels[(slice(None, None, 2**level),) * 3]))
    return pyramid


def mean_pyramid(values: np.ndarray, levels: int) -> list[np.ndarray]:
    """Volumes 2, 4, 8, … times coarser: the mean of a block, to the nearest whole number.

    Args:
        values: uint8 (z, y, x); a last block that the volume only partly fills counts what there is.
        levels: of the pyramid beyond the volume itself.

    Returns:
        uint8 arrays of ceil(n / 2^k) voxels along each axis, k = 1, 2, …
    """
    total, pyramid = values.astype(np.float32), []
    for level in range(1, levels + 1):
        total = _halved(total)
        z, y, x = (np.minimum(2**level, n - 2**level * np.arange(coarse)) for n, coarse in zip(values.shape, total.shape))
        voxels = z[:, None, None] * y[:, None] * x  # in each block
        pyramid.append(np.rint(total / voxels).astype(np.uint8))
    return pyramid


def _phase_counts(labels: np.ndarray, n_phases: int) -> np.ndarray:
    """Voxels of each phase in blocks of 2^3: uint8 (phases, ceil(z / 2), ceil(y / 2), ceil(x / 2)).

    Two planes at a time, which stay in the processor's cache, and without a step along x: numpy is four times faster so.
    """
    depth, height, width = (-(-n // 2) for n in labels.shape)
    counts = np.zeros((n_phases, depth, height, width), np.uint8)
    pair = np.full((2, 2 * height, 2 * width), 255, np.uint8)  # voxels beyond the border are of no phase
    for z in range(depth):
        planes = labels[2 * z : 2 * z + 2]
        pair[len(planes) :] = 255
        pair[: len(planes), : planes.shape[1], : planes.shape[2]] = planes
        for phase in range(n_phases):
            same = (pair == phase).view(np.uint8)
            column = same[0] + same[1]
            neighbours = (column[::2] + column[1::2]).view("<u2")  # two along x in the bytes of one word
            np.add(neighbours & 0xFF, neighbours >> 8, out=counts[phase, z], casting="unsafe")
    return counts


def _most(counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """`counts.argmax(0)` as uint8, ten times faster for few phases; `first` where its count is as large."""
    most, label = counts[0].copy(), np.zeros(counts.shape[1:], np.uint8)
    for phase in range(1, len(counts)):
        np.putmask(label, counts[phase] > most, np.uint8(phase))
        np.maximum(most, counts[phase], out=most)
    for phase in range(1, len(counts)):
        np.putmask(label, (first == phase) & (counts[phase] == most), np.uint8(phase))
    return label


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
