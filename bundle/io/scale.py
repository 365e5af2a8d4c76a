"""Voxel sizes of LR and HR against the scale factor."""

from collections.abc import Sequence

import numpy as np

from bundle.errors import InputError
from bundle.io.volume import are_cubes, as_voxel_size, size_text

FACTORS = (2, 4, 8, 16, 32)
"""Scale factors that the levels of x2 can make."""


def doublings(scale_factor: int) -> int:
    """How often an LR voxel is halved along each axis.

    Raises:
        InputError: `scale_factor` is not 2, 4, 8, 16 or 32.
    """
    if scale_factor not in FACTORS:
        known = ", ".join(map(str, FACTORS))
        raise InputError(f"scale_factor: {scale_factor} is none of {known}; resample the HR images to an LR voxel size divided by one of them")
    return FACTORS.index(scale_factor) + 1


def check_network(made: int, scale_factor: int) -> None:
    """The generator of a configuration must make voxels as many times finer as its `scale_factor` says.

    Raises:
        InputError: it does not.
    """
    if made != scale_factor:
        raise InputError(f"network_def makes voxels {made} times finer, but scale_factor is {scale_factor}; correct one of them")


def check_ratio(lr_voxel_size: Sequence[float], hr_voxel_size: Sequence[float], scale_factor: int, name: str = "voxel sizes") -> None:
    """LR over HR voxel size (µm, the same axes) must be the scale factor on every axis, within 1 %.

    Raises:
        InputError: it is not.
    """
    ratio = np.asarray(lr_voxel_size, float) / np.asarray(hr_voxel_size, float)
    if not np.allclose(ratio, scale_factor, rtol=0.01):
        raise InputError(
            f"{name}: the LR voxels ({_size(lr_voxel_size)} µm) are {_size(ratio)} times the HR pixels ({_size(hr_voxel_size)} µm), "
            f"but scale_factor is {scale_factor}; correct lr_voxel_size, hr_voxel_size or scale_factor"
        )


def check_one_set(voxel_size: Sequence[float], of: str, name: str) -> None:
    """One set of images shows planes across every axis alike, so voxels (z, y, x) must be cubes.

    Args:
        voxel_size: µm.
        of: what the voxels are of, for the message: LR or SR.
        name: of the images, for the message.

    Raises:
        InputError: they are not.
    """
    if not are_cubes(voxel_size):
        raise InputError(
            f"{name}: one set of images stands for all planes, but {of} voxels are {size_text(voxel_size)} µm; "
            "give one set a plane ({xy: .., xz: .., yz: ..})"
        )


def check_scale(lr_voxel_size: Sequence[float], hr_voxel_size: float | Sequence[float] | None, scale_factor: int) -> None:
    """`check_ratio` of the LR voxel size (z, y, x) in µm and `hr_voxel_size`, as far as that tells; None passes.

    Raises:
        InputError: the ratio is off.
    """
    if hr_voxel_size is not None:
        told = _hr_size(hr_voxel_size)
        check_ratio(as_voxel_size(lr_voxel_size, "lr_voxel_size")[-len(told) :], told, scale_factor)


def as_pixel_size(hr_voxel_size: float | Sequence[float], axes: Sequence[int] | None = None) -> tuple[float, float]:
    """Pixel size (row, column) in µm of images from `hr_voxel_size`: a number, [row, column], or [z, y, x] of the voxels that the images show.

    Args:
        hr_voxel_size: of the config.
        axes: of z, y, x along rows and columns; None where the images are of no one plane.

    Raises:
        InputError: no size, or [z, y, x] of unequal edges for images of no one plane.
    """
    sizes = _hr_size(hr_voxel_size)
    if len(sizes) == 2:
        return sizes
    if axes is None and not are_cubes(sizes):
        raise InputError(
            f"hr_voxel_size: {hr_voxel_size} differs between axes, but one set of images is of no one plane; "
            "give a number or [row, column], or images of each plane"
        )
    row, column = axes or (1, 2)
    return sizes[row], sizes[column]


def _hr_size(value: float | Sequence[float]) -> tuple[float, ...]:
    """`hr_voxel_size` in µm: (z, y, x) from a number or three; (row, column) from two, of an xy image where nothing else is said."""
    return as_voxel_size(value, "hr_voxel_size", 2 if isinstance(value, Sequence) and len(value) == 2 else 3)


def _size(values: Sequence[float]) -> str:
    rounded = [f"{v:.6g}" for v in values]
    return rounded[0] if len(set(rounded)) == 1 else " x ".join(rounded)
