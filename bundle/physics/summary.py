"""All physical properties of a labelled volume in one JSON-ready dict: a column of the table truth, LR, nearest neighbour, SR.

Columns compare where they cover the same cube of rock. A coarse column differs from the fine one by its geometry and by its coarser solution;
LR repeated to the fine grid ("nearest") has the geometry of the one and the solution of the other.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bundle.errors import InputError
from bundle.metrics import volume_fractions
from bundle.physics.diffusion import formation_factor
from bundle.physics.elasticity import MODULI, elastic_moduli
from bundle.physics.percolation import check_volume
from bundle.physics.stokes import Permeability, permeability

AXIS_NAMES = ("z", "y", "x")
ALL_PORE = "all is pore: nothing resists the flow"
NO_PATH = "pores do not lead from one end to the other"
NO_CURRENT = "conducting phases do not lead from one end to the other"
NOT_CONVERGED = "the solver gave up before its tolerance: the value is a rough one"


def check_minerals(
    conductivity: Mapping[str, float], moduli: Mapping[str, tuple[float, float]], phases: Sequence[str], pore: str, fluid: str = "air"
) -> None:
    """Whether conductivities are of phases that are there, and moduli of solids that are there or of what fills the pores.

    Raises:
        InputError: one is of another.
    """
    solids = [phase for phase in phases if phase != pore]
    for key, given, known, kind in (("conductivity", conductivity, phases, "phase"), ("moduli", moduli, [*solids, fluid], "solid")):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"{key}: {', '.join(unknown)} is no {kind} here ({', '.join(known)}); correct the name")


def properties(
    labels: np.ndarray,
    phases: Sequence[str],
    voxel_size: float,
    axes: Sequence[int] = (0, 1, 2),
    pore: str = "pore",
    boundary: str = "mirror",
    conductivity: Mapping[str, float] | None = None,
    moduli: Mapping[str, tuple[float, float]] | None = None,
    fluid: str = "air",
) -> dict:
    """Porosity, permeability and formation factor along the axes, bulk and shear modulus.

    Every phase but the pore is solid for the flow, microporous clay too. Only the pore conducts, unless `conductivity` says more.

    Args:
        labels: integers (z, y, x), 0 to n - 1; a phase may have no voxel.
        phases: names of the labels, in their order.
        voxel_size: edge of a voxel in µm (cubes).
        axes: along which the rock is measured; 0 (z), 1 (y), 2 (x).
        pore: name of the phase that is the pore space.
        boundary: of the flow, see `permeability`.
        conductivity: {phase: conductivity relative to the pore's brine}; phases that are left out insulate, the pore has 1.
        moduli: {phase: (bulk, shear) in GPa}, before those of `MODULI`.
        fluid: what fills the pores when moduli are measured: "air" for the dry rock, "water", or a name in `moduli`.

    Returns:
        `volume_fractions` by phase; `porosity`; `permeability` by axis ("z", "y", "x") in mD, `formation_factor` and `tortuosity` by axis,
        `bulk_modulus` and `shear_modulus` in GPa, each {"value": number or None, "why": None or why there is no value or what is wrong with
        it}; `solvers` (iterations, residuals, whether converged); `settings`. No NaN and no infinity.

    Raises:
        InputError: labels are no 3D volume or have no name, `pore` is no phase, an axis, voxel size or boundary is impossible, or a solver's
            package is not installed.
    """
    labels, phases, axes = check_volume(labels), list(phases), list(axes)
    for axis in axes:
        check_volume(labels, axis)
    if pore not in phases:
        raise InputError(f"phases ({', '.join(phases)}) has no {pore}: set pore to the name of the pore space")
    check_minerals(conductivity or {}, moduli or {}, phases, pore, fluid)
    fractions = volume_fractions(labels, len(phases))
    conducts = {pore: 1.0, **(conductivity or {})}
    conductivities = [conducts.get(phase, 0.0) for phase in phases]
    flow, current = {}, {}
    for axis in axes:
        name = AXIS_NAMES[axis]
        flow[name] = permeability(labels == phases.index(pore), voxel_size, axis, boundary)
        current[name] = formation_factor(labels, conductivities, axis)
    elastic, solver = _elastic(labels, phases, pore, fluid, moduli or {}, fractions)
    return {
        "settings": {
            "phases": phases, "voxel_size_um": float(voxel_size), "shape": list(labels.shape), "solid_for_flow": [p for p in phases if p != pore],
            "boundary_of_flow": boundary, "conductivity": dict(zip(phases, conductivities, strict=True)), "pore_fluid": fluid,
        },
        "volume_fractions": dict(zip(phases, fractions.tolist(), strict=True)),
        "porosity": float(fractions[phases.index(pore)]),
        "permeability": {name: _entry(r.millidarcy, _why(r), r.converged) for name, r in flow.items()},
        "formation_factor": {name: _entry(r.factor, "" if r.percolates else NO_CURRENT, r.converged) for name, r in current.items()},
        "tortuosity": {name: _entry(r.tortuosity, "" if r.percolates else NO_CURRENT, r.converged) for name, r in current.items()},
        **elastic,
        "solvers": {
            "flow": {
                n: {"flowing": r.flowing, "iterations": r.iterations, "residual": r.residual, "converged": r.converged} for n, r in flow.items()
            },
            "current": {n: {"iterations": r.iterations, "converged": r.converged} for n, r in current.items()},
            "elastic": solver,
        },
    }  # fmt: skip


def _why(flow: Permeability) -> str:
    return NO_PATH if not flow.percolates else "" if np.isfinite(flow.um2) else ALL_PORE


def _elastic(
    labels: np.ndarray, phases: Sequence[str], pore: str, fluid: str, moduli: Mapping[str, tuple[float, float]], fractions: np.ndarray
) -> tuple[dict, dict | None]:
    """Entries of the two moduli, and what the solver did."""
    known = {**MODULI, **moduli}
    names = [fluid if phase == pore else phase for phase in phases]
    missing = [name for name, fraction in zip(names, fractions, strict=True) if name not in known and fraction > 0]
    if missing:
        entry = _entry(None, f"moduli of {', '.join(missing)} are not known: set moduli, GPa")
        return {"bulk_modulus": entry, "shear_modulus": entry}, None
    pairs = [known.get(name, (0.0, 0.0)) for name in names]  # of a phase without a voxel any will do
    result = elastic_moduli(labels, [p[0] for p in pairs], [p[1] for p in pairs])
    entries = {f"{name}_modulus": _entry(getattr(result, name), "", result.converged) for name in ("bulk", "shear")}
    return entries, {"iterations": result.iterations, "converged": result.converged}


def _entry(value: float | None, why: str, converged: bool = True) -> dict:
    """A value for JSON, which knows neither NaN nor infinity, and a word where it needs one."""
    known = value is not None and bool(np.isfinite(value))
    return {"value": float(value) if known else None, "why": why or (None if converged else NOT_CONVERGED)}
