"""Sliced Wasserstein distance between the patches of fake and of real slices: a teacher that needs no critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def contacts(x: Tensor) -> Tensor:
    """How much each pair of phases touches across the lower and the right face of a pixel.

    (N, P, h, w) probabilities -> (N, P (P-1) / 2, h-1, w-1), pairs (0, 1), (0, 2), …, (1, 2), …; 0 to 2 for labels.
    """
    here, beside = x[:, :, :-1, :-1], x[:, :, :-1, 1:] + x[:, :, 1:, :-1]
    first, second = torch.triu_indices(x.shape[1], x.shape[1], offset=1, device=x.device)
    return here[:, first] * beside[:, second] + here[:, second] * beside[:, first]


def transport(values: Tensor, target: Tensor) -> Tensor:
    """Optimal transport in one dimension, row by row: the k-th smallest of `values` (K, n) goes to the k-th smallest of `target` (K, n)."""
    return torch.empty_like(values).scatter_(1, values.argsort(1), target.sort(1)[0])


class SlicedWasserstein:
    """Squared sliced Wasserstein-2 distance of small patches, at several resolutions (Rabin et al. 2011; for images Elnekave and Weiss 2022).

    Patches are projected on random directions, new ones at every call; along each, the fakes are matched in order of size to as many
    reals. What is already nearest to feldspar is told to become feldspar, and only as much of it as the real images have: unlike the
    gradient of a critic this tells voxels of a uniform region apart. The contacts between phases are projected too, each pair in
    units of its standard deviation in the reals: the rare ones, which rock physics asks for, would drown in the common ones.

    Args:
        patch: edge of a patch, pixels.
        projections: random directions at a time.
        pyramid: block means of the slices that are compared as well; those with too few pixels for a patch are left out.
        contact_weight: of the distance of the contacts; 0 leaves them out.
        contact_floor: smallest standard deviation of a contact that is divided by.
    """

    def __init__(
        self,
        patch: int = 7,
        projections: int = 24,
        pyramid: Sequence[int] = (1, 2, 4),
        contact_weight: float = 0.3,
        contact_floor: float = 0.02,
    ):
        self.patch, self.projections, self.pyramid = patch, projections, list(pyramid)
        self.contact_weight, self.contact_floor = contact_weight, contact_floor

    def __call__(self, fake: Tensor, earlier: Tensor, real: Tensor) -> Tensor:
        """Distance that the fakes can shorten.

        Args:
            fake: (N, phases, h, w) probabilities of the newest slices; the gradient goes to them alone.
            earlier: (M, phases, h, w) slices of other places, M may be 0. They are matched together with the newest: a place that is
                all quartz is not asked to hold all that the images hold.
            real: (R, phases, H, W) one-hot real crops of the same pixel size.

        Raises:
            ValueError: the slices are smaller than a patch.
        """
        total, scales = fake.new_zeros(()), 0
        for factor in self.pyramid:
            if min(fake.shape[-2:]) // factor <= self.patch:
                continue
            new, old, true = (F.avg_pool2d(x, factor) if len(x) else x for x in (fake, earlier, real))
            total, scales = total + self._distance(new, old, true), scales + 1
            if self.contact_weight:
                new, old, true = (contacts(x) if len(x) else x for x in (new, old, true))
                unit = true.std((0, 2, 3), keepdim=True).clamp_min(self.contact_floor)
                total = total + self.contact_weight * self._distance(new / unit, old / unit if len(old) else old, true / unit)
        if not scales:
            raise ValueError(f"slices of {tuple(fake.shape[-2:])} pixels are smaller than a patch of {self.patch} and a pixel more")
        return total

    def _distance(self, fake: Tensor, earlier: Tensor, real: Tensor) -> Tensor:
        direction = torch.randn(self.projections, fake.shape[1], self.patch, self.patch, device=fake.device)
        direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
        stride = 1 if min(fake.shape[-2:]) < 3 * self.patch else 2  # neighbouring patches say nearly the same
        projected = self._project(fake, direction, stride)
        with torch.no_grad():
            known = [projected] + ([self._project(earlier, direction, 2 * stride)] if len(earlier) else [])
            values = torch.cat(known, 1)
            true = self._project(real, direction, 2 * stride)
            target = true[:, torch.randint(true.shape[1], (values.shape[1],), device=true.device)]
            goal = transport(values, target)[:, : projected.shape[1]]
        return (projected - goal).square().mean()

    def _project(self, x: Tensor, direction: Tensor, stride: int) -> Tensor:
        """(N, C, h, w) -> (projections, patches), from a random first pixel."""
        free = max(min(min(x.shape[-2:]) - self.patch + 1, stride), 1)
        start = int(torch.randint(free, ()))
        return F.conv2d(x[:, :, start:, start:], direction, stride=stride).transpose(0, 1).flatten(1)
