"""How much of each LR label is another phase, by the volume fractions of the scan and of the HR images."""

import logging
from collections.abc import Mapping, Sequence

from bundle.errors import InputError

logger = logging.getLogger(__name__)

MOST = 0.5
"""Largest share of a label that may be another phase: beyond it the LR label would not mean what it says."""


def hidden_shares(
    names: Sequence[str],
    hidden: Mapping[str, str],
    lr_fractions: Sequence[float],
    hr_fractions: Sequence[float],
    rims: Mapping[str, str] | None = None,
    rim_share: float = 1.0,
) -> list[list[float]]:
    """Share of each LR label that is another phase -> rows LR label, columns phase.

    So much that the corrected LR holds the hidden phase as the HR images do; nothing where it holds enough of it already. Labels that hide
    the same phase give the same share of themselves. Of a label that is rims as much turns, or `rim_share` of that, as the LR
    has of it beyond the images, or lacks of the phase. The log says what acts.

    Args:
        names: of the LR labels, in order.
        hidden: {LR label: phase that the segmentation lost to it}. Names that are no LR labels of this rock are left out.
        lr_fractions, hr_fractions: volume fractions of the labels in the LR volume and of the phases in the HR images.
        rims: {LR label: phase}, as `hidden`: voxels that are mixed of that phase and another pass for the label.
        rim_share: 0 to 1. Less than 1 where the label stands for a sponge of the phases: of what it has too much a part is the sponge's own pores.

    Raises:
        InputError: a label is to hide a phase and to be rims as well.
    """
    shares = [[0.0] * len(names) for _ in names]
    both = sorted(set(hidden) & set(rims or {}) & set(names))
    if both:
        raise InputError(f"rims: {', '.join(both)} cannot hide a phase and be rims as well; leave it out of hidden or of rims")
    acting = []
    for label, phase in hidden.items():
        if label in names and phase in names and label != phase:
            a, b = names.index(label), names.index(phase)
            missing = float(hr_fractions[b]) - float(lr_fractions[b])
            hiding_it = sum(float(f) for name, f in zip(names, lr_fractions) if name != phase and hidden.get(name) == phase)
            shares[a][b] = min(max(missing, 0.0) / max(hiding_it, 1e-9), MOST)
            acting.append(f"hidden: {100 * shares[a][b]:.1f} % of {label} returns as {phase}")
    for label, phase in (rims or {}).items():
        if label in names and phase in names and label != phase:
            a, b = names.index(label), names.index(phase)
            wanted = min(float(hr_fractions[b]) - float(lr_fractions[b]), float(lr_fractions[a]) - float(hr_fractions[a]))
            shares[a][b] = rim_share * min(max(wanted, 0.0) / max(float(lr_fractions[a]), 1e-9), 1.0)
            acting.append(f"rims: {100 * shares[a][b]:.1f} % of {label} turns to {phase}")
    logger.info("; ".join(acting) or "hidden, rims: nothing acts on these phases")
    return shares


def rim_labels(names: Sequence[str], rims: Mapping[str, str] | None) -> list[int]:
    """Which labels are rims."""
    return [a for a, name in enumerate(names) if name in (rims or {})]


def corrected_fractions(lr_fractions: Sequence[float], shares: Sequence[Sequence[float]]) -> list[float]:
    """Volume fractions of the LR labels once their hidden shares have turned."""
    turned = [[f * s for s in row] for f, row in zip(lr_fractions, shares)]
    return [float(f) - sum(turned[a]) + sum(row[a] for row in turned) for a, f in enumerate(lr_fractions)]
