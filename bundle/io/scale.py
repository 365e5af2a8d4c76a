"""Voxel sizes of LR and HR against the scale factor."""

from collections.abc import Sequence

import numpy as np

from bundle.errors import InputError
from bundle.io.volume import as_voxel_size


def check_scale(lr_voxel_size: Sequence[float], hr_voxel_size: float | Sequence[float] | None, scale_factor: int) -> None:
    """Compare the ratio of two voxel sizes, (z, y, x) or a number in µm, with the scale factor; an unknown HR size passes.

    Raises:
        InputError: the ratio is off by more than 1 % on an axis.
    """
    if hr_voxel_size is None:
        return
    lr, hr = np.array(as_voxel_size(lr_voxel_size, "lr_voxel_size")), np.array(as_voxel_size(hr_voxel_size, "hr_voxel_size"))
    for axis, ratio in zip("zyx", lr / hr):
        if not np.isclose(ratio, scale_factor, rtol=0.01):
            raise InputError(
                f"LR and HR voxel sizes ({_micrometres(lr)} and {_micrometres(hr)} µm) have a ratio of {ratio:.4g} along {axis}, but "
                f"scale_factor is {scale_factor}; correct lr_voxel_size, hr_voxel_size or scale_factor"
            )


def _micrometres(size: np.ndarray) -> str:
    return " x ".join(f"{v:.6g}" for v in (size[:1] if np.ptp(size) == 0 else size))
