"""Parts of a volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from bundle.errors import NULL, InputError


def region_slices(shape: Sequence[int], region: Sequence[Sequence[int]] | None) -> tuple[slice, ...]:
    """Slices (z, y, x) of a region [[z0, z1], [y0, y1], [x0, x1]] of a volume; None is all of it.

    Raises:
        InputError: not three ranges inside the volume.
    """
    if region is None:
        return tuple(slice(0, n) for n in shape)
    try:
        inside = all(0 <= start < stop <= n and start == int(start) and stop == int(stop) for (start, stop), n in zip(region, shape, strict=True))
    except (TypeError, ValueError):  # not three pairs of numbers
        inside = False
    if not inside:
        wrong = f"lr_region {region} is not [[z0, z1], [y0, y1], [x0, x1]] inside the LR volume of {tuple(int(n) for n in shape)} voxels"
        raise InputError(f"{wrong}; give such ranges, or {NULL} for all")
    return tuple(slice(int(start), int(stop)) for start, stop in region)


def boxes(shape: Sequence[int], edge: int) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Start and shape (z, y, x) of boxes of `edge` voxels that cover a volume of `shape`; the last ones are cut at its border."""
    for start in product(*(range(0, n, edge) for n in shape)):
        yield start, tuple(min(edge, n - a) for a, n in zip(start, shape))


def replicated(array: np.ndarray, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
    """A box from its first voxel to the one behind its last, which may lie beyond the border: there the border is repeated.

    Args:
        array: (z, y, x), or what gives arrays for slices.
    """
    places = [np.arange(a, b).clip(0, n - 1) for a, b, n in zip(low, high, array.shape)]
    inside = array[tuple(slice(axis[0], axis[-1] + 1) for axis in places)]
    return inside[np.ix_(*(axis - axis[0] for axis in places))]
