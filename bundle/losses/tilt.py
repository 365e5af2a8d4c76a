"""Weights that make a sample hold what it should hold: exponential tilting."""

from __future__ import annotations

import torch
from torch import Tensor


def tilted(shares: Tensor, wanted: Tensor) -> Tensor:
    """Weights of the rows of `shares` (N, L) whose weighted mean is `wanted` (L,), as near to equal as they can be.

    Exponential tilting: w proportional to exp(shares λ), the weights of least relative entropy; λ by Newton's method. A slight pull to equal
    weights keeps them finite where no weights give the mean.
    """
    x = (shares - wanted).double()
    tilt = x.new_zeros(x.shape[1])
    for _ in range(20):
        weights = torch.softmax(x @ tilt, 0)
        mean = weights @ x
        gradient = mean + 1e-6 * tilt
        curvature = (x * weights[:, None]).T @ x - mean[:, None] * mean + 1e-6 * torch.eye(len(tilt), dtype=x.dtype, device=x.device)
        step = torch.linalg.solve(curvature, gradient)
        tilt = tilt - step * min(1.0, 5.0 / float(step.norm() + 1e-12))
    return torch.softmax(x @ tilt, 0)
