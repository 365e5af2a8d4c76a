"""2D critics that score slices: one a scale (and a plane group, when the rock is anisotropic)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn


class SliceCritic(nn.Module):
    """Scores slices of phase probabilities; the mean of a map of overlapping patch scores. No normalisation: the penalty is per slice.

    Args:
        in_channels: phases.
        channels: width of the stem and then of each stride-2 convolution.
    """

    def __init__(self, in_channels: int, channels: Sequence[int] = (16, 32, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, padding=1), nn.LeakyReLU(0.2)]
        for a, b in zip(channels[:-1], channels[1:]):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(channels[-1], channels[-1], 3), nn.LeakyReLU(0.2), nn.Conv2d(channels[-1], 1, 1)]
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):  # torch's default lets the scores vanish with depth, and the critic say nothing for long
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            layer.weight.mul_(0.2)  # a slope near 1 to begin with; else the first hundreds of steps only pay the gradient penalty

    def forward(self, slices: Tensor) -> Tensor:
        """(N, phases, h, w) -> (N,) scores."""
        return self.layers(slices).mean(dim=(1, 2, 3))


class PaperCritic(nn.Module):
    """The critic of arXiv 2501.06939: six k4 s2 p1 convolutions with ReLU, then k3 s2 p0 to one channel; needs slices of 192^2 or more.

    Args:
        in_channels: phases.
        last_kernel: kernel of the last convolution; 1 for slices down to 64^2.
    """

    def __init__(self, in_channels: int, last_kernel: int = 3):
        super().__init__()
        channels = (in_channels, 16, 32, 64, 128, 256, 512)
        layers: list[nn.Module] = []
        for a, b in zip(channels[:-1], channels[1:]):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, last_kernel, stride=2))

    def forward(self, slices: Tensor) -> Tensor:
        """(N, phases, h, w) -> (N,) scores."""
        return self.layers(slices).mean(dim=(1, 2, 3))


def make_critics(groups: Iterable[str], scales: Iterable[int], make: Callable[[], nn.Module]) -> nn.ModuleDict:
    """One critic for each plane group and scale, named `<group>_<scale>x` as the trainer looks them up."""
    scales = list(scales)
    return nn.ModuleDict({f"{group}_{scale}x": make() for group in groups for scale in scales})
