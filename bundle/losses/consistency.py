"""Losses that tie the super-resolved volume to the LR labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.transforms.downsample import block_mean, nearest


class NearestConsistency(nn.Module):
    """The paper's: classes / 2 x MSE between the nearest-neighbour down-sampled result and the one-hot LR labels."""

    def forward(self, probabilities: Tensor, lr_onehot: Tensor) -> Tensor:
        """(B, P, s d, s h, s w) and (B, L, d, h, w), L <= P -> scalar; phases that the LR does not know are not charged."""
        n = lr_onehot.shape[1]
        down = nearest(probabilities, probabilities.shape[-1] // lr_onehot.shape[-1])[:, :n]
        return F.mse_loss(down, lr_onehot) * n / 2


def cost_matrix(lr_phases: Sequence[str], costs: Mapping[str, Mapping[str, float]]) -> list[list[float]]:
    """Costs by name -> rows LR label, columns SR phase; 1 where nothing is said, 0 on the diagonal.

    Names that are no phases of this rock are left out, so that a table serves several rocks.
    """
    return [[0.0 if a == b else float(costs.get(a, {}).get(b, 1.0)) for b in lr_phases] for a in lr_phases]


LEAST = 0.02
"""Smallest tolerance within a phase: probabilities are never sure."""

FEWEST = 50
"""Blocks within a phase from which a tolerance may be measured."""


def inner_tolerances(
    images: Iterable[np.ndarray], n_labels: int, scale_factor: int, tolerance: float, quantile: float
) -> list[list[float]] | None:
    """How much of each other phase a block may hold whose neighbours are all of its own: what the HR images hold in such blocks.

    A block of HR pixels is labelled by its majority; it lies within a phase where the eight blocks around it have the same label. Of what such
    blocks hold of another label the quantile is taken, so a few of them, which hold a crack or a small pore, are above. Phase by phase: where clay
    fills pores they hold much clay, but no more quartz for that.

    Args:
        images: (y, x) labels, HR.
        n_labels: labels that the LR knows, the first phases.
        scale_factor: pixels along the edge of a block.
        tolerance: of all phases where fewer than 50 blocks lie within one.
        quantile: 0..1; 0: none are wanted.

    Returns:
        Rows label, columns phase; what stands for the label itself means nothing. None if not wanted.
    """
    if not quantile:
        return None
    held: list[list[Tensor]] = [[] for _ in range(n_labels)]
    for image in images:
        phases = torch.arange(max(n_labels, int(image.max()) + 1))[:, None, None]
        shares = block_mean((torch.from_numpy(np.ascontiguousarray(image))[None] == phases)[None].float(), scale_factor)
        inner = within(F.one_hot(shares.argmax(1), shares.shape[1]).movedim(-1, 1).float())[0]
        for label in range(n_labels):
            held[label].append(shares[0, :n_labels, inner[label] > 0])
    found = [torch.cat(parts, 1).double().numpy() for parts in held]
    return [np.quantile(part, quantile, 1).tolist() if part.shape[1] >= FEWEST else [tolerance] * n_labels for part in found]


def within(onehot: Tensor) -> Tensor:
    """1 where all neighbours of a pixel or voxel, diagonal ones included, have its label: (B, L, …) -> the same. At the border they are not known: 0."""
    dimensions = onehot.ndim - 2
    if min(onehot.shape[2:]) < 3:
        return torch.zeros_like(onehot)
    pool = (F.max_pool2d, F.max_pool3d)[dimensions - 2]
    return F.pad(1 - pool(1 - onehot, 3, 1), [1, 1] * dimensions)


class BlockConsistency(nn.Module):
    """Charges each LR voxel the cost of what its block holds, above a tolerance.

    loss = mean over LR voxels of max(0, sum over phases p of cost[LR label, p] x block mean of p - tolerance).
    Trusted labels have high costs in their row and bind; doubtful ones have low costs and may be corrected.

    Args:
        cost: rows LR labels, columns SR phases; 0 on the diagonal. A phase that the LR does not know has no column: it is free.
        tolerance: share of a block that may differ at no charge, so that surfaces need not follow the LR staircase.
        inner: where the 26 neighbours of an LR voxel have its label no surface passes, and each phase has a tolerance of its own: rows LR labels,
            columns SR phases, as `cost`; at least 0.02. What is beyond it counts as many times more as it is smaller: specks are small shares of a
            block. None: as elsewhere.
    """

    def __init__(self, cost: Sequence[Sequence[float]], tolerance: float = 0.35, inner: Sequence[Sequence[float]] | None = None):
        super().__init__()
        self.register_buffer("cost", torch.tensor(cost, dtype=torch.float32))
        self.register_buffer("inner", None if inner is None else torch.tensor(inner, dtype=torch.float32))
        self.tolerance = tolerance

    def forward(self, probabilities: Tensor, lr_onehot: Tensor) -> Tensor:
        """(B, P, s d, s h, s w) and (B, L, d, h, w) -> scalar."""
        n = self.cost.shape[1]
        share = block_mean(probabilities, probabilities.shape[-1] // lr_onehot.shape[-1])[:, :n]
        charge = (torch.einsum("bldhw,lp,bpdhw->bdhw", lr_onehot, self.cost, share) - self.tolerance).relu()
        if self.inner is None:
            return charge.mean()
        inside, allowed = within(lr_onehot), self.inner.clamp(min=LEAST)
        beyond = (self.cost[:, :, None, None, None] * share[:, None] - allowed[:, :, None, None, None]).relu()
        weighted = torch.einsum("bldhw,lp,blpdhw->bdhw", inside, self.tolerance / allowed, beyond)
        return (charge * (1 - inside.sum(1)) + weighted).mean()
