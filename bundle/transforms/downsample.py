"""Down-sampling by a whole factor: block mean, and the paper's nearest neighbour."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn import functional as F


def block_mean(x: Tensor, factor: int) -> Tensor:
    """Mean of each block of factor^d: (B, C, …) with 2 or 3 spatial axes."""
    if factor == 1:
        return x
    return F.avg_pool3d(x, factor) if x.ndim == 5 else F.avg_pool2d(x, factor)


def phase_shares(labels: np.ndarray, n_phases: int, factor: int) -> Tensor:
    """What each block of factor² pixels holds of each phase: (y, x) labels -> (n_phases, y / factor, x / factor), float32."""
    phases = torch.arange(n_phases, dtype=torch.uint8)[:, None, None]
    return block_mean((torch.from_numpy(np.ascontiguousarray(labels)) == phases)[None].float(), factor)[0]


def nearest(x: Tensor, factor: int) -> Tensor:
    """First voxel of each block, as torch's nearest-neighbour interpolation takes it (the paper's downsampling): (B, C, …)."""
    return x[(slice(None), slice(None)) + (slice(None, None, factor),) * (x.ndim - 2)]


class Downsampled(MapTransform):
    """Down-samples channel-first arrays (C, …) by a whole factor; for what a loss or a critic sees: the affine is not changed.

    Args:
        keys: entries to change.
        factor: voxels per block edge.
        mode: "mean" (block mean, floating point) or "nearest" (first voxel of each block).
    """

    def __init__(self, keys: KeysCollection, factor: int, mode: str = "mean", allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        self.factor = factor
        self.reduce = {"mean": block_mean, "nearest": nearest}[mode]

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Returns a copy of the dictionary with the entries down-sampled."""
        result = dict(data)
        for key in self.key_iterator(result):
            x = torch.as_tensor(result[key])
            result[key] = self.reduce((x.float() if self.reduce is block_mean else x)[None], self.factor)[0]
        return result
