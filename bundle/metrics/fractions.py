"""Volume fraction of every phase."""

from collections.abc import Iterator, Sequence

import numpy as np

from bundle.errors import InputError

BLOCK_VOXELS = 1 << 22  # np.bincount widens labels to 8 bytes: 32 MiB a block

Labels = np.ndarray | Sequence[np.ndarray]


def as_arrays(labels: Labels) -> list[np.ndarray]:
    """One image or volume, or a list of them, as a list of non-empty 2D or 3D arrays (not copied).

    Raises:
        InputError: nothing given, or an array that is not 2D or 3D, is empty or holds no integers.
    """
    arrays = [labels] if isinstance(labels, np.ndarray) else list(labels)
    if not arrays:
        raise InputError("no images to measure: give at least one")
    for array in arrays:
        if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "ui":
            raise InputError(f"labels must be integers in a filled 2D image or 3D volume, got {array.dtype} of shape {array.shape}")
    return arrays


def slabs(array: np.ndarray, multiple: int = 1) -> Iterator[np.ndarray]:
    """Slabs along axis 0 of at most about `BLOCK_VOXELS` voxels, each a multiple of `multiple` planes but the last."""
    step = max(1, BLOCK_VOXELS // int(np.prod(array.shape[1:])) // multiple) * multiple
    for start in range(0, array.shape[0], step):
        yield np.asarray(array[start : start + step])


def bin_labels(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Count the values 0..n_bins-1 (any shape) -> (n_bins,) int64.

    Raises:
        InputError: a value is negative or n_bins or more.
    """
    flat = values.ravel()
    if flat.dtype.kind == "i" and flat.size and flat.min() < 0:
        raise InputError(f"negative label {flat.min()}: labels are 0 to {n_bins - 1}; map the file's values with lr_labels or hr_labels")
    counts = np.bincount(flat, minlength=n_bins)
    if counts.size > n_bins:
        raise InputError(f"label {counts.size - 1}, of {n_bins} phases: name it in phases, or map it with lr_labels or hr_labels")
    return counts


def count_labels(labels: Labels, n_phases: int) -> np.ndarray:
    """Voxels of every label, added up over all arrays given -> (n_phases,) int64.

    Raises:
        InputError: a label outside 0..n_phases-1.
    """
    return sum(bin_labels(slab, n_phases) for array in as_arrays(labels) for slab in slabs(array))


def volume_fractions(labels: Labels, n_phases: int) -> np.ndarray:
    """Share of the voxels that each label has -> (n_phases,), sums to 1."""
    counts = count_labels(labels, n_phases)
    return counts / counts.sum()


def mean_fractions(images: Sequence[np.ndarray], n_phases: int) -> np.ndarray:
    """Mean over images of any size of their volume fractions, each as much as any other, as `run evaluating` and the feedback count: (n_phases,)."""
    return np.mean([volume_fractions(image, n_phases) for image in images], axis=0)
