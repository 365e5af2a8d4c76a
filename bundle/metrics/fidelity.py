"""All that tells how true one candidate is (nearest, trilinear, SR) where the truth of the same place is known."""

from collections.abc import Sequence

import numpy as np

from bundle.errors import InputError
from bundle.io.volume import as_voxel_size
from bundle.metrics.correlation import MAX_LINES, compare_curves, two_point
from bundle.metrics.morphology import chord_lengths, connected_fraction, euler_number
from bundle.metrics.summary import json_number, mean_relative_error, relative_errors, statistic_names, statistics
from bundle.metrics.truth import boundary_distance, voxel_agreement


def fidelity(
    volume: np.ndarray,
    truth: np.ndarray,
    phases: Sequence[str],
    voxel_size: float | Sequence[float],
    pore: str = "pore",
    max_lag: float = 64.0,
    unit: str = "µm",
) -> dict:
    """Compare a volume with the truth, JSON-ready.

    Args:
        volume: (z, y, x), labels that index `phases`.
        truth: the same shape.
        phases: names of the labels.
        voxel_size: in `unit`, a number or (z, y, x).
        pore: the phase whose topology is compared.
        max_lag: largest distance of the two-point correlation in `unit`.
        unit: of all lengths, for messages.

    Returns:
        `accuracy`, `confusion`, `dice`, `absent` of `voxel_agreement`; `boundary_distance` by phase, of `boundary_distance`;
        `statistics`: by name the fraction or interfacial area of `volume` and `truth` and the relative `error`, None where truth is 0;
        `mean_relative_error` over them, None where all are;
        `two_point`: by phase `mean` and `max` of |S2 - S2 of the truth| over lags 1 to `max_lag` and the axes, None for a phase absent in both;
        `pore`: of `volume` and `truth` the `euler_number`, the `connected_fraction` and the `mean_chord` in `unit`, each by axis (None: no pore, or no
        whole chord); `notes`: what a reader must know of the values that are None or 0.

    Raises:
        InputError: shapes differ, not 3D, labels outside the phases, no phase named `pore`, a name twice, or scikit-image is absent.
    """
    phases = list(phases)
    if len(set(phases)) < len(phases) or pore not in phases:
        raise InputError(f"phases ({', '.join(phases)}) must hold {pore} and no name twice; name the pore phase with pore")
    if volume.ndim != 3 or truth.ndim != 3:
        raise InputError(f"fidelity needs two 3D volumes, got shapes {volume.shape} and {truth.shape}")
    size = as_voxel_size(voxel_size)
    agreement = voxel_agreement(volume, truth, phases)  # checks shapes and labels
    found, true = (statistics(array, len(phases)) for array in (volume, truth))
    errors = relative_errors(found, true)
    topology = {name: _topology(array == phases.index(pore), size) for name, array in (("volume", volume), ("truth", truth))}
    return {
        **agreement,
        "boundary_distance": boundary_distance(volume, truth, phases, size),
        "statistics": {
            name: {"volume": float(found[i]), "truth": float(true[i]), "error": json_number(errors[i])}
            for i, name in enumerate(statistic_names(phases))
        },
        "mean_relative_error": json_number(mean_relative_error(found, true)),
        "two_point": _two_point_errors(volume, truth, phases, size, max_lag, unit, agreement["absent"]),
        "pore": {key: {name: values[key] for name, values in topology.items()} for key in topology["truth"]},
        "notes": _notes(agreement["absent"], topology, pore),
    }


def _two_point_errors(
    volume: np.ndarray, truth: np.ndarray, phases: Sequence[str], size: Sequence[float], max_lag: float, unit: str, absent: dict[str, str]
) -> dict[str, dict[str, float] | None]:
    """`compare_curves` of each phase, lag 0 (the fraction) left out; the mean of the axes' means, the largest of their maxima."""
    by_axis = []
    for axis, step in enumerate(size):
        lags = int(max_lag / step + 1e-6)
        if min(lags, volume.shape[axis] - 1) < 1:
            raise InputError(f"two-point correlation needs a lag of 1 voxel or more along axis {axis}: max_lag is {max_lag} {unit}, a voxel {step}")
        curves = [two_point(array, len(phases), axis, lags, MAX_LINES)[:, 1:] for array in (volume, truth)]
        by_axis.append([compare_curves(a, b) for a, b in zip(*curves, strict=True)])
    return {
        name: None
        if absent.get(name) == "both"
        else {"mean": float(np.mean([errors[i]["mean"] for errors in by_axis])), "max": max(errors[i]["max"] for errors in by_axis)}
        for i, name in enumerate(phases)
    }


def _topology(mask: np.ndarray, size: Sequence[float]) -> dict:
    present = bool(mask.any())
    return {
        "euler_number": euler_number(mask)["number"] if present else None,
        "connected_fraction": connected_fraction(mask),
        "mean_chord": [chord_lengths(mask, axis, size)["mean"] for axis in range(3)],
    }


def _notes(absent: dict[str, str], topology: dict, pore: str) -> list[str]:
    places = {"volume": "the volume", "truth": "the truth", "both": "both"}
    notes = [f"{name} is absent in {places[where]}: no Dice, no boundary distance" for name, where in absent.items()]
    for place, values in topology.items():
        closed = [axis for axis, share in zip("zyx", values["connected_fraction"], strict=True) if share == 0]
        if closed:
            notes.append(f"{pore} of {places[place]} does not percolate along {', '.join(closed)}: connected fraction 0")
    return notes
