"""Errors of candidates (nearest neighbour, trilinear, SR) against a known truth or the HR images, and the tables over several rocks and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from bundle.metrics import compare_curves, lr_agreement, majority_downsample, mean_relative_error, statistics, two_sample_auc, upsample_nearest
from bundle.metrics.fidelity import fidelity
from bundle.metrics.gates import two_point_curves
from bundle.physics import properties
from bundle.physics.summary import NOT_CONVERGED
from bundle.report import markdown_table

EDGE = 64  # pixels, of the crops of the two-sample test
LAGS = 147  # pixels, 64 µm of the Berea images
PHYSICAL = ("permeability", "formation_factor", "bulk_modulus", "shear_modulus")


def geometry_errors(
    volume: np.ndarray, truth: np.ndarray, phases: Sequence[str], voxel_size: float, unit: str = "µm"
) -> dict[str, float | None]:
    """Errors of one volume against the truth by name, 0 = perfect; None where there is no such number (a phase is absent).

    Args:
        volume: (z, y, x) labels.
        truth: the same shape.
        phases: names of the labels; the first is the pore.
        voxel_size: in `unit`, like the longest distance of the two-point curves: 64, or half of the volume along z where that is less.
        unit: as the names tell it.
    """
    lag = max(voxel_size, min(64.0, voxel_size * (truth.shape[0] // 2)))
    found = fidelity(volume, truth, phases, voxel_size, phases[0], lag, unit)
    by_name = found["statistics"]
    areas = [by_name[name]["error"] for name in by_name if name not in phases and by_name[name]["error"] is not None]
    connected = found["pore"]["connected_fraction"]
    distance = found["boundary_distance"]
    return {
        "wrong voxels": 1 - found["accuracy"],
        **{f"1 - Dice, {name}": _one_minus(found["dice"].get(name)) for name in phases},
        **{f"boundary distance, {name}, {unit}": (distance[name] or {}).get("mean") for name in phases},
        **{f"fraction, {name}": by_name[name]["error"] for name in phases},
        **{f"area, {name}": by_name[name]["error"] for name in by_name if name not in phases},
        "areas, mean": float(np.mean(areas)) if areas else None,
        **{f"two-point, {name}": (found["two_point"][name] or {}).get("mean") for name in phases},
        "connected porosity": _mean_gap(connected["volume"], connected["truth"]),
    }


def coarse_properties(labels: np.ndarray, phases: Sequence[str], voxel_size: float, coarsening: int, **minerals: Mapping[str, Any]) -> dict[str, Any]:
    """`bundle.physics.properties` of a volume whose cells are the majority of `coarsening` voxels a side; the first phase is the pore.

    `minerals` are its `conductivity` and `moduli`.
    """
    if coarsening > 1:
        labels = majority_downsample(labels, coarsening, len(phases))
    return properties(labels, phases, voxel_size * coarsening, pore=phases[0], **minerals)


def sections(volume: np.ndarray) -> list[np.ndarray]:
    """Eight planes or so across each axis of a volume (z, y, x)."""
    return [plane for axis in range(3) for plane in np.moveaxis(volume, axis, 0)[:: max(1, volume.shape[axis] // 8)]]


def likeness(sr: np.ndarray, scan: np.ndarray, scale: int, images: Sequence[np.ndarray], phases: Sequence[str]) -> dict[str, float]:
    """How a volume differs from HR images, where no truth is known.

    Args:
        sr: (s z, s y, s x) labels.
        scan: (z, y, x) labels it was made from.
        scale: s.
        images: (y, x) labels, of one size, with pixels like the voxels of `sr`.
        phases: names of the labels; the first is the pore.

    Returns:
        "statistics": mean relative error of the fractions and areas against the mean of the images; "two_point": mean error of S2 up to 64 µm;
        "auc" and "auc_error" of the two-sample test; "pore": share of the scan's pore voxels that stay pore by majority.
    """
    test = two_sample_auc(images, sr, len(phases), EDGE)
    return {
        **distances(sr, images, len(phases)),
        "auc": test["auc"],
        "auc_error": test["error"],
        "pore": lr_agreement(scan, sr, scale, phases)["kept"][phases[0]],
    }


def distances(sr: np.ndarray, images: Sequence[np.ndarray], n_phases: int) -> dict[str, float]:
    """The entries "statistics" and "two_point" of `likeness`."""
    curves = [two_point_curves(part, n_phases)[:, 1:LAGS] for part in (sections(sr), images)]
    lags = min(curve.shape[1] for curve in curves)
    wanted = np.mean([statistics(image, n_phases) for image in images], 0)
    return {
        "statistics": float(mean_relative_error(statistics(sr, n_phases), wanted)),
        "two_point": compare_curves(*(curve[:, :lags] for curve in curves))["mean"],
    }


def foreign_within(sr: np.ndarray, scan: np.ndarray, label: int = 0) -> float | None:
    """Share of the voxels of `sr` that have another label where a voxel of the scan and its 26 neighbours all have `label`: specks, as a rule.

    Args:
        sr: (s z, s y, s x) labels.
        scan: (z, y, x) labels; what lies beyond it is not known, so its outermost voxels do not count.
        label: of both.

    Returns:
        None where no voxel of the scan lies so.
    """
    inside = ndimage.minimum_filter((scan == label).astype(np.uint8), 3, mode="constant")
    return float(np.mean(sr[upsample_nearest(inside, sr.shape[0] // scan.shape[0]) == 1] != label)) if inside.any() else None


def physical_properties(labels: np.ndarray, phases: Sequence[str], voxel_size: float, coarsening: int) -> dict[str, list[float | None]]:
    """Permeability (mD) and formation factor along z, y, x; bulk and shear modulus (GPa) of the dry rock; and under `rough` the names of
    those, such as "permeability z", whose solver gave up before its tolerance.

    Args:
        labels: (z, y, x).
        phases: names of the labels; the first is the pore.
        voxel_size: µm.
        coarsening: cells of the solvers are the majority of so many voxels a side.
    """
    found = coarse_properties(labels, phases, voxel_size, coarsening)
    entries = {name: {axis: found[name][axis] for axis in "zyx"} for name in PHYSICAL[:2]} | {name: {"": found[name]} for name in PHYSICAL[2:]}
    rough = [_row_name(name, axis) for name, each in entries.items() for axis, entry in each.items() if entry["why"] == NOT_CONVERGED]
    return {name: [entry["value"] for entry in each.values()] for name, each in entries.items()} | {"rough": rough}


def physical_errors(found: Mapping[str, Sequence], truth: Mapping[str, Sequence]) -> dict[str, float | None]:
    """Relative errors of `physical_properties`, mean over the axes that have a value above 0 in the truth; None where a value is not known.

    Moduli of what hangs on nothing may be a little below 0, and nothing is told from them.

    Of the formation factor F the error is that of 1 / F, the conductivity: without a path F is infinite, 1 / F is 0 and its error 1.
    """
    errors = {}
    for name in PHYSICAL:
        pairs = list(zip(found[name], truth[name], strict=True))
        if name == "formation_factor":
            name, pairs = "conductivity (1 / formation factor)", [tuple(0.0 if f is None else 1 / f for f in pair) for pair in pairs]
        pairs = [(a, b) for a, b in pairs if b > 0]
        known = bool(pairs) and all(a is not None for a, _ in pairs)
        errors[name.replace("_", " ")] = float(np.mean([abs(a - b) / b for a, b in pairs])) if known else None
    return errors


def property_table(columns: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """`physical_properties` of several volumes side by side, as Markdown.

    Of what is None, a formation factor is infinite, without a path; other values are not known. A ~ stands before a value whose solver gave up
    before its tolerance.
    """

    def cell(column: Mapping[str, Sequence], name: str, i: int, row: str) -> str:
        value = column[name][i]
        if value is None:
            return "no path" if name == "formation_factor" else "unknown"
        return f"{'~' if row in column.get('rough', ()) else ''}{value:.4g}"

    rows = []
    for name in PHYSICAL:
        entries = [column[name] for column in columns.values()]
        for i, axis in enumerate("zyx" if len(entries[0]) > 1 else [""]):
            row = _row_name(name, axis)
            rows.append([row, *(cell(column, name, i, row) for column in columns.values())])
    return markdown_table(["", *columns], rows)


def _row_name(name: str, axis: str) -> str:
    return f"{name.replace('_', ' ')} {axis}".strip()


def spread(rows: Sequence[Mapping[str, float | None]]) -> dict[str, tuple[float, float, int] | None]:
    """Mean, standard deviation (n - 1) and number of every entry over several rocks or seeds; None where one of them has no value."""
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if any(value is None for value in values):
            result[name] = None
        else:
            result[name] = (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values))
    return result


def moved_to_truth(volume: np.ndarray, scan: np.ndarray, truth: np.ndarray, n_phases: int) -> dict[str, float]:
    """Of the voxels that a result labels otherwise than the scan: the share that is right now, was right before, and would be right by chance.

    "By chance": as many voxels of each label of the scan get as many new labels, each to any of them: the truth of the label's voxels is what it
    is, wherever they lie. What exceeds it was put where it belongs.

    Args:
        volume, scan, truth: labels (z, y, x) on one grid.
        n_phases: number of labels.

    Returns:
        "changed": share of all voxels; "right", "was right", "by chance": shares of the changed, 0 where nothing changed.
    """
    joint = np.bincount(np.ravel_multi_index((scan.ravel(), volume.ravel(), truth.ravel()), (n_phases,) * 3), minlength=n_phases**3)
    joint = joint.reshape((n_phases,) * 3).astype(float)
    moved = joint * (1 - np.eye(n_phases))[:, :, None]
    changed = max(moved.sum(), 1)
    of_label = joint.sum(1) / np.maximum(joint.sum((1, 2)), 1)[:, None]  # [scan][truth]
    return {
        "changed": float(moved.sum() / joint.sum()),
        "right": float(np.einsum("abb->", moved) / changed),
        "was right": float(np.einsum("aba->", moved) / changed),
        "by chance": float((moved.sum(2) * of_label).sum() / changed),
    }


def markdown(columns: Mapping[str, Mapping[str, tuple[float, float, int] | None]], ratio: tuple[str, str] | None = None) -> str:
    """A table of errors: a row an entry, a column a candidate, mean ± standard deviation; the smallest mean of a row is bold.

    Args:
        columns: candidate -> result of `spread`.
        ratio: two candidates; the mean of the first is divided by that of the second in a column of its own.
    """
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    divided = [f"{ratio[0]} / {ratio[1]}"] if ratio else []
    rows = []
    for name in names:
        cells = [column.get(name) for column in columns.values()]
        best = min((cell[0] for cell in cells if cell), default=None)
        texts = [_cell(cell, bool(cell) and cell[0] == best) for cell in cells]
        if ratio:
            own, base = (columns[title].get(name) for title in ratio)
            texts.append(f"{own[0] / base[0]:.2f}" if own and base and base[0] > 0 else "-")
        rows.append([name, *texts])
    return markdown_table(["error", *columns, *divided], rows)


def _cell(cell: tuple[float, float, int] | None, best: bool) -> str:
    if cell is None:
        return "-"
    mean = f"{cell[0]:.4f}" if cell[0] < 0.1 else f"{cell[0]:.3f}" if cell[0] < 10 else f"{cell[0]:.0f}"
    mean = f"**{mean}**" if best else mean
    return f"{mean} ± {cell[1]:.2g}" if cell[2] > 1 else mean


def _one_minus(value: float | None) -> float | None:
    return None if value is None else 1 - value


def _mean_gap(found: Sequence[float | None], truth: Sequence[float | None]) -> float | None:
    pairs = list(zip(found, truth, strict=True))
    return None if any(None in pair for pair in pairs) else float(np.mean([abs(a - b) for a, b in pairs]))
