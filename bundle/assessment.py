"""What an evaluation measures on demand, because it takes long or needs more than LR, SR and HR images: truth, shape, physics, two-sample tests.

Each part is a dictionary {row: {column: value}} under the name that report.html shows it by. Volumes are whole in memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bundle import judging, report
from bundle.errors import InputError, check_seed, optional, switch, whole
from bundle.html_slices import mosaic_png
from bundle.io import Volume, check_labels
from bundle.io.files import lone_path, read_volume
from bundle.io.volume import are_cubes, cube_edge
from bundle.metrics import (
    chord_lengths, connected_fraction, euler_number, half_path, oblique_reference, oblique_slices, pore_sizes, real_reference, specific_surface,
    two_sample_auc, upsample_nearest, upsample_trilinear,
)  # fmt: skip
from bundle.metrics.oblique import check_oblique
from bundle.metrics.two_sample import FOLDS, parts, reference_splits
from bundle.physics.summary import check_minerals

logger = logging.getLogger(__name__)

CROP = 64  # SR voxels, edge of what the two-sample test looks at
CROPS = 800  # of planes at 45 degrees
SUREST = 10  # crops of a fold that are shown
LENGTHS = {
    "mean chord of {}": lambda mask, axis, size: chord_lengths(mask, axis, size)["mean"],
    "segments wholly in {} half as often as its points": half_path,
}
FIGURES = {
    "permeability": "permeability along {}, mD",
    "formation_factor": "formation factor along {}",
    "bulk_modulus": "bulk modulus of the dry rock, GPa",
    "shear_modulus": "shear modulus of the dry rock, GPa",
}


class Assessment:
    """Measures what its settings ask for.

    Args:
        truth_image: true labels on the grid of SR, where they are known; null = none.
        morphology: chords, lineal path, sizes, connection, Euler number and surface of the pore.
        physics: edge of the cube in the middle for which flow, conduction and elasticity are computed, LR voxels; null = none.
        physics_cell: edge of a cell of these computations, SR voxels: the majority of its voxels counts.
        conductivity: {phase: conductivity relative to the brine's}, such as of clay; phases that are left out insulate, the pore has 1.
        moduli: {phase: [bulk, shear]} in GPa of minerals that `bundle.physics.elasticity.MODULI` does not know, or knows otherwise.
        two_sample: whether a network can tell SR from the HR images, on the axis planes and at 45 degrees; of images of one plane, on that alone.
        seed: of the two-sample tests.

    Attributes:
        pictures: PNG of what `run` saw, for `bundle.html_report.write`.

    Raises:
        InputError: a setting is impossible.
    """

    def __init__(
        self,
        truth_image: str | os.PathLike | None = None,
        morphology: bool | str = False,
        physics: int | None = None,
        physics_cell: int = 2,
        conductivity: Mapping[str, float] | None = None,
        moduli: Mapping[str, Sequence[float]] | None = None,
        two_sample: bool | str = False,
        seed: int = 0,
    ):
        self.truth_image = lone_path(truth_image, "truth_image") if truth_image else None
        self.morphology, self.two_sample = switch(morphology, "morphology"), switch(two_sample, "two_sample")
        self.physics = None if physics is None else whole(physics, "physics", "LR voxels along the edge of the cube", 1)
        self.physics_cell, self.seed = whole(physics_cell, "physics_cell", "SR voxels along the edge of a cell", 1), check_seed(seed)
        self.pictures: dict[str, bytes] = {}
        self.minerals = {"conductivity": _conductivities(conductivity or {}), "moduli": _moduli(moduli or {})}

    def _read_truth(self, shape: Sequence[int], n_phases: int) -> np.ndarray | None:
        """The true labels (z, y, x), or None where no file was given.

        Raises:
            InputError: another shape than SR, or labels without a name.
        """
        if self.truth_image is None:
            return None
        truth = read_volume(self.truth_image).array
        if truth.shape != tuple(shape):
            raise InputError(f"{self.truth_image} has shape {truth.shape}, SR {tuple(shape)}: give the truth of the same place on the grid of SR")
        return check_labels(truth, n_phases, str(self.truth_image), key=None)

    def prepare(
        self, lr: Volume, sr: Volume, groups: Mapping[str, Sequence[np.ndarray]], phases: Sequence[str], scale: int, unit: str
    ) -> np.ndarray | None:
        """Reads the truth, and refuses at once what would end `run` after minutes; the arguments are those of `run`.

        Returns:
            The true labels (z, y, x) for `run`, None where no file was given.

        Raises:
            InputError: voxels are not cubes or of unknown size where they must be, the truth does not fit, images or SR are too small, or a
                package is not installed.
        """
        if self.truth_image is not None or self.morphology:
            optional("skimage", "morphology and the comparison with the truth need scikit-image", "lab")
        if self.morphology:
            optional("porespy", "pore sizes need porespy", "lab")
        if self.truth_image is not None:
            cube_edge(sr.voxel_size, "the comparison with the truth")
        if self.physics:
            if unit != "µm":
                raise InputError("physics: the voxel size is not known, so there is no permeability; set lr_voxel_size")
            cube_edge(sr.voxel_size, "physics")
            self._edge(lr.array.shape, scale)
            check_minerals(**self.minerals, phases=phases, pore=phases[0])
            optional("pyamg", "the permeability needs PyAMG", "physics")
            optional("taufactor", "the formation factor needs taufactor", "physics")
        if self.two_sample:
            if len(groups) > 1:
                logger.warning("two_sample: left out, as each plane has images of its own: pooled they are no sample of any plane")
            else:
                ((group, images),) = groups.items()
                for labels in (images, _seen(sr.array, group)):
                    parts(labels, FOLDS, CROP)
                if len(images) > 1:
                    reference_splits(images, edge=CROP)
                if _at_45_degrees(sr, group):
                    check_oblique(sr.array, images, CROP)
        return self._read_truth(sr.array.shape, len(phases))

    def run(
        self,
        lr: Volume,
        sr: Volume,
        groups: Mapping[str, Sequence[np.ndarray]],
        phases: Sequence[str],
        scale: int,
        unit: str,
        truth: np.ndarray | None,
    ) -> dict[str, Any]:
        """`truth`, `morphology`, `physics`, `two_sample`, as far as they are asked for, JSON-ready.

        Args:
            lr: (z, y, x), labels that index `phases`, µm.
            sr: `scale` times finer.
            groups: HR images by plane group.
            phases: names; the first is the pore.
            scale: SR voxels along the edge of an LR voxel.
            unit: of the voxel sizes, µm where they are known.
            truth: what `prepare`, called before with the same arguments, has read.
        """
        found: dict[str, Any] = {}
        if truth is not None:
            found["truth"] = self._truth(lr.array, sr, truth, phases, scale, unit)
        if self.morphology:
            found["morphology"] = self._morphology(lr, sr, truth, groups, phases, unit)
        if self.physics:
            found["physics"] = self._physics(lr, sr, truth, phases, scale)
        if self.two_sample and len(groups) == 1:
            ((group, images),) = groups.items()
            found["two_sample"] = self._two_sample(lr.array, sr, group, images, len(phases), scale)
        return found

    def _truth(self, lr: np.ndarray, sr: Volume, truth: np.ndarray, phases: Sequence[str], scale: int, unit: str) -> dict[str, dict]:
        size = cube_edge(sr.voxel_size, "the comparison with the truth")
        candidates = {"nearest": upsample_nearest(lr, scale), "trilinear": upsample_trilinear(lr, scale, len(phases)), "SR": sr.array}
        errors = {title: judging.geometry_errors(volume, truth, phases, size, unit) for title, volume in candidates.items()}
        return {row: {title: column[row] for title, column in errors.items()} for row in errors["SR"]}

    def _morphology(
        self, lr: Volume, sr: Volume, truth: np.ndarray | None, groups: Mapping[str, Sequence[np.ndarray]], phases: Sequence[str], unit: str
    ) -> dict[str, dict]:
        volume, per_volume = ("mm³", 1e9) if unit == "µm" else ("SR voxel", 1.0)
        columns = {"LR": (lr.array == 0, lr.voxel_size), "SR": (sr.array == 0, sr.voxel_size)}
        if truth is not None:
            columns["truth"] = (truth == 0, sr.voxel_size)
        rows: dict[str, dict] = {}
        for title, (mask, size) in columns.items():
            connected = connected_fraction(mask)
            for axis, name in enumerate("zyx"):
                for row, measure in LENGTHS.items():
                    rows.setdefault(f"{row.format(phases[0])} along {name}, {unit}", {})[title] = measure(mask, axis, size)
                rows.setdefault(f"share of {phases[0]} connected along {name}", {})[title] = connected[axis]
            sizes = pore_sizes(mask, size) if are_cubes(size) else None
            rows.setdefault(f"mean radius of {phases[0]} by volume, {unit}", {})[title] = sizes and sizes["mean"]
            present = mask.any() and not mask.all()
            euler = euler_number(mask, size)["density"] * per_volume if present else None
            rows.setdefault(f"Euler number of {phases[0]} per {volume}", {})[title] = euler
            surface = specific_surface(mask, size) if present and min(mask.shape) > 1 else {"marching_cubes": None, "faces": None}
            rows.setdefault(f"surface of {phases[0]} by marching cubes per volume, 1/{unit}", {})[title] = surface["marching_cubes"]
            rows.setdefault(f"surface of {phases[0]} by voxel faces per volume, 1/{unit}", {})[title] = surface["faces"]
        flat = {}
        for row, measure in LENGTHS.items():
            flat |= {f"{row.format(phases[0])} along {'zyx'[axis]}, {unit}": value for axis, value in self._of_images(measure, sr, groups).items()}
        return {row: {**columns, "HR images": flat.get(row)} for row, columns in rows.items()}

    @staticmethod
    def _of_images(
        measure: Callable[..., float | None], sr: Volume, groups: Mapping[str, Sequence[np.ndarray]]
    ) -> dict[int, float]:
        """Of images only lengths of the pore can be compared: the mean by axis of the volume, over both axes where no plane is told."""
        found: dict[int, list[float]] = {}
        for group, images in groups.items():
            plane = report.PLANES.get(group)
            size = [sr.voxel_size[axis] for axis in plane or (1, 2)]
            for i in (0, 1):
                lengths = [measure(image == 0, i, size) for image in images]
                for axis in [plane[i]] if plane else range(3):
                    found.setdefault(axis, []).extend(length for length in lengths if length is not None)
        return {axis: float(np.mean(lengths)) for axis, lengths in found.items() if lengths}

    def _edge(self, shape: Sequence[int], scale: int) -> int:
        """Of the cube of the physics, LR voxels."""
        edge = min(self.physics, *shape)
        if edge * scale % self.physics_cell:
            raise InputError(f"physics_cell: {edge} LR voxels are {edge * scale} SR voxels, no multiple of {self.physics_cell}; choose 1 or 2")
        return edge

    def _physics(self, lr: Volume, sr: Volume, truth: np.ndarray | None, phases: Sequence[str], scale: int) -> dict[str, dict]:
        size = cube_edge(sr.voxel_size, "physics")
        edge = self._edge(lr.array.shape, scale)
        place = tuple(slice((n - edge) // 2, (n - edge) // 2 + edge) for n in lr.array.shape)
        fine = tuple(slice(p.start * scale, p.stop * scale) for p in place)
        cubes = {"Truth": truth[fine]} if truth is not None else {}
        cubes |= {"LR": lr.array[place], "nearest": upsample_nearest(lr.array[place], scale), "SR": sr.array[fine]}
        rows: dict[str, dict] = {}
        for title, labels in cubes.items():
            voxel, cell = (size * scale, 1) if title == "LR" else (size, self.physics_cell)
            logger.info("physics of %s, %s cells", title, " x ".join(str(n // cell) for n in labels.shape))
            found = judging.coarse_properties(labels, phases, voxel, cell, **self.minerals)
            rows.setdefault(f"porosity of the middle {edge} x {edge} x {edge} LR voxels", {})[title] = found["porosity"]
            for key, name in FIGURES.items():
                entries = {axis: found[key][axis] for axis in "zyx"} if "{}" in name else {"": found[key]}
                for axis, entry in entries.items():
                    rows.setdefault(name.format(axis), {})[title] = entry["value"] if entry["why"] is None else _explained(entry)
        return rows

    def _two_sample(self, lr: np.ndarray, sr: Volume, group: str, images: Sequence[np.ndarray], n_phases: int, scale: int) -> dict[str, dict]:
        volumes, planes = {"SR": sr.array, "LR": upsample_nearest(lr, scale)}, f"{group if group in report.PLANES else 'axis'} planes"
        found = {name: two_sample_auc(images, _seen(one, group), n_phases, CROP, seed=self.seed, surest=SUREST) for name, one in volumes.items()}
        self.pictures = {name: mosaic_png(crops, FOLDS) for name, crops in found["SR"]["crops"].items()}
        rows = {planes: found}
        if _at_45_degrees(sr, group):
            real = oblique_reference(images, CROPS, CROP, self.seed)
            rows["planes at 45 degrees"] = {
                name: two_sample_auc(real, oblique_slices(volume, CROPS, CROP, self.seed), n_phases, CROP, seed=self.seed)
                for name, volume in volumes.items()
            }
        table = {
            row: {f"{name}: AUC ± standard error": f"{found['auc']:.3f} ± {found['error']:.3f}" for name, found in columns.items()}
            for row, columns in rows.items()
        }
        if len(images) > 1:
            reference = real_reference(images, n_phases, edge=CROP, seed=self.seed)
            told = f"{reference['auc']:.3f}" + ("" if reference["std"] is None else f" ± {reference['std']:.3f}")
            table[planes]["HR images against each other"] = told
        return table


def _seen(volume: np.ndarray, group: str) -> np.ndarray | list[np.ndarray]:
    """What of a volume images of a plane group show: its planes normal to one axis, or all of it, along all axes, where no plane is told."""
    plane = report.PLANES.get(group)
    return volume if plane is None else list(np.moveaxis(volume, 3 - sum(plane), 0))


def _at_45_degrees(sr: Volume, group: str) -> bool:
    """Whether planes at 45 degrees can be compared: of other voxels than cubes they are no squares, and images of one plane show none like them."""
    return are_cubes(sr.voxel_size) and group not in report.PLANES


def _by_phase(given: Any, read: Callable[[Any], Any], refusal: str) -> dict[str, Any]:
    """Of each phase what `read` makes of its value.

    Raises:
        InputError: `refusal`, where there are no phases, or a value cannot be read.
    """
    try:
        return {str(phase): read(value) for phase, value in given.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(refusal) from error


def _finite(value: Any) -> float:
    """A number from 0 on."""
    if not 0 <= float(value) < float("inf"):
        raise ValueError(value)
    return float(value)


def _conductivities(given: Any) -> dict[str, float]:
    """Relative conductivities by phase, from 0 on."""
    return _by_phase(given, _finite, f"conductivity: {given} is not {{phase: conductivity, 1 being the brine's}}; give such as {{'clay': 0.2}}")


def _moduli(given: Any) -> dict[str, tuple[float, float]]:
    """Bulk and shear moduli by phase: two numbers, of which the first is positive and the second not negative."""

    def read(value: Any) -> tuple[float, float]:
        bulk, shear = map(_finite, value)
        if bulk == 0:
            raise ValueError(value)
        return bulk, shear

    return _by_phase(given, read, f"moduli: {given} is not {{phase: [bulk, shear]}} in GPa; give such as {{'pyrite': [147, 132]}}")


def _explained(entry: Mapping[str, Any]) -> str:
    return entry["why"] if entry["value"] is None else f"{entry['value']:.4g}: {entry['why']}"
