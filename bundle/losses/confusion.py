"""A consistency loss that learns how the scan labels what it sees, and charges only what it would hardly have labelled so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.transforms.downsample import block_mean

FLOOR = 0.02
"""Share of every row of the table that is spread over all labels: no label is impossible, so no charge is infinite."""

SCALINGS = 30
"""Times that phases and labels are scaled in turn."""


def least_confusion(hr_fractions: Sequence[float], lr_fractions: Sequence[float]) -> list[list[float]]:
    """P(LR label | phase) with the fewest wrong labels that turns the fractions of the HR images into those of the scan -> rows phase, columns label.

    What both have stays; what a phase has too much of becomes the labels that are too frequent, in proportion. That is all that volume fractions
    say.

    Args:
        hr_fractions: of the phases.
        lr_fractions: of the labels, the first phases; there may be fewer.
    """
    hr, lr = torch.tensor(hr_fractions, dtype=torch.float64), torch.tensor(lr_fractions, dtype=torch.float64)
    hr, lr = hr / hr.sum(), F.pad(lr / lr.sum(), [0, len(hr) - len(lr)])
    kept = torch.minimum(hr, lr)
    joint = kept.diag() + torch.outer(hr - kept, lr - kept) / (1 - kept.sum()).clamp(min=1e-12)
    rows = joint / hr.clamp(min=1e-12)[:, None]
    rows[hr <= 0] = torch.eye(len(hr), dtype=torch.float64)[hr <= 0]
    return rows[:, : len(lr_fractions)].tolist()


class ConfusionConsistency(nn.Module):
    """Charges each LR voxel for how unlikely its label is, given what its block holds.

    Two voxels drawn from a block that holds the shares f are the phases p and q with probability f_p f_q, and such a pair is labelled l with
    probability table[pq, l]; so P(l | f) = sum over pairs p <= q of (2 - [p = q]) f_p f_q table[pq, l]. The rows of two equal phases are the
    confusion matrix of the segmentation (feldspar that passes for quartz), the others what a mixed voxel is taken for (clay, where half is pore
    and half quartz).

    loss = mean over LR voxels of max(0, log((1 - tolerance) / P(label | block))).

    The table is learned from what the generator makes (expectation maximisation, Dempster et al. 1977: of each voxel every pair claims the part
    that it explains), starting from `least_confusion`. Alone that would confirm itself: a generator that does as the labels say teaches that they
    are right. So the joint counts of pairs and labels are scaled until the phases in them are as frequent as in the HR images and the labels as in
    the scan (generalised iterative scaling, Darroch & Ratcliff 1972): where the images hold more feldspar than the scan, the table must say what it
    passes for. The LR labels are those of the scan itself, not corrected ones.

    Args:
        hr_fractions, lr_fractions: of the phases in the HR images and of the labels in the scan, which may know fewer, the first ones.
        scale_factor: of the level whose labels teach the table.
        tolerance: share of a block that may differ at no charge, so that surfaces need not follow the LR staircase.
        memory: generator steps over which the counts fade to 1 / e.
        prior: LR voxels that the start stands for, as a share of what the memory holds.
    """

    def __init__(
        self,
        hr_fractions: Sequence[float],
        lr_fractions: Sequence[float],
        scale_factor: int,
        tolerance: float = 0.35,
        memory: float = 100.0,
        prior: float = 0.05,
    ):
        super().__init__()
        number = len(hr_fractions)
        self.first, self.second = torch.triu_indices(number, number).tolist()
        hr, lr = (torch.tensor(fractions, dtype=torch.float32).clamp(min=1e-4) for fractions in (hr_fractions, lr_fractions))
        self.register_buffer("wanted_phases", hr / hr.sum(), persistent=False)
        self.register_buffer("wanted_labels", lr / lr.sum(), persistent=False)
        share = torch.tensor([[0.5 * ((a == p) + (b == p)) for p in range(number)] for a, b in zip(self.first, self.second)])
        self.register_buffer("share", share, persistent=False)  # of each phase in each pair
        pure = torch.tensor(least_confusion(hr_fractions, lr_fractions), dtype=torch.float32)
        # every pair as frequent as if phases were mixed at random within half of the blocks, and apart in the others
        frequent = torch.tensor([hr[a] * (0.5 + 0.5 * hr[a]) if a == b else hr[a] * hr[b] for a, b in zip(self.first, self.second)])
        start = self._scaled(frequent[:, None] * (share @ pure).clamp(min=FLOOR / len(lr)))
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("table", self._rows(self.start))
        self.register_buffer("counts", torch.zeros_like(self.start))
        self.register_buffer("weight", torch.zeros(()))
        self.scale_factor, self.tolerance, self.memory, self.prior = scale_factor, tolerance, memory, prior

    def forward(self, probabilities: Tensor, lr_onehot: Tensor) -> Tensor:
        """(B, P, s d, s h, s w) and the scan's labels (B, L, d, h, w) -> scalar. In training, the finest level also teaches the table."""
        scale = probabilities.shape[-1] // lr_onehot.shape[-1]
        likely = torch.einsum("brdhw,rl,bldhw->bdhw", self.pairs(block_mean(probabilities, scale)), self.table, lr_onehot.to(self.table))
        charge = (torch.log(max(1 - self.tolerance, 1e-12) / likely)).relu().mean()  # of a logarithm of 0 the gradient is no number
        if scale == self.scale_factor and self.training and probabilities.requires_grad:
            labels = probabilities.detach()
            self.learn(block_mean((labels == labels.amax(1, keepdim=True)).to(self.table), scale), lr_onehot)
        return charge

    def pairs(self, shares: Tensor) -> Tensor:
        """Probability of each pair of phases that two voxels of a block are: (B, P, d, h, w), sums to 1 -> (B, P (P+1) / 2, d, h, w), too."""
        double = torch.tensor([1.0 if a == b else 2.0 for a, b in zip(self.first, self.second)], device=shares.device)
        return shares[:, self.first] * shares[:, self.second] * double[:, None, None, None]

    def learn(self, shares: Tensor, lr_onehot: Tensor) -> None:
        """One step: the labels of LR voxels (B, L, d, h, w) are shared out among the pairs that explain them, and the table follows."""
        pairs, onehot = self.pairs(shares), lr_onehot.to(self.table)
        likely = torch.einsum("brdhw,rl,bldhw->bdhw", pairs, self.table, onehot)
        joint = self.table * torch.einsum("brdhw,bldhw,bdhw->rl", pairs, onehot, 1 / likely) / likely.numel()
        fade = 1 - 1 / self.memory
        self.counts.mul_(fade).add_(joint)
        self.weight.mul_(fade).add_(1)
        # a new table: the charge of this step still needs the old one for its gradient
        self.table = self._rows(self._scaled(self.counts / self.weight + self.prior * self.start))

    def _scaled(self, joint: Tensor) -> Tensor:
        """Counts of pairs and labels, scaled until phases and labels are as frequent as is known."""
        for _ in range(SCALINGS):
            of_phases = self.wanted_phases / (self.share * joint.sum(1, keepdim=True)).sum(0).clamp(min=1e-9)
            joint = joint * (self.share @ of_phases.log()).exp()[:, None]
            joint = joint * self.wanted_labels / joint.sum(0).clamp(min=1e-9)
        return joint

    def _rows(self, joint: Tensor) -> Tensor:
        """P(label | pair), no label impossible."""
        rows = joint / joint.sum(1, keepdim=True).clamp(min=1e-9)
        return (1 - FLOOR) * rows + FLOOR / rows.shape[1]

    def confusion(self) -> Tensor:
        """P(label | voxel of one phase alone), rows phases, columns labels."""
        return self.table[[row for row, (a, b) in enumerate(zip(self.first, self.second)) if a == b]]
