"""The generator of arXiv 2501.06939 to the layer (20,146,980 parameters at 5 -> 4 channels; 32^3 -> 256^3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.errors import InputError
from bundle.networks.generator import Box
from bundle.networks.windows import blocks, crop, doubled, empty_window, put, trimmed


def _conv(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(a, b, 3, padding=1), nn.BatchNorm3d(b), nn.ReLU())


class PaperGenerator(nn.Module):
    """Three stages, 8x: residual block and trilinear x2; transposed convolution x2; trilinear x2 and softmax.

    Args:
        in_channels: LR phases + 1 (noise, last).
        out_channels: phases of the result.
        width: features of the first stage (512 published; a multiple of 16), halved as published: w, w/2, w/4, w/8, w/16.
        block: edge, in voxels four times finer than LR, of what the last stage makes of a window at a time.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 512, block: int = 16):
        super().__init__()
        self.halo: int = 6  # LR voxels; a block depends on 5.5 beyond it. Set here, not on the class: TorchScript needs it
        self.scale_factor: int = 8
        self.block: int = block
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
        return self.part(2, self.part(1, self.part(0, image)))

    def part(self, number: int, x: Tensor) -> Tensor:
        """One of the three parts between which the paper cuts it for its GPUs: to twice, four times and eight times the LR grid."""
        if number == 0:
            x = self.stem(x)
            x = F.relu(x + self.residual(x))
            return self.stage1(F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False))
        if number == 1:
            return self.stage2(x)
        x = F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
        return torch.softmax(self.stage3(x).float(), dim=1)  # single precision under autocast, too

    @torch.jit.unused
    def layers(self, number: int) -> list[nn.Module]:
        """What a part consists of."""
        return [[self.stem, self.residual, self.stage1], [self.stage2], [self.stage3]][number]

    @torch.jit.export
    def noise_windows(self, size: list[int]) -> list[tuple[int, int, list[int]]]:
        """No noise beyond the input channel."""
        windows: list[tuple[int, int, list[int]]] = []
        return windows

    @torch.jit.export
    def forward_window(self, image: Tensor, noise: list[Tensor]) -> Tensor:
        """Probabilities of a core: (B, in, d+2 halo, …) -> (B, out, 8d, 8h, 8w), what `forward` gives there far from the border."""
        return self.window(image, noise, labels=False, probabilities=True)[1]

    @torch.jit.export
    def window(self, image: Tensor, noise: list[Tensor], labels: bool = True, probabilities: bool = False) -> tuple[Tensor, Tensor]:
        """What is asked for of a core, as `forward_window`: the most probable phases (B, 1, 8d, 8h, 8w) uint8 and the probabilities.

        The layers of `forward`, each without what lies within reach of its zero padding; the last stage block by block. What is not asked
        for is empty.
        """
        x = trimmed(self.stem(image), 1)
        x = F.relu(trimmed(x, 2) + trimmed(self.residual(x), 2))
        x = trimmed(self.stage1(doubled(x)), 2)  # one voxel for the padding, one that stage 2 does not need
        x = trimmed(self.stage2(x), 2)
        size = [x.shape[2] - 4, x.shape[3] - 4, x.shape[4] - 4]
        result = empty_window(image, self.out_channels, [2 * n for n in size], labels, probabilities)
        for start, shape in blocks(size, self.block):
            logits = trimmed(self.stage3(doubled(crop(x, start, [n + 4 for n in shape]))), 2).float()
            if labels:
                put(logits.argmax(1, keepdim=True), result[0], [2 * a for a in start])
            if probabilities:
                put(torch.softmax(logits, dim=1), result[1], [2 * a for a in start])
        return result

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
        boxes = self.nested_boxes(image.shape[-1], edges)
        return [(self.scale_factor, p, box) for p, box in zip(self.forward_boxes(image, boxes), boxes)]

    @torch.jit.unused
    def nested_boxes(self, patch: int, edges: Sequence[int]) -> list[Box]:
        """The whole of a patch of `patch` LR voxels.

        Raises:
            InputError: `edges` are others.
        """
        if list(edges) != [patch]:
            raise InputError(f"boxes: {list(edges)}; the paper's generator decodes whole patches: give [{patch}]")
        return [((0, 0, 0), patch)]

    @torch.jit.unused
    def forward_boxes(self, image: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
        """Probabilities of the whole patch, as `forward`."""
        return [self.forward(image)]

    @torch.jit.unused
    def box_noise(self, batch: int, boxes: Sequence[Box], device: torch.device) -> list[Tensor]:
        """No noise beyond the input channel."""
        return []

    @torch.jit.unused
    def part_count(self) -> int:
        """Parts between which it may be cut."""
        return 3
