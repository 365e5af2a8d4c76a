"""Diversity: how much SR volumes of one scan differ between seeds of the noise, and whether the slices of one volume repeat each other.

The scan leaves the rock below its voxel size open, so seeds should differ there, and agree in what it tells and in their statistics. Volumes
that are the same for every seed have ignored the noise (mode collapse).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bundle.errors import InputError
from bundle.metrics.fractions import as_arrays, bin_labels, slabs
from bundle.metrics.summary import statistic_names, statistics
from bundle.metrics.truth import confusion


def seed_diversity(volumes: Sequence[np.ndarray], phases: Sequence[str]) -> dict:
    """Compare SR volumes of the same LR, one a seed of the noise.

    Args:
        volumes: two or more of one shape (z, y, x), labels that index `phases`; they may be memory-mapped, and are read in slabs.
        phases: names of the labels.

    Returns:
        JSON-ready. `differing`: {"mean", "pairs": {"0-1": share of voxels whose labels differ, ..}}. `dice`: by phase, the mean over pairs of
        2 |A and B| / (|A| + |B|), pairs without the phase left out (None where none has it). `statistics`: by name, {"mean", "std"
        (between volumes), "values"} of fractions and interfacial areas. `entropy`: mean over the voxels of the Shannon entropy of
        the labels that a voxel has in the volumes, bits; of m volumes at most log2 m, so compare equal numbers of volumes only.

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
    entropy = sum(_entropy(labels, n) for labels in zip(*map(slabs, volumes), strict=True))
    size = volumes[0].size
    differing = 1 - np.einsum("pii->p", counts) / size
    values = np.stack([statistics(volume, n) for volume in volumes])
    return {
        "differing": {"mean": float(differing.mean()), "pairs": {f"{a}-{b}": float(d) for (a, b), d in zip(pairs, differing, strict=True)}},
        "dice": {name: _dice(counts, phase) for phase, name in enumerate(phases)},
        "statistics": {
            name: {"mean": float(column.mean()), "std": float(column.std(ddof=1)), "values": column.tolist()}
            for name, column in zip(statistic_names(phases), values.T, strict=True)
        },
        "entropy": entropy / size,
    }


def slice_diversity(volume: np.ndarray, real: Sequence[np.ndarray], n_phases: int, number: int = 8, apart: float = 0.25) -> dict:
    """Do the slices of a volume repeat each other? Mean distance of two slices against that of two real images.

    The distance is the share of pixels that differ. Two independent slices of fractions p and q differ in 1 - sum p q of them, so the
    distance is also given relative to that: about 1 for slices that know nothing of each other, 0 for the same slice throughout.
    Pixels are compared place by place: a pattern that comes again shifted is not seen.

    Args:
        volume: SR (z, y, x).
        real: HR images, two or more; two of different size are compared on their common corner.
        n_phases: labels are 0..n_phases-1.
        number: of slices along every axis, evenly spaced.
        apart: only slices that lie further apart than this share of the axis are compared: neighbours are alike in real rock too.

    Returns:
        JSON-ready: `sr` and `real`, each {"distance", "independent", "relative" = distance / independent}, means over the pairs;
        `relative`: SR's relative distance / that of the real images, well below 1 = collapse. None where all is of one phase.

    Raises:
        InputError: fewer than 2 images, no slices so far apart, or a label outside 0..n_phases-1.
    """
    images = as_arrays(real)
    if len(images) < 2:
        raise InputError("one real image has no other to differ from: give 2 or more")
    found = []
    for axis, length in enumerate(volume.shape):
        places = np.unique(np.linspace(0, length - 1, number).round().astype(int))
        planes = [np.take(volume, place, axis) for place in places]
        far = [(i, j) for i, j in combinations(range(len(places)), 2) if places[j] - places[i] > apart * length]
        found += [image_distance(planes[i], planes[j], n_phases) for i, j in far]
    if not found:
        raise InputError(f"volume of shape {volume.shape} has no two of {number} slices more than {apart:g} of an axis apart: more slices")
    result = {"sr": _mean_distance(found), "real": _mean_distance([image_distance(a, b, n_phases) for a, b in combinations(images, 2)])}
    ours, theirs = (result[key]["relative"] for key in ("sr", "real"))
    return result | {"relative": ours / theirs if ours is not None and theirs else None}


def image_distance(a: np.ndarray, b: np.ndarray, n_phases: int) -> tuple[float, float]:
    """Share of the pixels that differ, and that of two independent images of the same fractions."""
    common = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    a, b = a[common], b[common]
    fractions = [bin_labels(image, n_phases) / image.size for image in (a, b)]
    return float((a != b).mean()), float(1 - fractions[0] @ fractions[1])


def _mean_distance(pairs: list[tuple[float, float]]) -> dict:
    distance, independent = (float(column.mean()) for column in np.array(pairs).T)
    return {"distance": distance, "independent": independent, "relative": distance / independent if independent > 0 else None}


def _entropy(labels: Sequence[np.ndarray], n_phases: int) -> float:
    """Sum over the voxels of the entropy in bits of the labels that a voxel has in the volumes."""
    total = 0.0
    for phase in range(n_phases):
        count = sum((slab == phase).astype(np.uint16) for slab in labels)
        share = np.arange(len(labels) + 1) / len(labels)
        terms = -share * np.log2(np.where(share > 0, share, 1))
        total += float(np.bincount(count.ravel(), minlength=len(terms)) @ terms)
    return total


def _dice(counts: np.ndarray, phase: int) -> float | None:
    """Of `confusion` of each pair, (pairs, n_phases, n_phases)."""
    both = counts[:, phase, phase]
    either = counts[:, phase].sum(1) + counts[:, :, phase].sum(1)
    held = either > 0
    return float((2 * both[held] / either[held]).mean()) if held.any() else None
