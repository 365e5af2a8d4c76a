"""The figure of merit: how far fractions and interfacial areas of SR (and of LR) are from those of the HR images, and from the LR input.

n phases have n fractions and n (n - 1) / 2 areas: ten statistics for four phases.
"""

from collections.abc import Sequence

import numpy as np

from bundle.errors import InputError
from bundle.metrics.fractions import Labels, bin_labels, slabs, volume_fractions
from bundle.metrics.interfaces import interfacial_areas, phase_pairs
from bundle.metrics.truth import confusion

BOOTSTRAP_SAMPLES = 1000


def statistic_names(phases: Sequence[str]) -> list[str]:
    """Names in the order of `statistics`: "pore", "quartz", .., "pore-quartz", .."""
    return [*phases, *(f"{phases[a]}-{phases[b]}" for a, b in phase_pairs(len(phases)))]


def statistics(labels: Labels, n_phases: int, axes: Sequence[int] | None = None, upsample: int = 1) -> np.ndarray:
    """Volume fractions, then interfacial areas -> (n_phases (n_phases + 1) / 2,); see `interfacial_areas` for `axes` and `upsample`."""
    return np.concatenate([volume_fractions(labels, n_phases), interfacial_areas(labels, n_phases, axes, upsample)])


def relative_errors(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """|value - reference| / reference over the last axis; NaN where the reference is 0."""
    reference = np.asarray(reference, float)
    return np.abs(values - reference) / np.where(reference == 0, np.nan, reference)


def mean_relative_error(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean of `relative_errors` over the last axis, statistics that are 0 in the reference left out (NaN where all are)."""
    errors = relative_errors(values, reference)
    kept = np.isfinite(errors)
    return np.where(kept, errors, 0).sum(-1) / np.where(kept.any(-1), kept.sum(-1), np.nan)


def deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation (n - 1) over the first axis; NaN of a single one."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.where(np.ptp(values, 0) == 0, 0.0, values.std(0, ddof=1))  # of equal numbers the rounding of their mean would be left


def summarise(
    names: Sequence[str], hr: np.ndarray, lr: np.ndarray, sr: np.ndarray, seed: int = 0, quarters: np.ndarray | None = None
) -> dict:
    """Compare LR and SR with the HR images.

    Args:
        names: of the statistics, from `statistic_names`.
        hr: (n_images, n_statistics), one row an HR image.
        lr: (n_statistics,) on the HR grid (`upsample` = scale factor).
        sr: (n_statistics,).
        seed: of the bootstrap.
        quarters: (4, n_statistics), of the quarters of a lone HR image: they tell the noise instead.

    Returns:
        JSON-ready: `statistics` by name (HR mean and standard deviation between images, LR, SR, relative errors), `mean_relative_error` of
        LR and SR, `left_out` (statistics that are 0 in HR: no relative error), `hr_noise` from `sampling_noise`.
    """
    mean = hr.mean(0)
    spread = deviation(hr)
    columns = {
        "hr": mean, "hr_std": spread, "lr": lr, "sr": sr,
        "lr_error": relative_errors(lr, mean), "sr_error": relative_errors(sr, mean),
    }  # fmt: skip
    return {
        "statistics": {name: {key: json_number(column[i]) for key, column in columns.items()} for i, name in enumerate(names)},
        "mean_relative_error": {"lr": json_number(mean_relative_error(lr, mean)), "sr": json_number(mean_relative_error(sr, mean))},
        "left_out": [name for name, value in zip(names, mean, strict=True) if value == 0],
        "hr_noise": sampling_noise(hr if quarters is None else quarters, seed),
    }


def sampling_noise(hr: np.ndarray, seed: int = 0) -> dict | None:
    """Mean relative error that the HR images have against themselves: an SR below it cannot be told from a real image.

    Args:
        hr: (n_images, n_statistics).
        seed: of the bootstrap.

    Returns:
        `leave_one_out`: error of each image against the mean of the others; `bootstrap_median` and `bootstrap_95`: quantiles of the error
        that as many images, drawn with replacement, have against the mean of all. None for a single image.
    """
    n_images = len(hr)
    if n_images < 2:
        return None
    others = (hr.sum(0) - hr) / (n_images - 1)
    draws = np.random.default_rng(seed).integers(0, n_images, (BOOTSTRAP_SAMPLES, n_images))
    errors = mean_relative_error(np.stack([hr[draw].mean(0) for draw in draws]), hr.mean(0))  # one by one: thousands of images are many numbers
    return {
        "leave_one_out": [json_number(error) for error in mean_relative_error(hr, others)],
        "bootstrap_median": json_number(np.median(errors)),
        "bootstrap_95": json_number(np.quantile(errors, 0.95)),
    }


def majority_downsample(labels: np.ndarray, scale: int, n_phases: int) -> np.ndarray:
    """Most frequent label of every block of `scale` voxels a side: (s z, s y, s x) -> (z, y, x) uint8.

    Of labels that hold equally many that of the block's first voxel, if it is one of them, else the lowest: a rule that prefers a label, such as the
    pore, would change the amounts, since at borders half of the blocks of two voxels a side are ties.

    Raises:
        InputError: a side is not a multiple of `scale`, or a label is outside 0..n_phases-1.
    """
    if any(size % scale for size in labels.shape):
        raise InputError(f"cannot form blocks of {scale}: shape {labels.shape} is not a multiple of it")
    parts = []
    for slab in slabs(labels, multiple=scale):
        bin_labels(slab, n_phases)
        first = slab[(slice(None, None, scale),) * slab.ndim]
        best, most = np.zeros(first.shape, np.uint8), np.zeros(first.shape, np.uint32)
        for phase in range(n_phases):
            count = slab == phase
            for axis in range(slab.ndim):
                blocks = (*count.shape[:axis], -1, scale, *count.shape[axis + 1 :])
                count = count.reshape(blocks).sum(axis + 1, dtype=np.uint32 if axis else np.uint16)
            count = 2 * count + (first == phase)
            best[count > most] = phase
            most = np.maximum(count, most)
        parts.append(best)
    return np.concatenate(parts)


def lr_agreement(lr: np.ndarray, sr: np.ndarray, scale: int, phases: Sequence[str]) -> dict:
    """How far SR, brought back to the LR grid by block majority, repeats the LR labels.

    Args:
        lr: (z, y, x), labels that index `phases`.
        sr: (scale z, scale y, scale x).
        scale: edge of a block in SR voxels.
        phases: names of the labels.

    Returns:
        `confusion`: [LR label][majority label of SR] in voxels; `kept`: by phase, the share of its LR voxels whose majority is the same
        (None where LR has none); `all`: the share over all voxels.

    Raises:
        InputError: the shapes do not fit, or a label has no name.
    """
    if tuple(size * scale for size in lr.shape) != tuple(sr.shape):
        raise InputError(f"SR shape {tuple(sr.shape)} is not LR shape {tuple(lr.shape)} x {scale}")
    n = len(phases)
    pairs = confusion(majority_downsample(sr, scale, n), lr, n)
    rows = pairs.sum(1)
    return {
        "confusion": pairs.tolist(),
        "kept": {name: float(pairs[i, i] / rows[i]) if rows[i] else None for i, name in enumerate(phases)},
        "all": float(np.trace(pairs) / pairs.sum()),
    }


def json_number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
