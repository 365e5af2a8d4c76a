"""Two-point correlation S2(r) along the axes: the probability that two voxels r apart along an axis are both of one phase."""

import numpy as np
from scipy import fft

from bundle.errors import InputError
from bundle.metrics.fractions import BLOCK_VOXELS, Labels, as_arrays

# Enough for the statistics of a volume, for lines of voxels resemble their neighbours: all lines of a 512^3 volume are 2^18.
MAX_LINES = 1 << 18


def two_point(labels: Labels, n_phases: int, axis: int, max_lag: int, max_lines: int | None = None) -> np.ndarray:
    """S2 of every phase along one array axis, non-periodic -> (n_phases, lags), lag r = 0, 1, .., max_lag voxels.

    S2_p(r) = pairs of voxels r apart that are both p / pairs of voxels r apart. The pairs come from the power spectrum of each line
    (Wiener-Khinchin), zero-padded so that the two ends of a line never meet; spectra are added up over the lines, so one inverse
    transform per array remains. S2_p(0) is the volume fraction of the lines read.

    Args:
        labels: a 2D image, a 3D volume (may be memory-mapped) or a list of either, pooled.
        axis: array axis along which r is measured.
        max_lag: largest lag in voxels; cut to what the shortest array allows.
        max_lines: read about this many lines of each array, evenly spaced; None reads all.
    """
    arrays = as_arrays(labels)
    n_lags = min(max_lag, *(array.shape[axis] - 1 for array in arrays)) + 1
    pairs, overlaps = np.zeros((n_phases, n_lags)), np.zeros(n_lags)
    for array in arrays:
        length = array.shape[axis]
        padded = fft.next_fast_len(length + n_lags, real=True)
        power, n_lines = np.zeros((n_phases, padded // 2 + 1)), 0
        for lines in line_blocks(array, axis, max_lines):
            n_lines += len(lines)
            for phase in range(n_phases):
                spectrum = fft.rfft((lines == phase).astype(np.float32), padded, axis=1)
                power[phase] += np.einsum("ij,ij->j", spectrum.real, spectrum.real, dtype=np.float64)
                power[phase] += np.einsum("ij,ij->j", spectrum.imag, spectrum.imag, dtype=np.float64)
        pairs += fft.irfft(power, padded, axis=1)[:, :n_lags]
        overlaps += n_lines * (length - np.arange(n_lags))
    return np.clip(pairs / overlaps, 0.0, 1.0)  # float32 transforms leave about 1e-7 below 0


def line_blocks(array: np.ndarray, axis: int, max_lines: int | None):
    """Blocks of lines (n_lines, length) along `axis`, evenly spaced over the other axes."""
    others = [size for index, size in enumerate(array.shape) if index != axis]
    every = 1
    if max_lines is not None:
        # The same step on all other axes, so that the lines lie spread over the whole cross-section.
        every = max(1, round((np.prod(others) / max_lines) ** (1 / len(others))))
    view = np.moveaxis(array, axis, -1)[(slice(every // 2, None, every),) * len(others)]
    if 0 in view.shape:  # thinner than the step
        view = np.moveaxis(array, axis, -1)[(slice(None, None, every),) * len(others)]
    view = view[:, None] if view.ndim == 2 else view  # (rows, lines in a row, length)
    rows = max(1, BLOCK_VOXELS // (view.shape[1] * view.shape[2]))
    for start in range(0, len(view), rows):
        block = np.ascontiguousarray(view[start : start + rows])
        yield block.reshape(-1, array.shape[axis])


def compare_curves(curve: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """How far a curve (two-point, lineal path, chord lengths) is from the reference at the same lags.

    Args:
        curve: (.., lags), the same lags as `reference`.
        reference: (.., lags).

    Returns:
        `mean` and `max` of the absolute difference, in the curve's unit (a probability), not relative.

    Raises:
        InputError: the shapes differ, are empty, or a value is not finite.
    """
    curve, reference = np.asarray(curve, float), np.asarray(reference, float)
    if curve.shape != reference.shape or curve.size == 0:
        raise InputError(f"curves of shape {curve.shape} and {reference.shape} cannot be compared: take both at the same lags")
    difference = np.abs(curve - reference)
    if not np.isfinite(difference).all():
        raise InputError("a curve holds NaN or infinity: leave out the lags without a value")
    return {"mean": float(difference.mean()), "max": float(difference.max())}
