"""Fixed kernels that make noise fields of several voxels' width out of one field of white noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.errors import InputError


def shells(number: int) -> Tensor:
    """Fixed 5^3 kernels (number, 1, 5, 5, 5) that make fields of unit variance, independent at every voxel and alike in all directions, of one noise.

    Kernel k averages the voxels at the k-th distance from the centre, so no two kernels share a voxel. There are ten
    distances.
    """
    axis = torch.arange(-2, 3) ** 2
    distance = axis[:, None, None] + axis[None, :, None] + axis[None, None, :]
    kernels = torch.stack([(distance == d).float() for d in distance.unique()])
    if number > len(kernels):
        raise InputError(f"phases: {number} are named, at most {len(kernels)} are possible; join some of them")
    return (kernels / kernels.square().sum((1, 2, 3), keepdim=True).sqrt())[:number, None]


def waves(number: int, radius: int) -> Tensor:
    """Fixed kernels (number, 1, d, d, d), d = 2 radius + 1, that make smooth fields of unit variance, independent at every voxel, of one noise.

    Gaussian (standard deviation radius / 2) times even polynomials of the distance, orthogonal to each other: alike in all directions.
    """
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64) / (radius / 2)
    squared = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).flatten()
    basis = torch.stack([squared**k * torch.exp(-squared / 2) for k in range(number)], dim=1)
    orthogonal = torch.linalg.qr(basis)[0] if number > 1 else basis / basis.norm()
    d = 2 * radius + 1
    return orthogonal.T.reshape(number, 1, d, d, d).float()


def by_axes(kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels (along z, along y, along x), the last in a group for each field, that one after the other do what `kernels` (K, 1, d, d, d) do.

    The singular vectors of the kernels along an axis are n one-dimensional kernels, of whose products they are sums (a Tucker decomposition).
    For kernels that are alike along all axes, as waves are, with n much smaller than d: four of d = 33 take thirty times fewer multiplications.
    """
    solid = kernels[:, 0].double()
    fields, d = solid.shape[:2]
    _, strength, vectors = torch.linalg.svd(solid.reshape(-1, d), full_matrices=False)
    line = vectors[strength > 1e-6 * strength[0]]
    n = len(line)
    core = torch.einsum("kzyx,az,by,cx->kabc", solid, line, line, line)
    along_z = line.view(n, 1, d, 1, 1)
    along_y = torch.einsum("kabc,by->kcay", core, line).reshape(fields * n, n, 1, d, 1)
    along_x = line.repeat(fields, 1).view(fields, n, 1, 1, d)
    return along_z.float(), along_y.float(), along_x.float()


class SmoothNoise(nn.Module):
    """Fields of unit variance, some voxels wide and independent of each other at every voxel, of one field of white noise: `waves`, axis by axis.

    The smoothest wave is left out, as the noise of `HiddenPhases` is nearly that (to .99): shared, it would also say where their specks appear in other phases.
    """

    def __init__(self, number: int, radius: int):
        super().__init__()
        self.number: int = number
        for axis, kernel in zip("zyx", by_axes(waves(number + 1, radius)[1:])):
            self.register_buffer(axis, kernel)

    def forward(self, noise: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> (B, number, D - 2 radius, H - 2 radius, W - 2 radius)."""
        return F.conv3d(F.conv3d(F.conv3d(noise, self.z), self.y), self.x, groups=self.number)


GAUSSIAN = 1 / (2 + math.exp(1 / (2 * 0.7**2)))
"""Weight of either neighbour along an axis in a Gaussian with a standard deviation of 0.7 voxels."""


def softened(x: Tensor, share: Tensor, beside: float = GAUSSIAN) -> Tensor:
    """(B, C, D, H, W) -> (B, C, D-2, H-2, W-2): `share` of what averaging makes of it, with `beside` of either neighbour along each axis, and the rest
    as it was.

    The surface of labels that are interpolated has a bump at every voxel; with half of the Gaussian the bumps halve, while a voxel that is alone
    among others still has more of its label (0.6) than of theirs.
    """
    inner = x[:, :, 1:-1, 1:-1, 1:-1]
    return inner + share * (_spread(x, beside) - inner)


def blurred(noise: Tensor, blur: Tensor) -> Tensor:
    """White noise (B, C, D, H, W) -> (B, C, D-2, H-2, W-2) of the same variance: as it was where `blur` is 0; where it is 1 a voxel has two thirds in
    common with the next one along an axis.

    What is interpolated of white noise peaks at the voxels of its own grid alone, so that what it decides stands in rows.
    """
    inner = noise[:, :, 1:-1, 1:-1, 1:-1]
    return inner + blur * ((8 / 3) ** 1.5 * _spread(noise, 0.25) - inner)


def _spread(x: Tensor, beside: float) -> Tensor:
    """(B, C, D, H, W) -> (B, C, D-2, H-2, W-2): along each axis `beside` of either neighbour, and what is left to 1 of the voxel itself."""
    for axis in (2, 3, 4):  # sums, since a convolution would be rounded to bfloat16 under autocast
        n = x.shape[axis] - 2
        x = (1 - 2 * beside) * x.narrow(axis, 1, n) + beside * (x.narrow(axis, 0, n) + x.narrow(axis, 2, n))
    return x
