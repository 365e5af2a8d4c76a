"""Adaptive augmentation of label maps for a critic that sees few HR images (ADA: Karras et al., arXiv 2006.06676), without harm to the labels.

Reals and fakes are augmented alike, with a probability p that follows how far the critic overfits. Pixels change place, or are cut out;
no label turns into another, no two are blended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor

from bundle.errors import switch
from bundle.transforms.slices import allowed_symmetries

FEW = 50  # HR images of a plane group below which a critic is augmented unless told otherwise
MOST = 0.8  # probability above which the generator would begin to make augmented maps (arXiv 2006.06676, figure 3)


class LabelAugmentation:
    """Random symmetries, integer shifts, rotations and scalings by nearest neighbour, and cutout, each with probability p a map.

    What a shift, rotation or scaling takes from beyond the border is mirrored. All of it is one gathering of pixels, so gradients (and
    theirs) flow.

    Args:
        symmetries: of the square that are allowed: 8, or 4 (mirroring) where the plane is anisotropic.
        shift: largest, as a share of the edge.
        rotation: largest angle, degrees; 0 = none. Mirrored planes are not rotated: with 4 symmetries none is applied.
        scaling: standard deviation of log2 of the scaling; 0 = none.
        cutout: edge of the square that is cut out, as a share of the map's; 0 = none.
    """

    def __init__(self, symmetries: int = 8, shift: float = 0.125, rotation: float = 15.0, scaling: float = 0.2, cutout: float = 0.5):
        self.turns = torch.tensor([_matrix(turn) for turn in allowed_symmetries(symmetries)])
        self.shift, self.scaling, self.cutout = shift, scaling, cutout
        self.rotation = rotation if symmetries == 8 else 0.0

    def __call__(self, maps: Tensor, p: float) -> Tensor:
        """(N, phases, h, h) -> the same shape. A cut-out pixel is of no phase: 0 in all channels.

        Raises:
            ValueError: the maps are not square.
        """
        n, phases, h, w = maps.shape
        if h != w:
            raise ValueError(f"maps of {h} x {w} pixels cannot be turned: they must be square")
        if p <= 0:
            return maps

        def chosen() -> Tensor:
            return torch.rand(n) < p

        turn = torch.where(chosen(), torch.randint(len(self.turns), (n,)), torch.zeros(n, dtype=torch.long))
        angle = torch.where(chosen(), (2 * torch.rand(n) - 1) * self.rotation * pi / 180, torch.zeros(n))
        scale = torch.where(chosen(), torch.exp2(torch.randn(n) * self.scaling), torch.ones(n))
        most = int(self.shift * h)
        shift = torch.where(chosen()[:, None], torch.randint(-most, most + 1, (n, 2)), torch.zeros(n, 2, dtype=torch.long))
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
        matrix = rotation @ self.turns[turn].to(rotation) / scale[:, None, None]

        line = torch.arange(h) - (h - 1) / 2
        places = torch.stack(torch.meshgrid(line, line, indexing="ij")).view(2, -1)
        source = (matrix @ places + (h - 1) / 2).round().long() + shift[:, :, None]
        source = _mirrored(source, h)
        index = (source[:, 0] * w + source[:, 1]).to(maps.device)
        kept = torch.ones(n, 1, h, w)
        edge = round(self.cutout * h)
        if edge:
            centre = torch.randint(h, (n, 2))
            away = (torch.arange(h) - centre[:, :, None]).abs() * 2 >= edge
            hole = ~(away[:, 0, :, None] | away[:, 1, None, :]) & chosen()[:, None, None]
            kept = (~hole)[:, None].float()
        moved = maps.flatten(2).gather(2, index[:, None].expand(-1, phases, -1)).view_as(maps)
        return moved * kept.to(maps)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Indices beyond the border, mirrored at it as often as needed: .., 1, 0, 0, 1, .., size - 1, size - 1, .."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _matrix(turn: int) -> list[list[float]]:
    """Symmetry 0..7 as a matrix on (row, column)."""
    matrix = [[1.0, 0.0], [0.0, 1.0]]
    for _ in range(turn % 4):
        matrix = [[-matrix[1][0], -matrix[1][1]], matrix[0]]
    return matrix if turn < 4 else [row[::-1] for row in matrix]


def wanted(setting: bool | str | None, groups: Sequence[Sequence]) -> bool:
    """Whether critics are augmented: as the setting says, and where it says nothing if a group has fewer than `FEW` images.

    Raises:
        InputError: a setting that is neither.
    """
    return min(map(len, groups)) < FEW if setting is None else switch(setting, "augment_critics")


class AdaptiveAugmentation:
    """Augments with a probability that rises where a critic overfits, and falls where it does not; one a critic, a part of the checkpoint.

    r_t = mean sign(D(real) - c) (arXiv 2006.06676, eq. 1): 1 where the critic knows all its reals, 0 where it tells them by chance. c = 0 for a
    critic whose 0 says "undecided"; for one whose scores have no zero (Wasserstein, relativistic) the middle between the means of reals and fakes.

    Args:
        augmentation: what is applied.
        target: r_t that p is steered to.
        interval: steps of a critic between changes of p.
        images: real maps in which p can rise from 0 to 1 at most.
        zero: whether 0 says "undecided".
    """

    def __init__(
        self, augmentation: LabelAugmentation, target: float = 0.6, interval: int = 4, images: int = 30_000, zero: bool = False
    ):
        self.augmentation, self.target, self.interval, self.images, self.zero = augmentation, target, interval, images, zero
        self.p: dict[str, float] = {}
        self.r: dict[str, float] = {}

    def __call__(self, name: str, maps: Tensor) -> Tensor:
        """Maps (N, phases, h, h) as the critic `name` is to see them."""
        return self.augmentation(maps, self.p.get(name, 0.0))

    def follow(self, name: str, real: Tensor, fake: Tensor) -> None:
        """Changes p by the scores (N,) that a critic gave; to be called at every `interval`-th of its steps."""
        real, fake = real.detach().float(), fake.detach().float()
        middle = 0.0 if self.zero else 0.5 * (real.mean() + fake.mean())
        self.r[name] = float((real - middle).sign().mean())
        step = self.interval * len(real) / self.images
        self.p[name] = min(max(self.p.get(name, 0.0) + (step if self.r[name] > self.target else -step), 0.0), MOST)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"p": dict(self.p), "r": dict(self.r)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.p, self.r = dict(state["p"]), dict(state["r"])
