"""StyleGAN2 for label maps: few HR images grow into many (Karras et al., arXiv 1912.04958 and 2006.06676; written from the papers).

The generator makes one softmax channel a phase at once, not grey levels to be thresholded. What is not in the papers: weights are folded with
the resampling filter, so that a layer which resamples is a single convolution; the strength of the noise does not start at zero,
for a rock is a texture; logits are bounded; every level reaches beyond the image, so that no border is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.errors import InputError
from bundle.networks.older import bring_up

BOUND = 5.0  # of the logits, by b tanh(x / b)
# Pixels that every level has beyond each border of the image, and loses again: what a layer finds there are zeros, which no crop of a rock has
# around it. What they touch, c pixels deep, is 2 c + 2 deep after the next doubling and one more after its second layer: with 4 cut away, c stays 1.
MARGIN = 4


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


def level_edges(resolution: int, start: int = 4) -> list[int]:
    """Edges of the levels, from `start` to `resolution`, each twice the one before.

    Raises:
        InputError: they do not meet.
    """
    levels = log2(resolution / start) if resolution >= start else -1.0
    if levels < 1 or levels != int(levels):
        raise InputError(f"resolution: {resolution} is not {start} times a power of 2; give one, such as {start * 32}")
    return [start * 2**i for i in range(int(levels) + 1)]


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


class CriticLevel(nn.Module):
    """Residual block of the critic that halves the resolution.

    Args:
        n_in, n_out: channels.
        n_phases: labels, where it is the finest level, which sees the maps; None elsewhere.
    """

    def __init__(self, n_in: int, n_out: int, n_phases: int | None = None):
        super().__init__()
        self.stem = None if n_phases is None else ScaledConv(n_phases, n_in, 1)
        self.keep = ScaledConv(n_in, n_in, 3)
        self.halve = ScaledConv(n_in, n_out, 3, down=True)
        self.skip = ScaledConv(n_in, n_out, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in or n_phases, h, w) -> (N, n_out, h / 2, w / 2)."""
        if self.stem is not None:
            x = leaky(self.stem(x))
        return (leaky(self.halve(leaky(self.keep(x)))) + self.skip(x)) * sqrt(0.5)


class StyleCritic(nn.Module):
    """Residual critic of label maps; its levels are numbered from the coarsest, as those of the generator. The standard deviation over a
    minibatch is a further channel at its end (arXiv 1710.10196, section 3).

    Args:
        n_phases: labels.
        resolution: edge of the maps, pixels.
        channels, most_channels, start: as of `StyleGenerator`.
        group: maps whose spread is taken together.
    """

    def __init__(self, n_phases: int, resolution: int, channels: int = 32, most_channels: int = 128, start: int = 4, group: int = 4):
        super().__init__()
        edges = level_edges(resolution, start)
        width = [min(most_channels, channels * resolution // edge) for edge in edges]
        last = len(width) - 2
        self.group = group
        pairs = enumerate(zip(width, width[1:]))
        self.levels = nn.ModuleList(CriticLevel(fine, coarse, n_phases if i == last else None) for i, (coarse, fine) in pairs)
        self.last = ScaledConv(width[0] + 1, width[0], 3)
        self.dense = ScaledLinear(width[0] * start**2, width[0])
        self.score = ScaledLinear(width[0], 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, phases, resolution, resolution) -> (N,) logits that a map is real, float32."""
        x = maps
        for level in reversed(self.levels):
            x = level(x)
        x = leaky(self.last(torch.cat([x, minibatch_spread(x, self.group)], 1)))
        return precise(self.score(leaky(self.dense(x.flatten(1)))).flatten())


def minibatch_spread(x: Tensor, group: int) -> Tensor:
    """Mean over channels and pixels of the standard deviation over groups of maps, one channel (N, 1, h, w).

    Groups are of the samples i, i + N / group, ..; of the whole batch where `group` does not divide it.
    """
    n = len(x)
    size = group if n % group == 0 else n
    grouped = precise(x).reshape(size, n // size, *x.shape[1:])
    spread = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)
