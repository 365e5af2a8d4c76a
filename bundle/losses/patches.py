"""Sliced Wasserstein distance between the patches of fake and of real slices: a teacher that needs no critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.losses.tilt import tilted
from bundle.transforms.downsample import block_mean
from bundle.transforms.slices import SYMMETRIES, symmetry


def transport(values: Tensor, pool: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where optimal transport in one dimension of `pool` (K, m) to `target` (K, t) takes `values` (K, n), row by row; and how far it takes the pool.

    A value larger than a share u of the pool goes to the u-quantile of the target. Values nearer to each other than 1e-5 are a tie, which chance
    breaks.

    Returns:
        goals (K, n), and the root mean square over all rows of the way from the pool to the target.
    """
    pool, target = (pool + 1e-5 * torch.rand_like(pool)).sort(1)[0], target.sort(1)[0]
    quantiles = target.shape[1] / pool.shape[1]
    rank = torch.searchsorted(pool, (values + 1e-5 * torch.rand_like(values)).contiguous())
    goals = target.gather(1, (rank.double() * quantiles).long().clamp(max=target.shape[1] - 1))
    middle = (torch.arange(pool.shape[1], dtype=torch.double, device=pool.device) + 0.5) * quantiles
    return goals, (pool - target[:, middle.long()]).square().mean().sqrt()


class SlicedWasserstein:
    """Sliced Wasserstein-2 distance of small patches, at several resolutions (Rabin et al. 2011; for images Elnekave and Weiss 2022).

    Patches are projected on random directions, new ones at every call; along each, those of a pool of slices are matched in order of size to
    those of the HR images. What is already nearest to feldspar is told to become feldspar, and only as much of it as is wanted: unlike the gradient
    of a critic this tells voxels of a uniform region apart.

    A few dozen places of a rock never hold its phases in its proportions. The patches of the images are therefore drawn to hold as much of
    each phase as the pool does: the distance is one of shapes, and how much there is of each phase is left to `StatisticsFeedback`.

    Args:
        images: plane group -> its HR images, (y, x) label arrays.
        n_phases: of the images.
        scale_factor: of the images: at scale s they are compared by block means of scale_factor / s pixels.
        patch: edge of a patch, pixels.
        projections: random directions at a time.
        pyramid: block means of the slices that are compared as well; those with too few pixels for a patch are left out.
        samples: patches, roughly, that stand for the newest slices, the pool and the images at a time.
        symmetries: of the square that may turn a patch of the images: 8, or 4 where the plane is anisotropic.
    """

    def __init__(
        self,
        images: Mapping[str, Sequence[np.ndarray]],
        n_phases: int,
        scale_factor: int,
        patch: int = 7,
        projections: int = 32,
        pyramid: Sequence[int] = (1, 2, 4),
        samples: int = 2048,
        symmetries: int = 8,
    ):
        self.images, self.n_phases, self.scale_factor = images, n_phases, scale_factor
        self.patch, self.projections, self.pyramid = patch, projections, list(pyramid)
        self.samples = samples
        self.turns = np.stack([symmetry(np.arange(patch**2).reshape(patch, patch), turn).ravel() for turn in SYMMETRIES[symmetries]])
        self.maps: dict[tuple[str, int], list[Tensor]] = {}  # block means of the images

    def __call__(self, group: str, scale: int, fake: Tensor, pool: Tensor) -> Tensor:
        """Distance that the fakes can shorten.

        Args:
            group: whose images.
            scale: voxels of the slices along the edge of an LR voxel.
            fake: (N, phases, h, w) probabilities of the newest slices; the gradient goes to them alone.
            pool: (M, phases, h, w) slices of this and other places, which stand for all that the generator makes: a place that is all
                quartz is not asked to hold all that the images hold.

        Raises:
            ValueError: the slices are smaller than a patch.
        """
        total, found = fake.new_zeros(()), False
        for factor in self.pyramid:
            if min(fake.shape[-2:]) // factor < self.patch:
                continue
            block, found = factor * self.scale_factor // scale, True
            total = total + self._distance(block_mean(fake, factor), block_mean(pool, factor), self._images(group, block, fake))
        if not found:
            raise ValueError(f"slices of {tuple(fake.shape[-2:])} pixels are smaller than a patch of {self.patch}")
        return total

    def _distance(self, fake: Tensor, pool: Tensor, maps: Sequence[Tensor]) -> Tensor:
        shape = (self.projections, fake.shape[1], self.patch, self.patch)
        direction = torch.randn(shape, dtype=fake.dtype, device=fake.device)
        direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
        projected = self._project(fake, direction)
        with torch.no_grad():
            known = self._project(pool, direction)
            true = self._project_images(maps, direction, pool.mean((0, 2, 3)))
            goal, far = transport(projected, known, true)
            far = far.clamp_min(1e-3)
        # The root of the square is at most this, and equal to it where the fakes are as far as the pool. Its own root would make as much of a
        # place that has nothing to learn as of one that has.
        return 0.5 * ((projected - goal).square().mean() / far + far)

    def _project(self, x: Tensor, direction: Tensor) -> Tensor:
        """(N, C, h, w) -> (projections, patches): about `samples` patches on a grid with a random first pixel."""
        room = [n - self.patch + 1 for n in x.shape[-2:]]
        stride = max(min(int((len(x) * room[0] * room[1] / self.samples) ** 0.5), *room), 1)
        y, x0 = (int(torch.randint(stride, ())) for _ in range(2))
        return F.conv2d(x[:, :, y:, x0:], direction, stride=stride).transpose(0, 1).flatten(1).contiguous()

    def _project_images(self, maps: Sequence[Tensor], direction: Tensor, fractions: Tensor) -> Tensor:
        """(projections, samples) of random patches of the images, each turned at random, that together hold the phases in these fractions."""
        room = torch.tensor([[n - self.patch + 1 for n in x.shape[-2:]] for x in maps])
        counts = torch.multinomial(room.prod(1).double(), 2 * self.samples, replacement=True).bincount(minlength=len(maps))
        found = []
        for x, (rows, columns), count in zip(maps, room.tolist(), counts.tolist()):
            pixel = torch.arange(self.patch)
            grid = (pixel[:, None] * x.shape[-1] + pixel[None, :]).flatten()
            first = torch.randint(rows, (count,)) * x.shape[-1] + torch.randint(columns, (count,))
            turned = grid[torch.from_numpy(self.turns)[torch.randint(len(self.turns), (count,))]]
            found.append(x.flatten(1)[:, (first[:, None] + turned).to(x.device)])  # (C, count, patch^2)
        patches = torch.cat(found, 1)
        weights = tilted(patches.mean(2).T, fractions)
        chosen = torch.multinomial(weights, self.samples, replacement=True)
        return torch.einsum("cnk,jck->jn", patches[:, chosen], direction.flatten(2))

    def _images(self, group: str, block: int, like: Tensor) -> list[Tensor]:
        """Block means of a group's images, (phases, y, x) each; made once.

        Raises:
            ValueError: all of them are smaller than a patch.
        """
        if (group, block) not in self.maps:
            phases = torch.arange(self.n_phases, dtype=torch.uint8)[:, None, None]
            means = [block_mean((torch.from_numpy(np.ascontiguousarray(image)) == phases)[None].to(like), block)[0] for image in self.images[group]]
            self.maps[group, block] = [mean for mean in means if min(mean.shape[-2:]) >= self.patch]
            if not self.maps[group, block]:
                raise ValueError(f"HR images of block means of {block} pixels are smaller than a patch of {self.patch}")
        return self.maps[group, block]
