"""The parts of the default generator: residual blocks on the LR grid, and levels of x2."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.networks.fields import blurred, shells
from bundle.networks.older import bring_up
from bundle.networks.windows import doubled, trimmed


def conv3(in_channels: int, out_channels: int) -> nn.Conv3d:
    """3^3 convolution without padding, started so that the variance survives it (He et al. 2015); torch's default would lose the noise on its way."""
    conv = nn.Conv3d(in_channels, out_channels, 3)
    nn.init.kaiming_normal_(conv.weight, a=0.2)
    nn.init.zeros_(conv.bias)
    return conv


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions without padding and the shortcut, cropped to match: trims two voxels a side."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)
        # Starts as the identity, so that depth costs no stability (Zhang et al. 2019, Fixup).
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D-4, H-4, W-4)."""
        y = self.conv2(F.leaky_relu(self.conv1(x), 0.2, inplace=True))
        return F.leaky_relu(trimmed(x, 2) + y, 0.2, inplace=True)


class Up2(nn.Module):
    """Trilinear enlargement by 2 of features mixed by a 1^3 convolution; two finer voxels are cut on each side, of which the outer needs more
    context.

    A sub-pixel convolution (Shi et al. 2016) has weights of its own for each of eight finer voxels. With them the generator drew regular
    grids and rods of 2, 4 and 8 voxels where the LR is uniform, which please a comparison of patches; here whatever is not in the LR comes of
    noise. Repeated voxels instead of interpolated ones gave surfaces back the staircase of the LR.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.mix = nn.Conv3d(in_channels, out_channels, 1)
        nn.init.kaiming_normal_(self.mix.weight, a=0.0)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, out, 2D-4, 2H-4, 2W-4)."""
        return doubled(self.mix(x))


class Level(nn.Module):
    """One x2 level: upsampling, noise, two 3^3 convolutions without padding, and a head that corrects the logits of the level before.

    With `perturbation` the logits get a share of the noise that training cannot take away: where they are nearly equal it decides, in
    blobs of the size of the level, and where one is far ahead it does nothing. A network that may silence its noise does so early, and
    then turns whole regions from one phase to another and back, since the gradient of a critic in a uniform region is uniform; with the
    noise the same gradient moves a fraction.

    Noise that further levels enlarge may be `blurred` before the features get it; `blur`, which says so, is saved with the weights. Those until
    version 0.9.3 know none: they are completed with 0, and do what they did.
    """

    perturbed: Final[bool]
    blurs: Final[bool]

    def __init__(self, in_channels: int, channels: int, out_channels: int, texture: float, perturbation: float, blur: float | None):
        super().__init__()
        self.up = Up2(in_channels, channels)
        self.noise_gain = nn.Parameter(torch.full((1, channels, 1, 1, 1), 1.0))
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)
        self.head = nn.Conv3d(channels, out_channels, 1)
        self.head_gain = 4.0  # Adam moves all weights alike: with the gain a head changes its mind in hundreds of steps, not thousands
        # Noise must show in the labels from the start: the gradient that a critic sends into a uniform region is uniform, so specks
        # never appear there by themselves; those that are there are shaped or removed (docs/trials.md).
        nn.init.normal_(self.head.weight, std=texture / channels**0.5 / self.head_gain)
        nn.init.zeros_(self.head.bias)
        self.perturbed = perturbation > 0
        if self.perturbed:
            self.register_buffer("perturb", perturbation * shells(out_channels))
        self.blurs = blur is not None
        self.noise_margin: int = int(self.blurs)  # voxels on each side that its noise has more than its features
        if blur is not None:
            self.register_buffer("blur", torch.tensor(float(blur)))
            self.register_load_state_dict_pre_hook(bring_up)

    @torch.jit.unused
    def bring_up(self, state: dict[str, Tensor], prefix: str) -> None:
        """Completes weights saved until version 0.9.3: their noise was not blurred."""
        if self.blurs:
            state.setdefault(prefix + "blur", torch.zeros_like(self.blur))

    def forward(self, x: Tensor, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in, d, h, w), logits (B, P, d, h, w) and noise (B, 1, 2d-4, 2h-4, 2w-4), and `noise_margin` more on each side -> features and logits
        (B, …, 2d-8, 2h-8, 2w-8)."""
        drawn = blurred(noise, self.blur) if self.blurs else noise
        y = F.leaky_relu(self.noised(self.up(x), drawn), 0.2, inplace=True)
        y = F.leaky_relu(self.conv1(y), 0.2, inplace=True)
        y = F.leaky_relu(self.conv2(y), 0.2, inplace=True)
        # smooth from the start: the surface of interpolated labels has no staircase to unlearn
        after = torch.add(doubled(trimmed(logits, 1)), self.head(y).float(), alpha=self.head_gain)
        if self.perturbed:
            after = after + F.conv3d(trimmed(noise, self.noise_margin), self.perturb)
        return y, after

    def noised(self, y: Tensor, noise: Tensor) -> Tensor:
        """y + gain * noise, in the precision of y, as a matrix product: in half precision it takes a tenth of the time of multiplying and adding."""
        features = y.permute(0, 2, 3, 4, 1)
        gain = self.noise_gain.to(y.dtype).view(1, -1)
        return torch.addmm(features.reshape(-1, y.shape[1]), noise.to(y.dtype).reshape(-1, 1), gain).view(features.shape).permute(0, 4, 1, 2, 3)
