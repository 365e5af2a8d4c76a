"""The critic of label maps that teaches the generator of bundle/networks/stylegan2.py (Karras et al., arXiv 1912.04958 and 2006.06676)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from bundle.networks.style_layers import ScaledConv, ScaledLinear, leaky, level_edges, precise


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
