"""Layers of the generator of images and of its critic (bundle/networks/stylegan2.py): equalised rates, modulated convolutions, changes of resolution.

Weights are folded with the resampling filter, so that a layer which resamples is a single convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.errors import InputError


def level_edges(resolution: int, start: int = 4) -> list[int]:
    """Edges of the levels, from `start` to `resolution`, each twice the one before.

    Raises:
        InputError: they do not meet.
    """
    levels = log2(resolution / start) if resolution >= start else -1.0
    if levels < 1 or levels != int(levels):
        raise InputError(f"resolution: {resolution} is not {start} times a power of 2; give one, such as {start * 32}")
    return [start * 2**i for i in range(int(levels) + 1)]


def precise(x: Tensor) -> Tensor:
    """float32 of what autocast made bfloat16; wider types stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, 0.2) * sqrt(2)


def _folded(weight: Tensor, taps: Sequence[float]) -> Tensor:
    """(o, i, k, k) convolved with the separable filter of four `taps`: (o, i, k + 3, k + 3), as one small matrix product."""
    k = weight.shape[-1]
    line = weight.new_tensor(taps)
    spread = weight.new_zeros(k + 3, k)
    for i in range(k):
        spread[i : i + 4, i] = line
    return (weight.flatten(2) @ torch.kron(spread, spread).T).unflatten(2, (k + 3, k + 3))


def upsampling_conv(x: Tensor, weight: Tensor, cut: int = 0) -> Tensor:
    """Twice as fine by linear interpolation, then convolved: (N, i, h, w), (o, i, k, k) -> (N, o, 2 h - 2 cut, 2 w - 2 cut).

    Zeros lie beyond the border; `cut` fine pixels are cut away at each.
    """
    kernel = _folded(weight.flip(-1, -2), (0.25, 0.75, 0.75, 0.25))
    return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=(weight.shape[-1] + 1) // 2 + cut)


def downsampling_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Low-pass filtered, then convolved at every second pixel: (N, i, h, w), (o, i, k, k) and (o,) -> (N, o, h / 2, w / 2)."""
    return F.conv2d(x, _folded(weight, (0.125, 0.375, 0.375, 0.125)), bias, stride=2, padding=(weight.shape[-1] + 1) // 2)


class ScaledLinear(nn.Module):
    """Linear layer whose weights are drawn of unit variance and scaled as it runs (equalised learning rate, arXiv 1710.10196 section 4.1).

    Args:
        n_in, n_out: features.
        bias: initial value.
        rate: factor on the learning rate.
    """

    def __init__(self, n_in: int, n_out: int, bias: float = 0.0, rate: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / rate)
        self.bias = nn.Parameter(torch.full((n_out,), bias / rate))
        self.gain, self.rate = rate / sqrt(n_in), rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in) -> (N, n_out)."""
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class ScaledConv(nn.Module):
    """Convolution with an equalised learning rate, and low-pass filtering where it halves the resolution.

    Args:
        n_in, n_out: channels.
        kernel: edge, odd.
        down: halves the resolution.
        bias: adds one.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, down: bool = False, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.gain, self.down = 1 / sqrt(n_in * kernel**2), down

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, h, w) -> (N, n_out, h, w), or half of it."""
        weight = self.weight * self.gain
        return downsampling_conv(x, weight, self.bias) if self.down else F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)


class ModulatedConv(nn.Module):
    """Convolution whose input channels a style scales, its output channels brought back to unit variance (arXiv 1912.04958, eq. 1 and 3).

    Scaling the activations before and after one common convolution gives what weights of each sample's own would.

    Args:
        n_in, n_out: channels.
        kernel: edge, odd.
        n_style: features of the style vector.
        up: doubles the resolution first.
        demodulate: False for the layer that makes logits.
        cut: pixels that a layer which doubles the resolution cuts away at each border.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, n_style: int, up: bool = False, demodulate: bool = True, cut: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.style = ScaledLinear(n_style, n_in, bias=1.0)
        self.gain, self.up, self.demodulate, self.cut = 1 / sqrt(n_in * kernel**2), up, demodulate, cut

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(N, n_in, h, w), (N, n_style) -> (N, n_out, h, w), or twice as fine and cut."""
        scale, weight = self.style(w), self.weight * self.gain
        x = x * scale[:, :, None, None].to(x.dtype)
        x = upsampling_conv(x, weight, self.cut) if self.up else F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return x
        variance = precise(scale).square() @ precise(weight).square().sum((2, 3)).T
        return x * (variance + 1e-8).rsqrt()[:, :, None, None].to(x.dtype)
