"""Down-sampling by a whole factor: block mean, majority, and the paper's nearest neighbour."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

STRIP = 2**22  # pixels of an image that are counted at a time: of a mosaic as floats, one for each phase, they would take gigabytes


def block_mean(x: Tensor, factor: int) -> Tensor:
    """Mean of each block of factor^d: (B, C, …) with 2 or 3 spatial axes."""
    if factor == 1:
        return x
    return F.avg_pool3d(x, factor) if x.ndim == 5 else F.avg_pool2d(x, factor)


def phase_shares(labels: np.ndarray, n_phases: int, factor: int) -> Tensor:
    """What each block of factor² pixels holds of each phase: (y, x) labels -> (n_phases, y / factor, x / factor), float32."""
    phases = torch.arange(n_phases, dtype=torch.uint8)[:, None, None]
    rows = max(1, STRIP // (factor * labels.shape[1])) * factor
    strips = (np.ascontiguousarray(labels[y : y + rows]) for y in range(0, max(1, len(labels) - factor + 1), rows))
    return torch.cat([block_mean((torch.from_numpy(strip) == phases)[None].float(), factor)[0] for strip in strips], 1)


def most_frequent(shares: Tensor, labels: np.ndarray, factor: int) -> Tensor:
    """What most pixels of each block hold, by the `phase_shares` of its labels -> (y / factor, x / factor) int64; of phases that hold equally many
    that of its first pixel, if it is one of them, as `majority_downsample` in three dimensions."""
    h, w = shares.shape[1:]
    first = torch.from_numpy(labels[::factor, ::factor][:h, :w].astype(np.int64))
    return torch.where(shares.gather(0, first[None])[0] == shares.amax(0), first, shares.argmax(0))


def coarse_labels(labels: np.ndarray, n_phases: int, factor: int) -> np.ndarray:
    """`most_frequent` of (y, x) labels -> (y / factor, x / factor) uint8."""
    return most_frequent(phase_shares(labels, n_phases, factor), labels, factor).to(torch.uint8).numpy()


def majority_onehot(onehot: Tensor, factor: int) -> Tensor:
    """The same of one-hot labels, one-hot: (B, P, h, w) -> (B, P, h / factor, w / factor)."""
    shares = block_mean(onehot, factor)
    h, w = shares.shape[2:]
    labels = (shares + 0.5 / factor**2 * onehot[:, :, ::factor, ::factor][:, :, :h, :w]).argmax(1)
    return F.one_hot(labels, onehot.shape[1]).movedim(-1, 1).to(onehot)


def nearest(x: Tensor, factor: int) -> Tensor:
    """First voxel of each block, as torch's nearest-neighbour interpolation takes it (the paper's downsampling): (B, C, …)."""
    return x[(slice(None), slice(None)) + (slice(None, None, factor),) * (x.ndim - 2)]
