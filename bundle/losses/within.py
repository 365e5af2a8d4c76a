"""What lies within a phase, away from its borders: as much of the others, in as few places, as in the HR images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.buffer import StepMemory
from bundle.transforms.downsample import block_mean

LEAST = 0.02
"""Smallest tolerance within a phase: probabilities are never sure."""

FEWEST = 50
"""Blocks within a phase from which its tolerances may be measured."""

BINS = 64
"""Steps of a share, 0 to 1, in which what is made is counted: the pixels of a block at 8x."""

RANKS = 1000
"""Steps of a rank in which the images' shares are kept."""


def within(onehot: Tensor) -> Tensor:
    """1 where all neighbours of a pixel or voxel, diagonal ones included, have its label: (B, L, …) -> the same. At the border they are not known: 0."""
    dimensions = onehot.ndim - 2
    if min(onehot.shape[2:]) < 3:
        return torch.zeros_like(onehot)
    pool = (F.max_pool2d, F.max_pool3d)[dimensions - 2]
    return F.pad(1 - pool(1 - onehot, 3, 1), [1, 1] * dimensions)


def plane_shares(probabilities: Tensor, factor: int) -> Tensor:
    """What the planes of each block hold, in all three directions: (B, P, s d, s h, s w) -> (B, P, d, h, w, 3 s), s = factor."""
    b, p, *size = probabilities.shape
    d, h, w = (n // factor for n in size)
    blocks = probabilities.reshape(b, p, d, factor, h, factor, w, factor)
    return torch.cat([blocks.mean((5, 7)).movedim(3, -1), blocks.mean((3, 7)).movedim(4, -1), blocks.mean((3, 5))], -1)


class WithinPhase(StepMemory):
    """Tolerances of what LR voxels within a phase hold of the others, set by what the HR images hold there.

    A block of HR pixels is labelled by its majority; it lies within a phase where the eight blocks around it have the same label. An LR voxel lies
    within one where its 26 neighbours have its label; its planes are such blocks. What planes hold of a phase is ranked among those of the last steps,
    and the tolerance is what has this rank among the images' blocks: optimal transport in one dimension. So where 4 % of the images' blocks hold a crack
    or a small pore, 4 % may, as much as those do; a tolerance that is the same for every voxel would be used by every voxel, as specks everywhere.

    Args:
        images: (y, x) labels, HR.
        labels: names of the LR labels, the first phases.
        scale_factor: pixels along the edge of a block.
        tolerance: of all phases within a label that fewer than 50 of the images' blocks lie within.
        mixed: {LR label: phase}: voxels mixed of that phase and another pass for the label, so that the images' blocks say nothing of how much of the phase
            the label may hold: `tolerance`. Names that are no labels of this rock are left out.
        steps: generator steps that are ranked together.
    """

    def __init__(
        self,
        images: Iterable[np.ndarray],
        labels: Sequence[str],
        scale_factor: int,
        tolerance: float,
        mixed: Mapping[str, str] | None = None,
        steps: int = 64,
    ):
        super().__init__(steps)  # by scale: counts of the shares of each step
        self.allowed = torch.from_numpy(images_shares(images, len(labels), scale_factor, tolerance))
        for label, phase in (mixed or {}).items():
            if label in labels and phase in labels:
                self.allowed[labels.index(label), labels.index(phase)] = tolerance

    def __call__(self, probabilities: Tensor, lr_onehot: Tensor) -> tuple[Tensor, Tensor]:
        """What the planes of every LR voxel hold of each LR phase, and what they may hold: both (B, L, d, h, w, 3 s). The tolerances mean something
        for voxels within a phase alone.

        Args:
            probabilities: (B, P, s d, s h, s w) of one generator step, which is counted.
            lr_onehot: (B, L, d, h, w).
        """
        number, factor = lr_onehot.shape[1], probabilities.shape[-1] // lr_onehot.shape[-1]
        shares = plane_shares(probabilities[:, :number], factor)
        label, bins = lr_onehot.argmax(1), (shares.detach() * BINS).round().long()
        place = torch.arange(number, device=shares.device)[:, None, None, None, None]
        place = ((label[:, None, ..., None] * number + place) * (BINS + 1)).expand_as(bins)
        inside = within(lr_onehot).sum(1)[:, None, ..., None].expand_as(shares).to(shares.dtype)
        counts = inside.new_zeros(number**2 * (BINS + 1)).scatter_add_(0, (place + bins).flatten(), inside.flatten())
        self.remember(f"{factor}x", counts.reshape(number, number, BINS + 1).cpu())
        return shares, self.tolerances(f"{factor}x").to(shares).flatten()[place + bins]

    def tolerances(self, scale: str) -> Tensor:
        """Of shares of 0, 1/64, …, 1 as they are counted now: (L, L, 65), rows LR label, columns phase."""
        counts = torch.stack([step for step, in self.rings[scale]]).double().sum(0)
        rank = (counts.cumsum(-1) - 0.5 * counts) / counts.sum(-1, keepdim=True).clamp(min=1)
        return self.allowed.gather(-1, (rank * RANKS).long().clamp(max=RANKS - 1))


def images_shares(images: Iterable[np.ndarray], n_labels: int, scale_factor: int, tolerance: float) -> np.ndarray:
    """What blocks of HR pixels within a label hold of each phase, in order of size: (L, L, 1000), the middles of a thousand ranks.

    Arguments as of `WithinPhase`.
    """
    held: list[list[Tensor]] = [[] for _ in range(n_labels)]
    for image in images:
        phases = torch.arange(max(n_labels, int(image.max()) + 1))[:, None, None]
        shares = block_mean((torch.from_numpy(np.ascontiguousarray(image))[None] == phases)[None].float(), scale_factor)
        inner = within(F.one_hot(shares.argmax(1), shares.shape[1]).movedim(-1, 1).float())[0]
        for label in range(n_labels):
            held[label].append(shares[0, :n_labels, inner[label] > 0])
    result = np.full((n_labels, n_labels, RANKS), tolerance)
    for label, parts in enumerate(held):
        found = torch.cat(parts, 1).double().numpy()
        if found.shape[1] >= FEWEST:
            result[label] = np.quantile(found, (np.arange(RANKS) + 0.5) / RANKS, axis=1, method="inverted_cdf").T
    return result
