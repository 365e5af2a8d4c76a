"""Sliced Wasserstein distance between the patches of fake and of real slices: a teacher that needs no critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bundle.errors import InputError, switch
from bundle.metrics.gates import cut_tiles
from bundle.transforms.downsample import block_mean, coarse_labels, phase_shares
from bundle.transforms.slices import allowed_symmetries, symmetry

MOST_PIXELS = 2**24  # of the images of a group that are compared, 270 MB for four phases: of a larger stack a half, a third, .. of the images, drawn
TILE = 1024  # edge of the tiles of which an image with more pixels is a stack


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
    """Sliced Wasserstein-2 distance of small patches, at several resolutions (Rabin et al. 2011; for images Elnekave and Weiss 2022), phase by phase.

    Patches are projected on random directions, new ones at every call; along each, those of a pool of slices are matched in order of size to
    those of the HR images. What is already nearest to feldspar is told to become feldspar, and only as much of it as is wanted: unlike the gradient
    of a critic this tells voxels of a uniform region apart.

    Patches are compared by the phase at their centre: what surrounds a voxel of clay here with what surrounds one there. So the rare
    phases, which hold the texture, do not drown in the abundant one, and the distance is one of shapes: how much there is of each phase, which
    the few places of a pool never hold in the proportions of the rock, does not count.

    Most patches of an abundant phase hold nothing else, and the texture within it, such as the pores of an eaten grain, drowns in them. A share of
    the patches may be drawn where their centre lies at a border of its phase, which brings it out.

    Args:
        images: plane group -> its HR images, (y, x) label arrays.
        n_phases: of the images.
        scale_factor: of the images: at scale s they are compared by block means of scale_factor / s pixels.
        patch: edge of a patch, pixels, odd.
        projections: random directions at a time.
        pyramid: block means of the slices that are compared as well; those with too few pixels for a patch are left out.
        samples: patches a phase that stand for the newest slices, the pool and the images at a time.
        borders: share of them whose centre lies at a border of its phase, 0..1; where the others lie is left to chance.
        hard_labels: whether the slices of all scales are labels; then the images are compared by their majority labels at each scale.
        symmetries: of the square that may turn a patch of the images: 8, or 4 where the plane is anisotropic.

    Raises:
        InputError: a patch of even edge: it has no pixel at its centre; or of one pixel, which has none beside it; a share beyond 0..1.
    """

    def __init__(
        self,
        images: Mapping[str, Sequence[np.ndarray]],
        n_phases: int,
        scale_factor: int,
        patch: int = 7,
        projections: int = 32,
        pyramid: Sequence[int] = (1, 2, 4),
        samples: int = 512,
        symmetries: int = 8,
        borders: float = 0.0,
        hard_labels: bool = False,
    ):
        if patch % 2 == 0:
            raise InputError(f"patches#patch: {patch} pixels have none at their centre; give an odd edge")
        if patch < 3:
            raise InputError(f"patches#patch: {patch} pixel has nothing beside its centre; give 3 or more")
        if not 0 <= borders <= 1:
            raise InputError(f"patches#borders: {borders}; the share of the patches that lies at borders is 0 to 1")
        self.images, self.n_phases, self.scale_factor = images, n_phases, scale_factor
        self.patch, self.projections, self.pyramid = patch, projections, list(pyramid)
        self.samples, self.borders, self.hard_labels = samples, borders, switch(hard_labels, "hard_labels")
        places = np.arange(patch**2).reshape(patch, patch)
        self.turns = torch.from_numpy(np.stack([symmetry(places, turn).ravel() for turn in allowed_symmetries(symmetries)]))
        self.sheets: dict[tuple[str, int, int], Sheets] = {}  # block means of the images

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
        total, found, pixel = fake.new_zeros(()), False, self.scale_factor // scale
        for factor in self.pyramid:
            if min(fake.shape[-2:]) // factor < self.patch:
                continue
            found = True
            newest, known = (Sheets.of(block_mean(x, factor)) for x in (fake, pool))
            total = total + self._distance(newest, known, self._images(group, pixel, factor, fake))
        if not found:
            raise ValueError(f"slices of {tuple(fake.shape[-2:])} pixels are smaller than a patch of {self.patch}")
        return total

    def _distance(self, newest: Sheets, pool: Sheets, images: Sheets) -> Tensor:
        """Mean over the phases of the distance between patches with the phase at their centre, weighted by the root of its share."""
        like = newest.values
        direction = torch.randn(self.patch**2 * self.n_phases, self.projections, dtype=like.dtype, device=like.device)
        direction = direction / direction.norm(dim=0)
        drawn = []
        for sheets in (newest, pool, images):
            first, amounts = sheets.places(32 * self.samples, self.patch)
            drawn.append((sheets, first, amounts, sheets.at_borders(first, self.patch) if self.borders else amounts))
        shares, edges = ([one[k].mean(0) for one in drawn] for k in (2, 3))
        total, weight = 0.0 * like.sum(), 0.0
        for phase in range(self.n_phases):
            if min(float(share[phase]) for share in shares) * 32 * self.samples < 1:
                continue  # a phase that the images lack has no shape, one that is not there cannot change it
            values = [self.project(sheets, first[self.draw(amounts[:, phase], borders[:, phase])], direction, sheets is images)
                      for sheets, first, amounts, borders in drawn]  # fmt: skip
            with torch.no_grad():
                goal, far = transport(*values)
                far = far.clamp_min(1e-3)
            # The root of the square is at most this, and equal to it where the fakes are as far as the pool. Its own root would make as much
            # of a place that has nothing to learn as of one that has; a place with little of a phase counts as little as it has, and one with
            # far more than the pool, which may have drawn none of it, does not count without bound.
            inside = (shares[0][phase] / shares[1][phase]).clamp(max=10.0)
            edge = (edges[0][phase] / edges[1][phase]).clamp(max=10.0) if edges[1][phase] else inside
            amount = (1 - self.borders) * inside + self.borders * edge
            distance = 0.5 * ((values[0] - goal).square().mean() / far * amount + far)
            root = shares[1][phase].sqrt()
            total, weight = total + root * distance, weight + float(root)
        return total / max(weight, 1e-12)

    def draw(self, amounts: Tensor, borders: Tensor) -> Tensor:
        """Which of the places (n,) are compared, (samples,): by how much of a phase is at their centre, or, for a share of them, at a border there.

        A phase without borders is drawn by its amount alone.
        """
        weights = (1 - self.borders) * amounts / amounts.sum() + self.borders * borders / borders.sum().clamp_min(1e-30)
        return torch.multinomial(weights if weights.any() else amounts, self.samples, replacement=True)

    def project(self, sheets: Sheets, first: Tensor, direction: Tensor, turned: bool = False) -> Tensor:
        """(projections, patches): the patches that start at the pixels `first`, on the directions; each turned at random if so wanted."""
        turn = self.turns[torch.randint(len(self.turns), (len(first),))] if turned else self.turns[:1]
        width = sheets.width[sheets.sheet(first)][:, None]
        pixels = first[:, None] + (turn // self.patch).to(width.device) * width + (turn % self.patch).to(width.device)
        patches = sheets.values.index_select(0, pixels.flatten()).view(len(first), -1)
        return (patches @ direction).T.contiguous()

    def _images(self, group: str, pixel: int, factor: int, like: Tensor) -> Sheets:
        """Means of a group's images over blocks of `factor` pixels of a scale that are `pixel` of theirs; made once.

        Raises:
            ValueError: all of them are smaller than a patch.
        """
        if not self.hard_labels:  # a mean of means is the mean
            pixel, factor = 1, pixel * factor
        if (group, pixel, factor) not in self.sheets:
            images = [tile for image in self.images[group] for tile in _tiles(image)]
            parts = -(-sum(image.size for image in images) // MOST_PIXELS)
            if parts > 1:  # drawn, as every n-th tile of a mosaic may be one column of it
                images = [images[i] for i in sorted(np.random.default_rng(0).permutation(len(images))[: -(-len(images) // parts)])]
            if pixel > 1:
                images = [coarse_labels(image, self.n_phases, pixel) for image in images]
            means = [phase_shares(image, self.n_phases, factor).to(like) for image in images]
            means = [mean for mean in means if min(mean.shape[-2:]) >= self.patch]
            if not means:
                raise ValueError(f"HR images of block means of {pixel * factor} pixels are smaller than a patch of {self.patch}")
            self.sheets[group, pixel, factor] = Sheets.of(means)
        return self.sheets[group, pixel, factor]


def _tiles(image: np.ndarray) -> list[np.ndarray]:
    """The image, or what it is cut into where it is a mosaic that is too large to be compared whole."""
    return [image] if image.size <= MOST_PIXELS else cut_tiles(image, [min(TILE, size) for size in image.shape])


class Sheets:
    """Images of any size, one after the other as pixels (pixels, phases), so that patches of all of them are gathered at once."""

    def __init__(self, values: Tensor, sizes: Sequence[tuple[int, int]]):
        self.values = values
        self.height, self.width = torch.tensor(sizes, device=values.device).T
        self.end = (self.height * self.width).cumsum(0)

    @classmethod
    def of(cls, images: Sequence[Tensor] | Tensor) -> Sheets:
        """Of (phases, h, w) each, or of a batch of them."""
        if isinstance(images, Tensor):
            return cls(images.movedim(1, -1).reshape(-1, images.shape[1]), [tuple(images.shape[-2:])] * len(images))
        return cls(torch.cat([image.flatten(1).T for image in images]), [tuple(image.shape[-2:]) for image in images])

    def sheet(self, pixel: Tensor) -> Tensor:
        """On which image a pixel is."""
        return torch.searchsorted(self.end, pixel, right=True)

    def centres(self, first: Tensor, patch: int) -> Tensor:
        """Pixels at the centre of the patches that start at the pixels `first`."""
        return first + patch // 2 * (self.width[self.sheet(first)] + 1)

    def places(self, number: int, patch: int) -> tuple[Tensor, Tensor]:
        """First pixels (number,) of random patches, everywhere alike, and how much (number, phases) their centre is of each phase.

        It is the square of the probability: a wide region that is a little bit of a phase is not to count as a piece of it.
        """
        rows, columns = self.height - patch + 1, self.width - patch + 1
        sheet = torch.multinomial((rows * columns).double(), number, replacement=True)
        row, column = ((torch.rand(number, dtype=torch.float64, device=n.device) * n[sheet]).long() for n in (rows, columns))
        first = (self.end - self.height * self.width)[sheet] + row * self.width[sheet] + column
        return first, self.values.detach()[self.centres(first, patch)].square()

    def at_borders(self, first: Tensor, patch: int) -> Tensor:
        """How much (n, phases) the centre of the patches that start at the pixels `first` is at a border of each phase.

        p^2 (1 - q)^2, where p is the probability there, and q the least in the four pixels beside.
        """
        values, centre, width = self.values.detach(), self.centres(first, patch), self.width[self.sheet(first)]
        least = torch.stack([values[centre + step] for step in (1, -1, width, -width)]).amin(0)
        return (values[centre] * (1 - least)).square()
