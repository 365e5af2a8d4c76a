"""Check label values and map those of a file to 0..n-1."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bundle.errors import NULL, InputError

SLAB = 2**26  # voxels that are read at a time


def check_labels(
    array: np.ndarray, n_labels: int, name: str, table: Mapping | None = None, key: str | None = "lr_labels or hr_labels"
) -> np.ndarray:
    """Labels as uint8 0..n-1, or an error that says which values are wrong.

    Whole numbers stored as float are labels too: NIfTI files often have them. The array is gone through slice by slice, so
    that a large one needs little more than its result.

    Args:
        array: values of the file, of any shape.
        n_labels: number of phases.
        name: of the file, for the message.
        table: file value -> label; every value of the file must be in it. None: the file's values are the labels.
        key: of the table in the config, for the message; None where there is no such key.

    Returns:
        uint8, of the same shape; `array` itself where it is uint8 and needs no mapping.

    Raises:
        InputError: fractional, not finite, negative or unknown values; a table that does not lead to 0..n-1.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise InputError(f"{name}: values of type {array.dtype} are no labels; export whole numbers, 8-bit")
    known = {label: label for label in range(n_labels)} if table is None else _checked_table(table, n_labels, key)
    slices = _slices(array)
    found = np.unique(np.concatenate([np.unique(one) for one in slices])) if array.size else array.reshape(-1)
    if array.dtype.kind == "f":
        if not np.isfinite(found).all():
            raise InputError(f"{name}: holds NaN or infinite values; labels are whole numbers 0 to {n_labels - 1}: segment it again")
        fractional = found[found != np.round(found)]
        if fractional.size:
            raise InputError(f"{name}: holds fractional values ({_some(fractional)}); labels are whole numbers: give the segmented image, "
                             "not grey values")  # fmt: skip
    values = [int(v) for v in found]
    unknown = [v for v in values if v not in known]
    if unknown:
        kind = "negative values" if unknown[0] < 0 and table is None else "values"
        cure = f"set {key}, a table such as {{{unknown[0]}: {n_labels - 1}}} with every value" if key else f"save it with 0 to {n_labels - 1}"
        raise InputError(f"{name}: holds {kind} ({_some(unknown)}) where {_some(known)} are known; {cure}, or correct the phases")
    if array.dtype == np.uint8 and table is None:
        return array
    labels = np.array([known[v] for v in values], dtype=np.uint8)
    result = np.empty(array.shape, dtype=np.uint8)
    for one, out in zip(slices, _slices(result)):
        out[...] = labels[np.searchsorted(found, one)]
    return result


def _checked_table(table: Mapping, n_labels: int, key: str) -> dict[int, int]:
    if not isinstance(table, Mapping):
        raise InputError(f"{key}: {table} is no table of labels; write it as {{0: 0, 128: 1}}, or give {NULL}")
    checked = {}
    for value, label in table.items():
        try:  # JSON and the command line make text of the keys
            whole = float(value), float(label)
        except (TypeError, ValueError):
            whole = (0.5, 0.5)
        if not all(v.is_integer() for v in whole):
            raise InputError(f"{key}: {value}: {label} is not a pair of whole numbers; write it as {{128: 1}}")
        if not 0 <= whole[1] < n_labels:
            raise InputError(f"{key}: label {label} for the value {value} is not one of 0 to {n_labels - 1}; correct it or the phases")
        checked[int(whole[0])] = int(whole[1])
    return checked


def _slices(array: np.ndarray) -> np.ndarray:
    """A view (slices, y, x)."""
    return array.reshape(-1, *array.shape[-2:]) if array.ndim > 2 else array[np.newaxis]


def _some(values) -> str:
    values = [str(v) for v in values]
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def labels_sha256(labels: Any) -> str:
    """SHA-256 of shape and labels (z, y, x), hexadecimal: the same in every file format.

    Args:
        labels: array, or what gives arrays for slices along z, y and x, such as `bundle.io.source.LabelSource`.
    """
    depth, height, width = (int(n) for n in labels.shape)
    digest = hashlib.sha256(str((depth, height, width)).encode())
    planes = max(1, SLAB // (height * width))
    for start in range(0, depth, planes):
        digest.update(np.ascontiguousarray(labels[start : min(start + planes, depth), 0:height, 0:width], dtype=np.uint8))
    return digest.hexdigest()
