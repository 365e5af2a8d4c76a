"""Noise that depends on nothing but seed, scale and position, so that windows agree in any order and any size."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch

_TABLE_BITS = 16
_SLAB = 2**18  # voxels made at a time, which stay in the processor's cache


@lru_cache(maxsize=1)
def _normal_quantiles() -> np.ndarray:
    """Standard normal quantiles at the 2^16 bin centres, scaled to unit variance, float32."""
    n = 1 << _TABLE_BITS
    table = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])
    return (table / table.std()).astype(np.float32)


def _mix(h: np.ndarray) -> np.ndarray:
    """The 32-bit finaliser of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit. In place."""
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def _axis_key(seed: int, scale: int, axis: int, start: int, length: int) -> np.ndarray:
    """One 32-bit word for each position of an axis; 64-bit positions and seeds are folded in."""
    position = np.arange(start, start + length, dtype=np.int64).astype(np.uint64)
    key = _mix((position & np.uint64(0xFFFFFFFF)).astype(np.uint32) + np.uint32((0x9E3779B9 * (axis + 1)) & 0xFFFFFFFF))
    key ^= (position >> np.uint64(32)).astype(np.uint32)
    for word in (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, (scale << 2) | axis):
        key = _mix(key + np.uint32(word))
    return key


def coordinate_noise(seed: int, scale: int, start: tuple[int, int, int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise of a box of the grid that is `scale` times finer than the LR grid.

    Args:
        seed: the noise realisation.
        scale: 1 for the LR grid, 2, 4, 8 for the finer ones; each has noise of its own.
        start: first voxel (z, y, x) of the box in that grid; may be negative (halo outside the volume).
        shape: voxels of the box (z, y, x).

    Returns:
        float32 tensor of `shape`. The value of a voxel depends on seed, scale and position alone.
    """
    z, y, x = (_axis_key(seed, scale, axis, start[axis], shape[axis]) for axis in range(3))
    zy, result = z[:, None] + y[None, :], np.empty(shape, np.float32)
    planes = max(1, _SLAB // (shape[1] * shape[2]))
    for i in range(0, shape[0], planes):
        h = _mix(zy[i : i + planes, :, None] ^ x)
        h >>= np.uint32(32 - _TABLE_BITS)
        np.take(_normal_quantiles(), h, out=result[i : i + planes], mode="clip")  # the mode that needs no copy
    return torch.from_numpy(result)
