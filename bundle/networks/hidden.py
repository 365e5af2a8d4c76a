"""LR labels that hide another phase: as much of it returns, in grains, as the HR images hold more than the LR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.errors import InputError
from bundle.networks.fields import bell

MOST = 0.5
"""Largest share of a label that may be another phase: beyond it the LR label would not mean what it says."""


def hidden_shares(
    names: Sequence[str], hidden: Mapping[str, str], lr_fractions: Sequence[float], hr_fractions: Sequence[float]
) -> list[list[float]]:
    """Share of each LR label that is another phase -> rows LR label, columns phase.

    So much that the corrected LR holds the hidden phase as the HR images do; nothing where it holds enough of it already. Labels that hide
    the same phase give the same share of themselves.

    Args:
        names: of the LR labels, in order.
        hidden: {LR label: phase that the segmentation lost to it}. Names that are no LR labels of this rock are left out.
        lr_fractions, hr_fractions: volume fractions of the labels in the LR volume and of the phases in the HR images.
    """
    shares = [[0.0] * len(names) for _ in names]
    for label, phase in hidden.items():
        if label in names and phase in names and label != phase:
            a, b = names.index(label), names.index(phase)
            missing = float(hr_fractions[b]) - float(lr_fractions[b])
            hiding_it = sum(float(f) for name, f in zip(names, lr_fractions) if name != phase and hidden.get(name) == phase)
            shares[a][b] = min(max(missing, 0.0) / max(hiding_it, 1e-9), MOST)
    return shares


def corrected_fractions(lr_fractions: Sequence[float], shares: Sequence[Sequence[float]]) -> list[float]:
    """Volume fractions of the LR labels once their hidden shares have turned."""
    turned = [[f * s for s in row] for f, row in zip(lr_fractions, shares)]
    return [float(f) - sum(turned[a]) + sum(row[a] for row in turned) for a, f in enumerate(lr_fractions)]


class HiddenPhases(nn.Module):
    """Turns the share of an LR label that is another phase, where a smooth noise field is high: in grains, not voxel by voxel.

    The amount is set by the threshold of the field alone, so no loss has to find it: a distance between textures does not feel it, and
    a training that may turn a phase at no cost turns all of it.

    It starts with nothing hidden; what `hide` sets is saved with the weights.

    Args:
        n_labels, n_phases: of LR and of the result.
        radius: LR voxels that the field reaches: Gaussian of standard deviation radius / 2.
        steepness: of the change from label to phase, for one standard deviation of the field.
    """

    def __init__(self, n_labels: int, n_phases: int, radius: int, steepness: float = 2.5):
        super().__init__()
        self.unknown: int = n_phases - n_labels
        self.steepness = steepness
        self.register_buffer("kernel", bell(radius))
        self.register_buffer("threshold", torch.full((n_labels,), 1e4))
        self.register_buffer("target", torch.zeros(n_labels, n_phases))

    @torch.jit.unused
    def hide(self, shares: Sequence[Sequence[float]]) -> None:
        """Sets the share of each label (rows) that is another phase (columns), as `hidden_shares` gives it.

        Raises:
            ValueError: a label hides more than one phase.
        """
        self.threshold.fill_(1e4)
        self.target.zero_()
        for label, row in enumerate(shares):
            turning = [(phase, share) for phase, share in enumerate(row) if share > 0]
            if len(turning) > 1:
                raise ValueError(f"LR label {label} hides more than one phase: shares {list(row)}")
            for phase, share in turning:
                self.threshold[label], self.target[label, phase] = NormalDist().inv_cdf(1 - share), 1.0

    def forward(self, onehot: Tensor, noise: Tensor) -> Tensor:
        """One-hot labels (B, labels, D, H, W) and white noise (B, 1, D + 2 radius, …) -> phases (B, phases, D, H, W) that sum to 1.

        0.5 where the field is at the threshold: enlarged, the grain has a smooth surface.
        """
        field = F.conv3d(F.conv3d(F.conv3d(noise, self.kernel), self.kernel.movedim(2, 3)), self.kernel.movedim(2, 4))
        label = onehot.argmax(1)
        turned = (0.5 + self.steepness * (field - self.threshold[label][:, None])).clamp(0.0, 1.0)
        phases = F.pad(onehot, [0, 0, 0, 0, 0, 0, 0, self.unknown])  # phases that the LR does not know stay zero
        return torch.lerp(phases, self.target[label].movedim(-1, 1), turned.to(phases))


def hiding(network: nn.Module, shares: Sequence[Sequence[float]]) -> nn.Module:
    """The generator, told what its LR labels hide.

    Raises:
        InputError: something is hidden, but the generator cannot bring it back.
    """
    if any(share > 0 for row in shares for share in row):
        if not isinstance(getattr(network, "hidden", None), HiddenPhases):
            raise InputError(f"hidden: {type(network).__name__} cannot bring phases back; set hidden to null")
        network.hidden.hide(shares)
    return network
