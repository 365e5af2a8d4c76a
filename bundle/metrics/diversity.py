"""Diversity: how much SR volumes of one scan differ between seeds of the noise, and two images from each other.

The scan leaves the rock below its voxel size open, so seeds should differ there, and agree in what it tells and in their statistics. Volumes
that are the same for every seed have ignored the noise (mode collapse).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bundle.errors import InputError
from bundle.metrics.fractions import as_arrays
from bundle.metrics.truth import confusion


def seed_diversity(volumes: Sequence[np.ndarray], phases: Sequence[str]) -> dict:
    """Compare SR volumes of the same LR, one a seed of the noise.

    Args:
        volumes: two or more of one shape (z, y, x), labels that index `phases`; they may be memory-mapped, and are read in slabs.
        phases: names of the labels.

    Returns:
        JSON-ready. `differing`: {"mean", "pairs": {"0-1": share of voxels whose labels differ, ..}}. `dice`: by phase, the mean over pairs of
        2 |A and B| / (|A| + |B|), pairs without the phase left out (None where none has it).

    Raises:
        InputError: fewer than 2 volumes, different shapes, or a label without a name.
    """
    if len(volumes) < 2:
        raise InputError(f"diversity compares SR volumes of different seeds: give 2 or more, not {len(volumes)}")
    volumes, n = as_arrays(volumes), len(phases)
    for index, volume in enumerate(volumes):
        if volume.shape != volumes[0].shape:
            raise InputError(f"volume {index} has shape {volume.shape}, volume 0 {volumes[0].shape}: give SR volumes of the same LR region")
    pairs = list(combinations(range(len(volumes)), 2))
    counts = np.stack([confusion(volumes[a], volumes[b], n) for a, b in pairs])
    size = volumes[0].size
    differing = 1 - np.einsum("pii->p", counts) / size
    return {
        "differing": {"mean": float(differing.mean()), "pairs": {f"{a}-{b}": float(d) for (a, b), d in zip(pairs, differing, strict=True)}},
        "dice": {name: _dice(counts, phase) for phase, name in enumerate(phases)},
    }


def image_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the pixels that differ, of those that both images have."""
    common = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    return float((a[common] != b[common]).mean())


def _dice(counts: np.ndarray, phase: int) -> float | None:
    """Of `confusion` of each pair, (pairs, n_phases, n_phases)."""
    both = counts[:, phase, phase]
    either = counts[:, phase].sum(1) + counts[:, :, phase].sum(1)
    held = either > 0
    return float((2 * both[held] / either[held]).mean()) if held.any() else None
