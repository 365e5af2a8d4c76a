"""Phases that the LR has nowhere around a voxel: as much of them there, in as few places, as in the HR images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.buffer import StepMemory
from bundle.transforms.downsample import most_frequent, phase_shares

LEAST = 0.02
"""Smallest tolerance: probabilities are never sure."""

FEWEST = 50
"""Blocks without a phase around them from which its tolerances may be measured."""

LOST = 0.1
"""Share of a phase beyond which the scan has lost so much of it that its absence says nothing, but among alike neighbours."""

BINS = 64
"""Steps of a share, 0 to 1, in which what is made is counted: the pixels of a block at 8x."""

RANKS = 1000
"""Steps of a rank in which the images' shares are kept."""


def absent(onehot: Tensor, known: Sequence[bool]) -> Tensor:
    """1 where no neighbour of a pixel or voxel, diagonal ones included, nor itself has a label: (B, L, …) -> the same, by label. Of labels that are not
    `known` the absence counts only where all neighbours are alike. At the border they are not known: 0."""
    dimensions = onehot.ndim - 2
    if min(onehot.shape[2:]) < 3:
        return torch.zeros_like(onehot)
    nowhere = 1 - (F.max_pool2d, F.max_pool3d)[dimensions - 2](onehot, 3, 1)
    alike = (nowhere.sum(1, keepdim=True) == onehot.shape[1] - 1).to(onehot)
    trusted = torch.tensor(known, device=onehot.device).view(-1, *[1] * dimensions)
    return F.pad(torch.where(trusted, nowhere, nowhere * alike), [1, 1] * dimensions)


def plane_shares(probabilities: Tensor, factor: int) -> Tensor:
    """What the planes of each block hold, in all three directions: (B, P, s d, s h, s w) -> (B, P, d, h, w, 3 s), s = factor."""
    b, p, *size = probabilities.shape
    d, h, w = (n // factor for n in size)
    blocks = probabilities.reshape(b, p, d, factor, h, factor, w, factor)
    return torch.cat([blocks.mean((5, 7)).movedim(3, -1), blocks.mean((3, 7)).movedim(4, -1), blocks.mean((3, 5))], -1)


class AbsentPhases(StepMemory):
    """Tolerances of the phases that the LR has nowhere around a voxel, set by what the HR images hold of phases that are nowhere around.

    A block of HR pixels is labelled by its majority; a phase is absent where neither it nor the eight blocks around it have its label. The planes of an
    LR voxel are such blocks, and a phase is absent where neither it nor its 26 neighbours have its label. What planes hold of an absent phase is ranked
    among those of the last steps with the same LR label, and the tolerance is what has this rank among the images' blocks: optimal transport in one
    dimension. So where 4 % of the images' blocks within feldspar hold a pore, 4 % may, as much as those do; a tolerance that is the same for every
    voxel would be used by every voxel, as specks everywhere.

    A phase that comes in bodies larger than an LR voxel the scan sees where it is. Pores may be too small to be seen, and of a phase of which the scan
    has lost more than a tenth it has not seen all: their absence counts only where all neighbours are alike. Where planes differ the absence of a lost
    phase does not count at all: a fibre is a line in one plane, which fills most of a block there, and a dot in another and in the voxels of the scan.

    Args:
        images: (y, x) labels, HR.
        labels: names of the LR labels, the first phases.
        scale_factor: pixels along the edge of a block.
        tolerance: of a phase that is absent around fewer than 50 of the images' blocks of a label.
        seen: names of the phases that come in bodies larger than an LR voxel; those that are no labels of this rock are left out.
        lr_fractions, hr_fractions: of the labels in the whole volume, as the losses see it, and of the phases in the HR images.
        mixed: {LR label: phase}: voxels mixed of that phase and another pass for the label, so that the images' blocks say nothing of how much of the phase
            the label may hold: `tolerance`. Names that are no labels of this rock are left out.
        planes_differ: each plane has images of its own.
        steps: generator steps that are ranked together.
    """

    def __init__(
        self,
        images: Iterable[np.ndarray],
        labels: Sequence[str],
        scale_factor: int,
        tolerance: float,
        seen: Sequence[str],
        lr_fractions: Sequence[float],
        hr_fractions: Sequence[float],
        mixed: Mapping[str, str] | None = None,
        planes_differ: bool = False,
        steps: int = 64,
    ):
        super().__init__(steps)  # by scale: counts of the shares of each step
        lost = [found < (1 - LOST) * wanted for _, found, wanted in zip(labels, lr_fractions, hr_fractions)]
        self.known = [name in seen and not gone for name, gone in zip(labels, lost)]
        self.counts = torch.tensor([not (gone and planes_differ) for gone in lost])
        self.allowed = torch.from_numpy(images_shares(images, self.known, scale_factor, tolerance))
        self.mixed = dict(mixed or {})
        for label, phase in self.mixed.items():
            if label in labels and phase in labels:
                self.allowed[labels.index(label), labels.index(phase)] = tolerance

    def where(self, lr_onehot: Tensor) -> Tensor:
        """Where LR phases are absent, both (B, L, d, h, w); at the border nowhere, so give what lies around, too, and cut it away."""
        return absent(lr_onehot, self.known) * self.counts.to(lr_onehot)[:, None, None, None]

    def __call__(self, probabilities: Tensor, lr_onehot: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """What the planes of every LR voxel hold of each LR phase, and what they may hold where it is absent, both (B, L, d, h, w, 3 s).

        Args:
            probabilities: (B, P, s d, s h, s w) of one generator step, which is counted.
            lr_onehot: (B, L, d, h, w).
            where: as `where` gives, of these voxels.
        """
        number, factor = lr_onehot.shape[1], probabilities.shape[-1] // lr_onehot.shape[-1]
        shares = plane_shares(probabilities[:, :number], factor)
        label, bins = lr_onehot.argmax(1), (shares.detach() * BINS).round().long()
        place = torch.arange(number, device=shares.device)[:, None, None, None, None]
        place = ((label[:, None, ..., None] * number + place) * (BINS + 1)).expand_as(bins)
        weights = where[..., None].expand_as(shares).to(shares.dtype).flatten()
        counts = weights.new_zeros(number**2 * (BINS + 1)).scatter_add_(0, (place + bins).flatten(), weights)
        self.remember(f"{factor}x", counts.reshape(number, number, BINS + 1).cpu())
        return shares, self.tolerances(f"{factor}x").to(shares).flatten()[place + bins]

    def tolerances(self, scale: str) -> Tensor:
        """Of shares of 0, 1/64, …, 1 as they are counted now: (L, L, 65), rows LR label, columns phase."""
        counts = torch.stack([step for step, in self.rings[scale]]).double().sum(0)
        rank = (counts.cumsum(-1) - 0.5 * counts) / counts.sum(-1, keepdim=True).clamp(min=1)
        return self.allowed.gather(-1, (rank * RANKS).long().clamp(max=RANKS - 1))


def images_shares(images: Iterable[np.ndarray], known: Sequence[bool], scale_factor: int, tolerance: float) -> np.ndarray:
    """What blocks of HR pixels hold of each phase that is absent around them, in order of size: (L, L, 1000), rows their label, columns the phase, the
    middles of a thousand ranks.

    Arguments as of `AbsentPhases`; `known` as of `absent`, of the LR labels.
    """
    number = len(known)
    blocks = []  # of each image: the label, the shares and what is absent, block by block
    for image in images:
        n_phases = max(number, int(image.max()) + 1)
        shares = phase_shares(image, n_phases, scale_factor)
        labels = most_frequent(shares, image, scale_factor)
        where = absent(F.one_hot(labels, n_phases).movedim(-1, 0)[None].float(), [*known, *[True] * (n_phases - number)])[0]
        blocks.append((labels.flatten(), shares[:number].flatten(1), where[:number].flatten(1) > 0))
    labels, shares, where = (torch.cat(parts, -1) for parts in zip(*blocks))
    result = np.full((number, number, RANKS), tolerance)
    for label, phase in np.ndindex(number, number):
        found = shares[phase, (labels == label) & where[phase]].double().numpy()
        if len(found) >= FEWEST:
            result[label, phase] = np.quantile(found, (np.arange(RANKS) + 0.5) / RANKS, method="inverted_cdf")
    return result
