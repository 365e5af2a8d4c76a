"""Does a surface follow the voxels of the scan instead of the rock?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from bundle.metrics.baselines import check_upsampling, upsample_nearest

EDGE = 16  # LR voxels along a block, of which memory holds one at a time
MOST_BLOCKS = 256  # of a larger volume so many, evenly spread, stand for all


def staircase(lr: np.ndarray, sr: np.ndarray, scale_factor: int) -> dict:
    """How far the surface of a result follows the staircase of the LR voxels.

    Where a smooth surface through the LR labels and the faces of the LR voxels part, a fine voxel is on the one side or on the other: the share of
    them in which the result sides with the LR voxel. 1: nearest neighbour; 0: the smooth surface, trilinear enlargement of the labels, half of them
    smoothed by a Gaussian (standard deviation 0.7 LR voxels). A rock knows nothing of the voxels of its scan, but they know of it: of synthetic
    rock it is 0.26 to 0.30 (docs/training.md, Stairs).

    Counted for the pair of labels that has most of the surface, around LR voxels whose 26 neighbours and themselves have these two labels alone, and
    in fine voxels that have one of them.

    Args:
        lr: (z, y, x) labels.
        sr: (s z, s y, s x) labels; may be memory-mapped.
        scale_factor: s.

    Returns:
        `labels`: the two; `voxels`: fine voxels where both part; `share`: of them with the LR label, None where there are none.

    Raises:
        InputError: labels are no 3D integers, or the scale is no whole number from 1.
        ValueError: shapes do not fit.
    """
    check_upsampling(lr, scale_factor)
    check_upsampling(sr, 1)
    if sr.shape != tuple(scale_factor * n for n in lr.shape):
        raise ValueError(f"SR of shape {sr.shape} is not {scale_factor} times LR of shape {lr.shape}")
    pair, around = _surface(lr)
    labelled = np.pad(lr, 2, mode="edge")  # of which a block takes what smoothing and enlarging reach
    corners = [corner for corner in np.ndindex(*(-(-n // EDGE) for n in lr.shape)) if around[tuple(slice(EDGE * i, EDGE * (i + 1)) for i in corner)].any()]
    parts = sides = 0
    for k in np.unique(np.linspace(0, len(corners) - 1, min(len(corners), MOST_BLOCKS)).astype(int)) if corners else []:
        low = [EDGE * i for i in corners[k]]
        high = [min(a + EDGE, n) for a, n in zip(low, lr.shape)]
        inside = tuple(slice(a, b) for a, b in zip(low, high))
        first = labelled[tuple(slice(a, b + 4) for a, b in zip(low, high))] == pair[0]
        smooth = _smooth(first.astype(np.float32), scale_factor)
        steps = upsample_nearest(lr[inside], scale_factor) == pair[0]
        wanted = upsample_nearest(around[inside].astype(np.uint8), scale_factor) == 1
        found = np.asarray(sr[tuple(slice(scale_factor * s.start, scale_factor * s.stop) for s in inside)])
        part = wanted & (smooth != steps) & ((found == pair[0]) | (found == pair[1]))
        parts += int(part.sum())
        sides += int(((found == pair[0]) == steps)[part].sum())
    return {"labels": list(pair), "voxels": parts, "share": sides / parts if parts else None}


def _surface(lr: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """The two labels with the most voxels in whose 27 voxels both are and no other, and where those are; at the border they are not known."""
    best, where = (0, 0), np.zeros(lr.shape, bool)
    present = {label: ndimage.maximum_filter(lr == label, 3) for label in np.unique(lr).tolist()}
    number = sum(mask.astype(np.uint8) for mask in present.values())
    for a, b in combinations(present, 2):
        mask = present[a] & present[b] & (number == 2)
        for axis in range(3):
            np.moveaxis(mask, axis, 0)[[0, -1]] = False
        if mask.sum() > where.sum():
            best, where = (a, b), mask
    return best, where


def _smooth(share: np.ndarray, scale_factor: int) -> np.ndarray:
    """Where the smooth surface puts a label: 0 and 1 of a block and two voxels around it -> bool on the fine grid, without them."""
    soft = 0.5 * (share + ndimage.gaussian_filter(share, 0.7, radius=1))
    fine = F.interpolate(torch.from_numpy(soft)[None, None], scale_factor=scale_factor, mode="trilinear", align_corners=False)[0, 0].numpy()
    return fine[(slice(2 * scale_factor, -2 * scale_factor),) * 3] > 0.5
