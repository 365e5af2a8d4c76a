"""Evaluation of a super-resolved volume against its LR input and the HR images: `run evaluating`."""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bundle import html_report, report
from bundle.assessment import Assessment
from bundle.errors import InputError, check_seed, names, number, whole
from bundle.evaluation_files import Place, check_alike, check_recorded_phases, common_voxel_size, find_sr, is_trust, open_percent, record
from bundle.html_slices import sections
from bundle.inference import check_output_dir
from bundle.io import Volume, check_labels, read_images, write_text
from bundle.io.files import format_of, in_memory, lone_path, open_volume
from bundle.io.images import EVALUATED, image_files
from bundle.io.labels import labels_sha256
from bundle.io.region import region_slices
from bundle.io.volume import size_text
from bundle.metrics import lr_agreement, mean_relative_error, seed_diversity, staircase, statistic_names, statistics, summarise, two_point
from bundle.metrics.correlation import MAX_LINES
from bundle.metrics.summary import deviation
from bundle.shards import TRUST, UNCERTAINTY
from bundle.store import NOT_MADE
from bundle.trust import trust_summary
from bundle.view3d import phase_to_draw, surfaces_png
from bundle.zoom import enlarged

logger = logging.getLogger(__name__)

ALL_PLANES = "all planes"
ZOOMS = (3, 9)  # of pictures of parts beside the whole, as `EVALUATED` names them

Images = str | os.PathLike | Sequence[str | os.PathLike]
VoxelSize = float | Sequence[float]


class Evaluation:
    """Compares LR, SR and HR and writes what it finds to `output_dir`.

    Args:
        lr_image: LR volume file.
        sr_image: SR volume file, labels in the order of `phases`; null takes the one named `<lr_image>_sr` in `output_dir`.
        hr_images: HR image file, list of files or folder; or {"xy" | "xz" | "yz": such} when the rock is anisotropic: then each plane is
            compared with SR areas and correlations along its own two axes.
        phases: names of the HR and SR labels 0, 1, ..
        output_dir: folder for evaluation.json, report.html and the pictures.
        scale_factor: SR voxels along the edge of an LR voxel.
        lr_phases: names of the LR labels, all among `phases`; null = the first of `phases`.
        lr_labels: {value in the LR file: label}; null = the values are labels.
        hr_labels: the same for the HR images.
        lr_voxel_size: µm, number or (z, y, x); null reads it from the file.
        hr_voxel_size: the same for the HR images, or (row, column) of them.
        lr_region: ((z0, z1), (y0, y1), (x0, x1)) in LR voxels: what SR was made from, or a part to evaluate of an SR that was made from the whole LR,
            of which only this part is kept in memory; null = all.
        max_lag: largest distance of the two-point correlation in µm (in SR voxels where no file and no setting tells the voxel size).
        seed: of the bootstrap.
        sr_images: further SR volumes of the same LR, made with other seeds of the noise: they tell how much of SR is chance; null = none.
        uncertainty_image: per cent on the grid of SR, laid over it in report.html, of a store of trust what is left to 100; null takes
            `<name of sr_image>_trust.ome.zarr` beside SR, or in `output_dir`, where there is one, or else `…_uncertainty.ome.zarr`.
        view3d: surfaces of a phase in report.html: true for the first, or its name; false for none.
        assessment: what is measured beyond this; null = nothing.
    """

    def __init__(
        self,
        lr_image: str | os.PathLike,
        sr_image: str | os.PathLike | None,
        hr_images: Images | Mapping[str, Images],
        phases: Sequence[str],
        output_dir: str | os.PathLike,
        scale_factor: int,
        lr_phases: Sequence[str] | None = None,
        lr_labels: Mapping[int, int] | None = None,
        hr_labels: Mapping[int, int] | None = None,
        lr_voxel_size: VoxelSize | None = None,
        hr_voxel_size: VoxelSize | None = None,
        lr_region: Sequence[Sequence[int]] | None = None,
        max_lag: float = 64.0,
        seed: int = 0,
        sr_images: Images | None = None,
        uncertainty_image: str | os.PathLike | None = None,
        view3d: bool | str = False,
        assessment: Assessment | None = None,
    ):
        self.lr_image, self.output_dir = lone_path(lr_image, "lr_image"), Path(output_dir)
        self.sr_image = lone_path(sr_image, "sr_image") if sr_image else find_sr(self.lr_image, self.output_dir)
        self.hr_images = dict(hr_images) if isinstance(hr_images, Mapping) else {ALL_PLANES: hr_images}
        self.phases, self.lr_phases = names(phases, "phases"), names(lr_phases or phases, "lr_phases")
        self.scale_factor = whole(scale_factor, "scale_factor", "SR voxels along the edge of an LR voxel, such as 8", 1)
        self.lr_region, self.max_lag, self.seed = lr_region, number(max_lag, "max_lag", "a distance in µm, such as 64"), check_seed(seed)
        self.lr_labels, self.hr_labels = lr_labels, hr_labels
        self.lr_voxel_size, self.hr_voxel_size = lr_voxel_size, hr_voxel_size
        seeds = sr_images if isinstance(sr_images, (list, tuple)) else [sr_images] if sr_images else []
        self.sr_images = [lone_path(path, "sr_images") for path in seeds]
        self.assessment = assessment
        self.uncertainty_image = lone_path(uncertainty_image, "uncertainty_image") if uncertainty_image else None
        self.view_phase = phase_to_draw(view3d, self.phases)
        if not self.hr_images:
            raise InputError("hr_images: no images; give a file, a folder, or {xy: .., xz: .., yz: ..}")
        unknown = set(self.hr_images) - set(report.PLANES) - {ALL_PLANES}
        if unknown:
            raise InputError(f"hr_images has unknown plane {', '.join(sorted(map(str, unknown)))}: planes are {', '.join(report.PLANES)}")
        missing = [name for name in self.lr_phases if name not in self.phases]
        if missing:
            raise InputError(f"lr_phases has {', '.join(missing)}, which phases ({', '.join(self.phases)}) lacks: use the same names")

    def run(self) -> dict:
        """Read, compare, log the table, write evaluation.json, the pictures and report.html; returns what evaluation.json holds.

        Raises:
            InputError: shapes, voxel sizes or labels do not fit each other.
        """
        lr, sr, groups, unit, provenance, place = self._read()
        assessed = (lr, sr, groups, self.phases, self.scale_factor, unit)
        truth = self.assessment.prepare(*assessed) if self.assessment else None
        for path in self.sr_images:
            place.of(path, open_volume(path))  # that it is there and fits; its labels are read when SR is measured
        given = self.uncertainty_image
        known = given if given and is_trust(given) else None
        trust = open_percent(known, TRUST, self.sr_image, self.output_dir, place)
        doubt = trust is not None and given == known
        overlay = 100 - trust if doubt else open_percent(given, UNCERTAINTY, self.sr_image, self.output_dir, place)
        check_output_dir(self.output_dir)  # before the work, and after what may be refused
        shown = sections(lr, sr, groups, len(self.phases), overlay)
        n, rows = len(self.phases), statistic_names(self.phases)
        lr_size, sr_size = lr.voxel_size, sr.voxel_size
        seeds, diversity = self._seeds(sr, groups, provenance["files"], place)
        summaries, curves = {}, {}
        for group, images in groups.items():
            axes = report.PLANES.get(group, (0, 1, 2))
            hr = np.stack([statistics(image, n) for image in images])
            summaries[group] = summarise(
                rows,
                hr=hr,
                lr=statistics(lr.array, n, axes, upsample=self.scale_factor),
                sr=seeds[0][group][0],
                seed=self.seed,
                quarters=np.stack([statistics(quarter, n) for quarter in _quarters(images[0])]) if len(images) == 1 else None,
            )
            _add_spread(summaries[group], hr, np.stack([one[group][0] for one in seeds]))
            # HR pixels are as large as SR voxels: `_read` has checked it.
            hr_size = [sr_size[axis] for axis in report.PLANES.get(group, (1, 2))]
            hr_curves = [self._curve(image, (0, 1), hr_size) for image in images]
            curves[group] = {
                "LR": self._curve(lr.array, axes, lr_size),
                "SR": seeds[0][group][1],
                "HR": _spread(hr_curves),
            }
            if len(seeds) > 1:
                curves[group]["SR seeds"] = _spread([one[group][1] for one in seeds])
        agreement = lr_agreement(lr.array, sr.array, self.scale_factor, self.phases)
        result = {
            "files": {"lr_image": str(self.lr_image), "sr_image": str(self.sr_image), "hr_images": {k: len(v) for k, v in groups.items()}},
            "phases": self.phases,
            "scale_factor": self.scale_factor,
            "voxel_size": {"unit": unit, "lr": list(lr_size), "sr": list(sr_size)},
            "shape": {"lr": list(lr.array.shape), "sr": list(sr.array.shape)},
            "mean_relative_error": {key: _mean([s["mean_relative_error"][key] for s in summaries.values()]) for key in ("lr", "sr")},
            "lr_agreement": agreement,
            "staircase": staircase(lr.array, sr.array, self.scale_factor),
            "groups": summaries,
            "two_point": {group: {name: _rounded(curve) for name, curve in part.items()} for group, part in curves.items()},
            "provenance": provenance,
        }
        if diversity:
            result["diversity"] = diversity
        if trust is not None:
            result["trust"] = {**trust_summary(trust), "overlay": doubt}
        if self.assessment:
            result |= self.assessment.run(*assessed, truth)
        for group, summary in summaries.items():
            logger.info("SR against the HR images, %s\n%s", group, report.format_table(summary))
        logger.info(report.format_agreement(agreement))
        self._write(result, lr, sr, groups, curves, unit)
        pictures = self._view(lr, sr, unit) | (self.assessment.pictures if self.assessment else {})
        html_report.write(self.output_dir / "report.html", result, curves, shown, pictures)
        logger.info("wrote evaluation.json, report.html and the pictures to %s", self.output_dir)
        return result

    def _view(self, lr: Volume, sr: Volume, unit: str) -> dict[str, bytes]:
        """The picture of the surfaces, if it is asked for; without it, and with a warning, where this machine cannot draw it: the report is worth more."""
        if self.view_phase is None:
            return {}
        titles = [f"{name}, surfaces of {self.view_phase}" for name in ("LR", "SR")]
        try:
            return {"view": surfaces_png(lr, sr, self.phases.index(self.view_phase), titles, unit)}
        except InputError as error:
            logger.warning("report.html is without a 3D view: %s", error)
            return {}

    def _read(self) -> tuple[Volume, Volume, dict[str, list[np.ndarray]], str, dict, Place]:
        """LR and SR volumes with labels and voxel sizes that fit, HR images by group, the unit of the voxel sizes, where it all comes from, and the
        place in LR."""
        n = len(self.phases)
        scan, opened = open_volume(self.lr_image, self.lr_voxel_size), open_volume(self.sr_image)
        region = region_slices(scan.array.shape, self.lr_region)
        place = Place(scan.array.shape, region, self.scale_factor, tuple(opened.array.shape))
        sr = self._read_sr(self.sr_image, opened, place)
        of_all = sr.array.shape != place.stored
        lr = in_memory(self.lr_image, scan, (slice(None),) * 3 if of_all else region)  # what the inference saw
        array = check_labels(lr.array, len(self.lr_phases), str(self.lr_image), self.lr_labels, "lr_labels")
        lr_array = np.array([self.phases.index(name) for name in self.lr_phases], np.uint8)[array[region] if of_all else array]
        groups, pixels = {}, {}
        for group, paths in self.hr_images.items():
            images, pixels[group] = read_images(paths, self.hr_voxel_size, report.PLANES.get(group))
            groups[group] = [check_labels(image, n, f"hr_images, {group}", self.hr_labels, "hr_labels") for image in images]
        size, unit = common_voxel_size(lr.voxel_size, sr.voxel_size, pixels, self.scale_factor)
        files = {"lr_image": [self.lr_image], "sr_image": [self.sr_image], "sr_images": self.sr_images}
        files |= {f"hr_images, {group}": image_files(paths) for group, paths in self.hr_images.items()}
        provenance = record(files, self.sr_image)
        for key, labels in (("lr_image", array), ("sr_image", sr.array)):  # LR as the inference takes it, before it is matched by name
            provenance["files"][key]["labels_sha256"] = labels_sha256(labels)
        return Volume(lr_array, tuple(self.scale_factor * v for v in size)), Volume(sr.array, size), groups, unit, provenance, place

    def _read_sr(self, path: Path, opened: Volume, place: Place) -> Volume:
        """What an SR volume has of the region, with labels."""
        volume = in_memory(path, opened, place.of(path, opened))
        if format_of(path) == ".zarr" and (volume.array == NOT_MADE).any():
            raise InputError(f"{path}: is not finished; run the same inference again, it goes on")
        check_recorded_phases(path, self.phases)
        volume.array = check_labels(volume.array, len(self.phases), str(path), key=None)
        return volume

    def _seeds(
        self, sr: Volume, groups: Mapping[str, Sequence[np.ndarray]], files: dict[str, dict], place: Place
    ) -> tuple[list[dict[str, tuple[np.ndarray, dict]]], dict[str, dict]]:
        """Of SR, then of each of `sr_images`, one at a time in memory: group -> statistics and two-point curve; and how each of `sr_images` differs
        from SR. Their checksums go to `files`.

        Raises:
            InputError: two volumes are the same.
        """
        known = {files["sr_image"]["labels_sha256"]: self.sr_image}
        found, differing = [self._measure(sr.array, groups, sr.voxel_size)], {}
        for i, path in enumerate(self.sr_images):
            volume = self._read_sr(path, open_volume(path), place)
            check_alike(path, volume, self.sr_image, sr)
            checksum = labels_sha256(volume.array)
            if checksum in known:
                raise InputError(f"{path}: has the same labels as {known[checksum]}; give sr_images that were made with other seeds of the noise")
            known[checksum] = path
            files["sr_images" if len(self.sr_images) == 1 else f"sr_images {i + 1}"]["labels_sha256"] = checksum
            found.append(self._measure(volume.array, groups, sr.voxel_size))
            pair = seed_diversity([sr.array, volume.array], self.phases)
            dice = {f"Dice of {name}": value for name, value in pair["dice"].items()}
            differing[f"{i + 1}: {path.parent.name}/{path.name}"] = {"voxels that differ": pair["differing"]["mean"], **dice}
        return found, differing

    def _measure(self, sr: np.ndarray, groups: Iterable[str], size: Sequence[float]) -> dict[str, tuple[np.ndarray, dict]]:
        """Statistics and two-point curve of an SR volume, along the axes of each group."""
        axes = {group: report.PLANES.get(group, (0, 1, 2)) for group in groups}
        return {group: (statistics(sr, len(self.phases), of), self._curve(sr, of, size)) for group, of in axes.items()}

    def _curve(self, labels: np.ndarray, axes: Sequence[int], size: Sequence[float]) -> dict[str, np.ndarray]:
        """Two-point correlation along `axes` and its mean over them: {"lag": (lags,), "mean": (n_phases, lags), "axes": (axes, ..)}.

        Args:
            labels: volume or image.
            axes: array axes.
            size: of a voxel along every axis of the array.
        """
        step = min(size[axis] for axis in axes)
        found = [two_point(labels, len(self.phases), axis, int(self.max_lag / size[axis] + 1e-6), MAX_LINES) for axis in axes]
        reach = min((curve.shape[1] - 1) * size[axis] for curve, axis in zip(found, axes, strict=True))
        lag = np.arange(int(reach / step + 1e-6) + 1) * step
        per_axis = np.stack(
            [[np.interp(lag, np.arange(len(row)) * size[axis], row) for row in curve] for curve, axis in zip(found, axes, strict=True)]
        )
        return {"lag": lag, "mean": per_axis.mean(0), "axes": per_axis}

    def _write(self, result: dict, lr: Volume, sr: Volume, groups: dict[str, list[np.ndarray]], curves: dict, unit: str) -> None:
        text = re.sub(r"\[[^\[\]{}]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(result, indent=2))
        write_text(self.output_dir / "evaluation.json", text + "\n")
        hr = {plane: images[0] for plane, images in groups.items()}
        if ALL_PLANES in groups:  # no image belongs to a plane: show three different ones
            images = groups[ALL_PLANES]
            hr = {plane: images[i % len(images)] for i, plane in enumerate(report.PLANES)}
        lr_title, sr_title = (f"{n}, {size_text(v.voxel_size)} {unit}" if unit == "µm" else n for n, v in (("LR", lr), ("SR", sr)))
        whole = (report.middle_slices(lr.array), report.middle_slices(sr.array), hr)
        titles, sizes = (lr_title, sr_title, "HR images (elsewhere in the rock)"), (lr.voxel_size, sr.voxel_size, sr.voxel_size)
        *slices, two_points, bars = (self.output_dir / name for name in EVALUATED)
        for path, parts in zip(slices, [whole, *(enlarged(*whole, self.scale_factor, zoom) for zoom in ZOOMS)], strict=True):
            report.plot_slices(path, dict(zip(titles, zip(parts, sizes))), self.phases, unit)
        report.plot_two_point(two_points, curves, self.phases, unit)
        report.plot_statistics(bars, result["groups"], self.phases)


def _add_spread(summary: dict, hr: np.ndarray, sr: np.ndarray) -> None:
    """Adds to the result of `summarise` what is known beyond means: the range of the HR images, and mean and spread over seeds of the noise.

    Args:
        hr: (n_images, n_statistics).
        sr: (n_seeds, n_statistics).
    """
    summary["hr_images"] = len(hr)
    for i, row in enumerate(summary["statistics"].values()):
        row.update(hr_min=float(hr[:, i].min()), hr_max=float(hr[:, i].max()))
        if len(sr) > 1:
            row.update(sr_mean=float(sr[:, i].mean()), sr_std=float(deviation(sr[:, i])), sr_values=sr[:, i].tolist())
    if len(sr) > 1:
        errors = mean_relative_error(sr, hr.mean(0))
        summary["seeds"] = {"number": len(sr), "mean_relative_error": [float(e) if np.isfinite(e) else None for e in errors]}


def _quarters(image: np.ndarray) -> list[np.ndarray]:
    """The four quarters of an image, which stand in for several images when there is one."""
    return [quarter for half in np.array_split(image, 2, 0) for quarter in np.array_split(half, 2, 1)]


def _spread(curves: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean, minimum and maximum of the curves of several images, over the lags that all have."""
    n_lags = min(len(curve["lag"]) for curve in curves)
    means = np.stack([curve["mean"][:, :n_lags] for curve in curves])
    per_axis = np.stack([curve["axes"][..., :n_lags] for curve in curves]).mean(0)
    return {"lag": curves[0]["lag"][:n_lags], "mean": means.mean(0), "axes": per_axis, "min": means.min(0), "max": means.max(0)}


def _rounded(curve: Mapping[str, np.ndarray]) -> dict[str, list]:
    return {key: np.round(value, 6).tolist() for key, value in curve.items()}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
