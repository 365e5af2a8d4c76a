"""What LR, HR and a part of a volume must agree on."""

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
    if np.shape(region) != (3, 2) or not all(0 <= start < stop <= n for (start, stop), n in zip(region, shape)):
        raise InputError(f"lr_region {region} is not [[z0, z1], [y0, y1], [x0, x1]] inside the LR volume of {tuple(int(n) for n in shape)} voxels")
    return tuple(slice(int(start), int(stop)) for start, stop in region)


def check_ratio(lr_voxel_size: Sequence[float], hr_voxel_size: Sequence[float], scale_factor: int, name: str) -> None:
    """LR over HR voxel size (both µm, same axes) must be the scale factor, within 1 %.

    Raises:
        InputError: it is not.
    """
    ratio = np.asarray(lr_voxel_size, float) / np.asarray(hr_voxel_size, float)
    if not np.allclose(ratio, scale_factor, rtol=0.01):
        raise InputError(
            f"{name}: the LR voxels ({_size(lr_voxel_size)} µm) are {_size(ratio)} times the HR pixels ({_size(hr_voxel_size)} µm), "
            f"but scale_factor is {scale_factor}; correct lr_voxel_size, hr_voxel_size or scale_factor"
        )


def _size(values: Sequence[float]) -> str:
    rounded = [f"{v:.6g}" for v in values]
    return rounded[0] if len(set(rounded)) == 1 else " x ".join(rounded)
