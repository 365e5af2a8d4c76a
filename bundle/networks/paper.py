"""The generator of arXiv 2501.06939 to the layer (20,146,980 parameters at 5 -> 4 channels; 32^3 -> 256^3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.networks.generator import Box


def _conv(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(a, b, 3, padding=1), nn.BatchNorm3d(b), nn.ReLU())


class PaperGenerator(nn.Module):
    """Three stages, 8x: residual block and trilinear x2; transposed convolution x2; trilinear x2 and softmax.

    Args:
        in_channels: LR phases + 1 (noise, last).
        out_channels: phases of the result.
        width: features of the first stage (512 published; a multiple of 16), halved as published: w, w/2, w/4, w/8, w/16.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 512):
        super().__init__()
        self.halo: int = 7  # LR voxels; a block depends on 5 beyond it. Set here, not on the class: TorchScript needs it
        self.scale_factor: int = 8
        w = width
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stem = _conv(in_channels, w)
        self.residual = nn.Sequential(_conv(w, w), nn.Conv3d(w, w, 3, padding=1), nn.BatchNorm3d(w))
        self.stage1 = _conv(w, w // 2)
        self.stage2 = nn.Sequential(
            nn.ConvTranspose3d(w // 2, w // 4, 4, stride=2, padding=1), nn.BatchNorm3d(w // 4), nn.ReLU(), _conv(w // 4, w // 8)
        )
        self.stage3 = nn.Sequential(_conv(w // 8, w // 16), nn.Conv3d(w // 16, out_channels, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, D, H, W) -> (B, out, 8D, 8H, 8W) softmax probabilities; zero padding at the border, as published."""
        x = self.stem(image)
        x = F.relu(x + self.residual(x))
        x = F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
        x = self.stage2(self.stage1(x))
        x = F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
        return torch.softmax(self.stage3(x).float(), dim=1)  # single precision under autocast, too

    @torch.jit.export
    def noise_windows(self, size: list[int]) -> list[tuple[int, int, list[int]]]:
        """No noise beyond the input channel."""
        windows: list[tuple[int, int, list[int]]] = []
        return windows

    @torch.jit.export
    def forward_window(self, image: Tensor, noise: list[Tensor]) -> Tensor:
        """Probabilities of a core: (B, in, d+2 halo, …) -> (B, out, 8d, 8h, 8w), everything within reach of the zero padding cut away."""
        cut = self.halo * self.scale_factor
        return self.forward(image)[:, :, cut:-cut, cut:-cut, cut:-cut]

    @torch.jit.export
    def labels_window(self, image: Tensor, noise: list[Tensor]) -> Tensor:
        """The most probable phase of each voxel of a core: (B, in, d+2 halo, …) -> (B, 1, 8d, 8h, 8w) uint8."""
        return self.forward_window(image, noise).argmax(1, keepdim=True).to(torch.uint8)

    @torch.jit.unused
    def corrected(self, image: Tensor) -> Tensor:
        """The LR labels that the losses hold the result to: as they came."""
        return image[:, :-1]

    @torch.jit.unused
    def patch_edge(self, edges: Sequence[int]) -> int:
        """LR voxels of a training patch: the whole of it is decoded."""
        return edges[0]

    @torch.jit.unused
    def forward_training(self, image: Tensor, edges: Sequence[int]) -> list[tuple[int, Tensor, Box]]:
        """What the losses see: the whole patch, decoded once (`edges` must be its edge, one level)."""
        if list(edges) != [image.shape[-1]]:
            raise ValueError(f"the paper's generator decodes whole patches: boxes must be [{image.shape[-1]}], not {list(edges)}")
        return [(self.scale_factor, self.forward(image), ((0, 0, 0), image.shape[-1]))]
