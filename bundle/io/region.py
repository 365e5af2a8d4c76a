"""A part of the LR volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bundle.errors import InputError


def region_slices(shape: Sequence[int], region: Sequence[Sequence[int]] | None) -> tuple[slice, ...]:
    """Slices (z, y, x) of a region [[z0, z1], [y0, y1], [x0, x1]] of a volume; None is all of it.

    Raises:
        InputError: not three ranges inside the volume.
    """
    if region is None:
        return tuple(slice(0, n) for n in shape)
    try:
        inside = all(0 <= start < stop <= n for (start, stop), n in zip(region, shape, strict=True))
    except (TypeError, ValueError):  # not three pairs of numbers
        inside = False
    if not inside:
        raise InputError(f"lr_region {region} is not [[z0, z1], [y0, y1], [x0, x1]] inside the LR volume of {tuple(int(n) for n in shape)} voxels")
    return tuple(slice(int(start), int(stop)) for start, stop in region)
