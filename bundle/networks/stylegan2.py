"""StyleGAN2 for label maps: few HR images grow into many (Karras et al., arXiv 1912.04958 and 2006.06676; written from the papers).

The generator makes one softmax channel a phase at once, not grey levels to be thresholded. What is not in the papers: weights are folded with
the resampling filter, so that a layer which resamples is a single convolution; the strength of the noise does not start at zero,
for a rock is a texture; logits are bounded; every level reaches beyond the image, so that no border is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.networks.older import bring_up
from bundle.networks.style_layers import ModulatedConv, ScaledLinear, leaky, level_edges, precise

BOUND = 5.0  # of the logits, by b tanh(x / b)
# Pixels that every level has beyond each border of the image, and loses again: what a layer finds there are zeros, which no crop of a rock has
# around it. What they touch, c pixels deep, is 2 c + 2 deep after the next doubling and one more after its second layer: with 4 cut away, c stays 1.
MARGIN = 4


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, noise of one value a pixel, bias, leaky ReLU.

    Args:
        n_in, n_out: channels.
        n_style: features of the style vector.
        up: doubles the resolution first, and cuts `MARGIN` pixels at each border.
        noise: initial strength of the noise.
    """

    def __init__(self, n_in: int, n_out: int, n_style: int, up: bool = False, noise: float = 0.1):
        super().__init__()
        self.conv = ModulatedConv(n_in, n_out, 3, n_style, up, cut=MARGIN)
        self.noise = nn.Parameter(torch.full((n_out,), noise))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """(N, n_in, h, w), (N, n_style), noise (N, 1, H, W) -> (N, n_out, H, W)."""
        x = self.conv(x, w)
        added = noise.to(x.dtype) * self.noise[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return leaky(x + added)


class StyleLevel(nn.Module):
    """What one level of the generator adds to the coarser one before it.

    Args:
        n_in, n_out: channels.
        n_phases: labels.
        n_style: features of the style vector.
    """

    def __init__(self, n_in: int, n_out: int, n_phases: int, n_style: int):
        super().__init__()
        self.upper = StyledLayer(n_in, n_out, n_style, up=True)
        self.lower = StyledLayer(n_out, n_out, n_style)
        self.head = ModulatedConv(n_out, n_phases, 1, n_style, demodulate=False)

    def forward(self, x: Tensor, logits: Tensor, w: Tensor, noises: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (N, n_in, h, w), logits (N, n_phases, h, w), styles (N, n_style) and two noise maps (N, 1, 2 h - 2 MARGIN, 2 w - 2 MARGIN) -> both
        twice as fine, without `MARGIN` pixels at each border."""
        x = self.lower(self.upper(x, w, noises[0]), w, noises[1])
        finer = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        return x, _without_margin(finer) + self.head(x, w)


class StyleGenerator(nn.Module):
    """Mapping network and skip generator of label maps.

    A level's weights depend on how many levels are coarser, not on how many are finer (half the `channels` at twice the resolution), so that a
    generator of coarser images can be a start.

    Args:
        n_phases: labels.
        resolution: edge of the maps, pixels: `start` times a power of 2.
        channels: of the layers at `resolution`; twice as many at each coarser level, up to `most_channels`.
        most_channels: see above.
        latent: features of the latent and of the style vectors.
        mapping_layers: of the mapping network.
        start: edge of the learned constant, pixels.

    Raises:
        InputError: a resolution that no doubling of `start` gives.
    """

    def __init__(
        self, n_phases: int, resolution: int, channels: int = 32, most_channels: int = 128, latent: int = 128, mapping_layers: int = 4, start: int = 4
    ):
        super().__init__()
        edges = level_edges(resolution, start)
        width = [min(most_channels, channels * resolution // edge) for edge in edges]
        self.n_phases, self.resolution, self.latent, self.edges = n_phases, resolution, latent, edges
        self.mapping = nn.ModuleList(ScaledLinear(latent, latent, rate=0.01) for _ in range(mapping_layers))
        self.constant = nn.Parameter(torch.randn(1, width[0], start + 2 * MARGIN, start + 2 * MARGIN))
        self.first = StyledLayer(width[0], width[0], latent)
        self.head = ModulatedConv(width[0], n_phases, 1, latent, demodulate=False)
        self.levels = nn.ModuleList(StyleLevel(a, b, n_phases, latent) for a, b in zip(width, width[1:]))
        self.bias = nn.Parameter(torch.zeros(n_phases))
        self.register_buffer("mean_style", torch.zeros(latent))
        self.register_load_state_dict_pre_hook(bring_up)

    def bring_up(self, state: dict[str, Tensor], prefix: str) -> None:
        """Renames weights saved until version 0.9.7, whose levels were lists of layers."""
        for key in [key for key in state if key.startswith((prefix + "upper.", prefix + "lower.", prefix + "heads."))]:
            kind, number, rest = key[len(prefix) :].split(".", 2)
            level = int(number) - (kind == "heads")  # the first head is that of the constant
            state[f"{prefix}head.{rest}" if level < 0 else f"{prefix}levels.{level}.{kind.removesuffix('s')}.{rest}"] = state.pop(key)

    @property
    def noise_shapes(self) -> list[tuple[int, int]]:
        """Sizes of the noise maps that an image takes, in the order of the layers; each with its margin."""
        return [(edge + 2 * MARGIN,) * 2 for i, edge in enumerate(self.edges) for _ in range(2 if i else 1)]

    def map(self, z: Tensor) -> Tensor:
        """Latents (N, latent) -> style vectors (N, latent)."""
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = leaky(layer(w))
        return precise(w)

    def styles(self, w: Tensor, other: Tensor | None = None, crossover: Tensor | None = None) -> Tensor:
        """One style vector a level: (N, latent) -> (N, levels, latent); of the `other` (N, latent) from level `crossover` (N,) on (style mixing)."""
        levels = len(self.edges)
        ws = w[:, None].expand(-1, levels, -1)
        if other is None:
            return ws
        later = torch.arange(levels, device=w.device) >= crossover[:, None]
        return torch.where(later[..., None], other[:, None], ws)

    def follow_mean(self, w: Tensor, decay: float = 0.998) -> None:
        """Moves the mean style, to which truncation pulls, towards that of (N, latent)."""
        self.mean_style.lerp_(w.detach().mean(0), 1 - decay)

    def truncated(self, w: Tensor, share: float) -> Tensor:
        """Style vectors pulled to their mean: 1 leaves them, 0 gives the mean (arXiv 1812.04948, section B: psi)."""
        return self.mean_style + share * (w - self.mean_style)

    def forward(self, ws: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """Styles (N, levels, latent) and noise maps (N, 1, h, w) -> logits (N, phases, resolution, resolution), float32; see `probabilities`."""
        noises = list(noises)
        x = self.first(self.constant.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last), ws[:, 0], noises[0])
        logits = self.head(x, ws[:, 0]) + self.bias[:, None, None]
        for i, level in enumerate(self.levels, 1):
            x, logits = level(x, logits, ws[:, i], noises[2 * i - 1 : 2 * i + 1])
        logits = _without_margin(logits)
        return precise(logits)

    def draw(self, number: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> tuple[Tensor, list[Tensor]]:
        """Random latents (number, latent) and noise maps, on the CPU by `generator`, so that every device gets the same."""
        z = torch.randn(number, self.latent, generator=generator).to(device)
        return z, [torch.randn(number, 1, *shape, generator=generator).to(device) for shape in self.noise_shapes]


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax over the phases of logits (N, phases, h, w) that are bounded first.

    Args:
        logits: as the generator gives them.
        temperature: at 1 nearly all pixels are certain, and the gradient of a critic, which sees labels, moves borders; were they not, whole images
            would turn into another phase at once. What asks for a phase that vanished needs them uncertain: 4.
    """
    return (BOUND * torch.tanh(logits / BOUND) / temperature).softmax(1)


def beyond_bound(logits: Tensor) -> Tensor:
    """Half the mean square by which logits (N, phases, h, w) are beyond twice their bound, where the softmax hardly changes and nothing else would
    stop them."""
    return 0.5 * (logits - logits.clamp(-2 * BOUND, 2 * BOUND)).square().sum(1).mean()


def _without_margin(x: Tensor) -> Tensor:
    return x[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
