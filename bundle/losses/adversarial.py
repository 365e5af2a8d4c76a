"""Adversarial losses on slices: Wasserstein with gradient penalty, relativistic with R1 + R2, and logistic with R1 now and then."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _squared_gradient_norm(critic: nn.Module, slices: Tensor) -> Tensor:
    """Squared L2 norm of d score / d slice, one a slice: (N, C, h, w) -> (N,), differentiable."""
    slices = slices.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(slices).sum(), slices, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


class WassersteinLoss:
    """Wasserstein loss with a penalty on the gradient norm at random interpolates, one a slice (Gulrajani et al. 2017, eq. 3).

    Args:
        penalty: weight of the gradient penalty (10 in the paper).
        rms: measures the distance of slices as root mean square over the pixels instead of the sum. With the sum it grows with the
            crop (90 for two 64^2 slices without a common pixel), and the penalty that the critic pays for exceeding slope 1 by
            distance / (2 penalty) is too small to hold it: its scores run away and the generator collapses. Distances are then
            below 1.5, and a penalty of 1 holds; with 10 the critic learns little else than to keep its slope.
    """

    def __init__(self, penalty: float = 10.0, rms: bool = False):
        self.penalty, self.rms = penalty, rms

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar to be minimised by the critic; real and fake are (N, phases, h, w)."""
        n = min(len(real), len(fake))
        t = torch.rand(n, 1, 1, 1, device=real.device, dtype=real.dtype)
        norm = (_squared_gradient_norm(critic, torch.lerp(fake[:n], real[:n], t)) + 1e-12).sqrt()
        if self.rms:
            norm = norm * (real.shape[-2] * real.shape[-1]) ** 0.5
        return critic(fake).mean() - critic(real).mean() + self.penalty * (norm - 1).square().mean()

    def generator_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar to be minimised by the generator."""
        return -critic(fake).mean()


class RelativisticLoss:
    """Relativistic pairing loss with zero-centred penalties on reals and fakes (R3GAN, Huang et al. 2024, eq. 2 and 3).

    Args:
        r1, r2: weights of half the squared gradient norm at reals and at fakes.
    """

    def __init__(self, r1: float = 1.0, r2: float = 1.0):
        self.r1, self.r2 = r1, r2

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar to be minimised by the critic; slices beyond the shorter of the two sets are left out."""
        n = min(len(real), len(fake))
        real, fake = real[:n], fake[:n]
        loss = F.softplus(critic(fake) - critic(real)).mean()
        r1 = _squared_gradient_norm(critic, real).mean()
        r2 = _squared_gradient_norm(critic, fake).mean()
        return loss + 0.5 * (self.r1 * r1 + self.r2 * r2)

    def generator_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar to be minimised by the generator."""
        n = min(len(real), len(fake))
        return F.softplus(critic(real[:n]) - critic(fake[:n])).mean()


class LogisticLoss:
    """Non-saturating logistic loss (Goodfellow et al. 2014) with R1, which may be taken lazily (StyleGAN2, arXiv 1912.04958, section 3.2)."""

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar to be minimised by the critic, without the penalty."""
        return F.softplus(critic(fake)).mean() + F.softplus(-critic(real)).mean()

    def penalty(self, critic: nn.Module, real: Tensor) -> Tensor:
        """Mean squared gradient norm at the reals: R1 without its weight of gamma / 2 (Mescheder et al. 2018, eq. 9)."""
        return _squared_gradient_norm(critic, real).mean()

    def generator_loss(self, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar to be minimised by the generator; the reals do not matter."""
        return F.softplus(-critic(fake)).mean()
