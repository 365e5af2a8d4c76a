"""Path length regularisation of a generator (StyleGAN2, arXiv 1912.04958, section 3.2, eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class PathLength:
    """Charges a step in the style vectors for changing the image by other than the mean amount. Its running mean is a part of the checkpoint.

    Args:
        decay: share of a batch in the running mean.
    """

    def __init__(self, decay: float = 0.01):
        self.decay, self.mean = decay, 0.0

    def __call__(self, images: Tensor, ws: Tensor) -> Tensor:
        """Mean of (|J^T y| - a)^2, differentiable.

        Args:
            images: (N, C, h, w), computed from `ws`.
            ws: style vectors (N, levels, n), which need a gradient. The squared length is the mean over the levels.
        """
        lengths = path_lengths(images, ws, torch.randn_like(images))
        self.mean += self.decay * (float(lengths.detach().mean()) - self.mean)
        return (lengths - self.mean).square().mean()

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """From a checkpoint."""
        self.mean = float(state["mean"])


def path_lengths(images: Tensor, ws: Tensor, direction: Tensor) -> Tensor:
    """|J^T y| of each image (N,): J = d images / d ws, y = `direction` (N, C, h, w) / sqrt(h w)."""
    h, w = images.shape[-2:]
    (gradient,) = torch.autograd.grad((images * direction).sum() / (h * w) ** 0.5, ws, create_graph=True)
    return (gradient.square().sum(2).mean(1) + 1e-12).sqrt()  # the root of 0 has no gradient
