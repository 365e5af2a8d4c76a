"""Fixed kernels that make noise fields of several voxels' width out of one field of white noise."""

from __future__ import annotations

import torch
from torch import Tensor


def shells(number: int) -> Tensor:
    """Fixed 5^3 kernels (number, 1, 5, 5, 5) that make fields of unit variance, independent at every voxel and alike in all directions, of one noise.

    Kernel k averages the voxels at the k-th distance from the centre, so no two kernels share a voxel. There are ten
    distances.
    """
    axis = torch.arange(-2, 3) ** 2
    distance = axis[:, None, None] + axis[None, :, None] + axis[None, None, :]
    kernels = torch.stack([(distance == d).float() for d in distance.unique()])
    if number > len(kernels):
        raise ValueError(f"{number} phases, at most {len(kernels)} are possible")
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


def bell(radius: int) -> Tensor:
    """Gaussian (standard deviation radius / 2) along one axis, (1, 1, d, 1, 1), d = 2 radius + 1; along all three it makes a field of unit variance."""
    x = torch.arange(-radius, radius + 1, dtype=torch.float64) / (radius / 2)
    weights = torch.exp(-x.square() / 2)
    return (weights / weights.norm()).float().view(1, 1, -1, 1, 1)
