"""Losses that tie the super-resolved volume to the LR labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.losses.absent import LEAST, AbsentPhases
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


class BlockConsistency(nn.Module):
    """Charges each LR voxel the cost of what its block holds, above a tolerance.

    loss = mean over LR voxels of max(0, sum over phases p of cost[LR label, p] x block mean of p - tolerance).
    Trusted labels have high costs in their row and bind; doubtful ones have low costs and may be corrected.

    Args:
        cost: rows LR labels, columns SR phases; 0 on the diagonal. A phase that the LR does not know has no column: it is free.
        tolerance: share of a block that may differ at no charge, so that surfaces need not follow the LR staircase.
        absent: tolerances, at least 0.02, of the phases that the LR has nowhere around a voxel: no surface of theirs passes there. They are charged one by
            one, and what is beyond counts as many times more as the tolerance is smaller: specks are small shares of a block. None: as the others.
    """

    def __init__(self, cost: Sequence[Sequence[float]], tolerance: float = 0.35, absent: AbsentPhases | None = None):
        super().__init__()
        self.register_buffer("cost", torch.tensor(cost, dtype=torch.float32))
        self.tolerance, self.absent = tolerance, absent

    def forward(self, probabilities: Tensor, lr_onehot: Tensor, where: Tensor | None = None) -> Tensor:
        """(B, P, s d, s h, s w) and (B, L, d, h, w) -> scalar; `where` as `AbsentPhases.where` gives, found from more than these voxels."""
        n = self.cost.shape[1]
        share = block_mean(probabilities, probabilities.shape[-1] // lr_onehot.shape[-1])[:, :n]
        price = torch.einsum("bldhw,lp->bpdhw", lr_onehot, self.cost)
        if self.absent is None:
            return ((price * share).sum(1) - self.tolerance).relu().mean()
        where = self.absent.where(lr_onehot) if where is None else where
        shares, allowed = self.absent(probabilities, lr_onehot, where)
        allowed = allowed.clamp(min=LEAST)  # and a tolerance of less must not make them free
        beyond = ((price[..., None] * shares - allowed).relu() * (max(self.tolerance, LEAST) / allowed)).mean(-1)
        charge = ((price * share * (1 - where)).sum(1) - self.tolerance).relu()
        return (charge + (beyond * where).sum(1)).mean()
