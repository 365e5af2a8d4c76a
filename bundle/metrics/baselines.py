"""What a super-resolution has to beat: the LR labels repeated, and interpolated."""

import numpy as np
import torch
from torch.nn import functional as F

from bundle.errors import InputError
from bundle.metrics.fractions import as_arrays, bin_labels, slabs

BLOCK_EDGE = 128  # fine voxels: 8 MiB a phase


def upsample_nearest(labels: np.ndarray, scale: int) -> np.ndarray:
    """Every voxel repeated `scale` times along each axis: (z, y, x) -> (scale z, scale y, scale x), the dtype kept.

    Raises:
        InputError: labels are no 3D integers, or `scale` is not a whole number from 1.
    """
    check_upsampling(labels, scale)
    # One copy, where repeat along each axis in turn makes three.
    z, y, x = labels.shape
    return np.broadcast_to(labels[:, None, :, None, :, None], (z, scale, y, scale, x, scale)).reshape(z * scale, y * scale, x * scale)


def upsample_trilinear(labels: np.ndarray, scale: int, n_phases: int) -> np.ndarray:
    """Most likely phase after trilinear interpolation of the one-hot labels: (z, y, x) -> (scale z, scale y, scale x) uint8.

    As torch's `interpolate(one_hot, scale_factor=scale, mode="trilinear", align_corners=False).argmax(1)`, ties to the lowest label, but made block
    by block, so memory holds the result and one block. Weights are multiples of 1 / (2 scale)^3: rounded to whole ones, ties stay ties for scales
    that are no power of two.

    Raises:
        InputError: labels are no 3D integers or outside 0..n_phases-1, or `scale` is not a whole number from 1.
    """
    check_upsampling(labels, scale)
    for slab in slabs(labels):
        bin_labels(slab, n_phases)
    fine = np.empty([size * scale for size in labels.shape], np.uint8)
    edge = max(1, BLOCK_EDGE // scale)
    for corner in np.ndindex(*(-(-size // edge) for size in labels.shape)):
        # One voxel more on each side is all that trilinear weights reach; beyond the border the outer voxel is repeated.
        spans = [range(i * edge, min((i + 1) * edge, size)) for i, size in zip(corner, labels.shape, strict=True)]
        reach = [np.clip(np.arange(s.start - 1, s.stop + 1), 0, size - 1) for s, size in zip(spans, labels.shape, strict=True)]
        block = torch.from_numpy(labels[np.ix_(*reach)].astype(np.int64))
        one_hot = F.one_hot(block, n_phases).movedim(-1, 0)[None].float()
        weights = F.interpolate(one_hot, scale_factor=scale, mode="trilinear", align_corners=False)[0, :, scale:-scale, scale:-scale, scale:-scale]
        inside = tuple(slice(s.start * scale, s.stop * scale) for s in spans)
        fine[inside] = (weights * (2 * scale) ** 3).round().max(0).indices.numpy()  # argmax says the same in ten times the time
    return fine


def check_upsampling(labels: np.ndarray, scale: int) -> None:
    as_arrays(labels)
    if labels.ndim != 3:
        raise InputError(f"upsampling needs a 3D volume of labels, got shape {labels.shape}")
    if not isinstance(scale, int) or scale < 1:
        raise InputError(f"scale {scale} is not a whole number from 1")
