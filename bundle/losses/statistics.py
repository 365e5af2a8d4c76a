"""Steers volume fractions and interfacial areas towards those of the HR images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StatisticsLoss(nn.Module):
    """Pushes each statistic of the generated volumes against its running deviation from the HR images.

    One patch is far too small to have the rock's own statistics, so the deviation is that of a running mean m over patches; the
    patch at hand only tells how to change it: loss = mean over statistics k of c_k s_k / t_k, with s_k the patch's value, t_k the
    target and c_k = (m_k - t_k) / t_k, clamped to [-1, 1] and without gradient. That is the gradient of half the squared relative
    deviation of m. Statistics that are zero in the HR images are left out.

    Args:
        target: n volume fractions, then the n (n - 1) / 2 interfacial areas of the pairs (0,1), (0,2), … (`bundle.metrics.statistics`).
        n_phases: n.
        decay: of the running mean, per generator step.
    """

    def __init__(self, target: Sequence[float], n_phases: int, decay: float = 0.95):
        super().__init__()
        self.n_phases, self.decay = n_phases, decay
        target = torch.as_tensor(target, dtype=torch.float32)
        self.register_buffer("target", target)
        self.register_buffer("mean", target.clone())
        self.register_buffer("pairs", torch.triu_indices(n_phases, n_phases, offset=1), persistent=False)

    def statistics(self, labels: Tensor) -> Tensor:
        """Of one-hot labels (B, n, D, H, W): fractions, and faces between each pair / all interior faces, differentiable."""
        faces = labels.new_zeros(self.n_phases, self.n_phases)
        total = 0
        for axis in (2, 3, 4):
            n = labels.shape[axis] - 1
            one = labels.narrow(axis, 0, n).transpose(0, 1).flatten(1)
            other = labels.narrow(axis, 1, n).transpose(0, 1).flatten(1)
            faces = faces + one @ other.T
            total += one.shape[1]
        areas = (faces + faces.T)[self.pairs[0], self.pairs[1]] / total
        return torch.cat([labels.mean(dim=(0, 2, 3, 4)), areas])

    def forward(self, labels: Tensor) -> Tensor:
        """One-hot labels with gradient (B, n, D, H, W) -> scalar; moves the running mean in training mode."""
        found = self.statistics(labels)
        if self.training:
            self.mean.lerp_(found.detach(), 1 - self.decay)
        known = self.target > 0
        target = self.target[known]
        push = ((self.mean[known] - target) / target).clamp(-1, 1)
        return (push * found[known] / target).mean()
