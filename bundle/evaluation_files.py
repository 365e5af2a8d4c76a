"""The files of an evaluation: what lies beside a super-resolved volume, whether they fit, and their record."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bundle.errors import InputError, first_line
from bundle.io import Volume
from bundle.io.files import in_memory, open_volume, readable, record_of, stem_of
from bundle.io.scale import check_one_set
from bundle.io.volume import size_text
from bundle.provenance import commit, sha256, versions
from bundle.report import PLANES
from bundle.shards import TRUST, UNCERTAINTY, beside
from bundle.store import FINGERPRINT, NOT_MADE, SUFFIX, store_path

logger = logging.getLogger(__name__)


def find_sr(lr_image: Path, output_dir: Path) -> Path:
    """The volume that `run inference` wrote for this LR image: `<name>_sr.ome.zarr` in `output_dir`, or else another format.

    Raises:
        InputError: there is none, or more than one.
    """
    name = stem_of(lr_image)
    store = store_path(lr_image, output_dir)
    if store.is_dir():
        return store
    pattern = re.escape(name) + r"_sr\.(tif|tiff|ome\.tif|nii|nii\.gz|nrrd|mha|mhd|raw)"
    found = [path for path in sorted(output_dir.glob("*")) if re.fullmatch(pattern, path.name)]
    if len(found) != 1:
        what = f"{len(found)} SR volumes {name}_sr.*" if found else f"no SR volume {name}_sr.*"
        raise InputError(f"{what} in {output_dir}: run inference with the same output_dir, or set sr_image")
    return found[0]


def common_voxel_size(
    lr: tuple | None, sr: tuple | None, pixels: Mapping[str, tuple | None], scale: int
) -> tuple[tuple[float, ...], str]:
    """SR voxel size (z, y, x) and its unit from whichever file or setting tells it; all that do must agree.

    Args:
        lr: voxel size of LR, or None.
        sr: voxel size of SR, or None.
        pixels: plane group -> HR pixel size (row, column), or None.
        scale: SR voxels along the edge of an LR voxel.

    Raises:
        InputError: the sizes differ by more than 1 %, or images of no plane meet voxels that are no cubes.
    """
    told = [(f"lr_image ({size_text(lr)} µm) / {scale}", tuple(v / scale for v in lr), (0, 1, 2))] if lr else []
    told += [(f"sr_image ({size_text(sr)} µm)", sr, (0, 1, 2))] if sr else []
    for group, pixel in pixels.items():
        if not pixel:
            logger.warning("hr_images, %s: tell no pixel size; their pixels are taken to be as large as SR voxels: set hr_voxel_size to check it", group)
        else:
            told.append((f"hr_images, {group} ({size_text(pixel)} µm)", pixel, PLANES.get(group, (1, 2))))
    if not told:
        return (1.0, 1.0, 1.0), "SR voxels"
    first, size, axes = told[0]
    if len(axes) == 2:  # only the images tell, one plane or more: what none does is taken to be as long as the rows of the first are apart
        told_by_axis = {axis: value for _, values, of in reversed(told) for axis, value in zip(of, values, strict=True)}
        size = tuple(told_by_axis.get(axis, size[0]) for axis in range(3))
    for group in pixels.keys() - PLANES.keys():
        check_one_set(size, "SR", f"hr_images, {group}")
    for other, values, axes in told[1:]:
        if not all(np.isclose(value, size[axis], rtol=0.01) for value, axis in zip(values, axes, strict=True)):
            raise InputError(f"voxel sizes do not fit: {first} against {other}; set lr_voxel_size, hr_voxel_size or scale_factor")
    return size, "µm"


class Place(NamedTuple):
    """What of LR is evaluated, and with how fine an SR."""

    lr_shape: tuple[int, ...]
    """Of the whole LR."""
    region: tuple[slice, ...]
    """Slices (z, y, x) of LR that are evaluated."""
    scale: int
    """SR voxels along the edge of an LR voxel."""
    stored: tuple[int, ...]
    """Shape of the SR volume as it is stored."""

    def of(self, path: Path, volume: Volume) -> tuple[slice, ...]:
        """Slices (z, y, x) of an SR volume that cover the region: all of it where it was made from this region alone, else the part of what was made
        from the whole LR.

        Args:
            path: of the SR volume, for the message.
            volume: as it was opened.

        Raises:
            InputError: it was made from neither.
        """
        shape, edges = tuple(volume.array.shape), tuple(part.stop - part.start for part in self.region)
        if shape == tuple(self.scale * n for n in edges):
            return tuple(slice(0, n) for n in shape)
        if shape == tuple(self.scale * n for n in self.lr_shape):
            return tuple(slice(self.scale * part.start, self.scale * part.stop) for part in self.region)
        wanted = f"LR {edges} x {self.scale} is {tuple(self.scale * n for n in edges)}"
        raise InputError(f"{path} has shape {shape}, but {wanted}: set lr_region to the part that was super-resolved, or one of it, and scale_factor")


def open_percent(given: str | Path | None, what: str, sr_image: Path, output_dir: Path, place: Place) -> np.ndarray | None:
    """The uncertainty or the trust of a part of SR, per cent (z, y, x); None where there is none.

    Args:
        given: its file; None looks for `<name of sr_image>_<what>.ome.zarr` beside SR and in `output_dir`. One found there that is of another
            shape, was made from something else (or could be, for all that is known), is not finished or cannot be read is left out, with a warning:
            nobody asked for it.
        what: "uncertainty" or "trust".
        sr_image: the SR volume.
        output_dir: folder of the results.
        place: what is evaluated.

    Raises:
        InputError: the file given cannot be read, has another shape or is not finished.
    """
    if given:
        return _percent(Path(given), what, place)
    name = beside(stem_of(sr_image) + SUFFIX, what)
    for path in dict.fromkeys([sr_image.parent / name, output_dir / name]):
        if not path.is_dir():
            continue
        reason = _made_otherwise(path, sr_image)
        if reason:
            logger.warning("%s is left out: %s", path, reason)
            continue
        try:
            return _percent(path, what, place)
        except InputError as error:
            logger.warning("left out of the report: %s", error)
    return None


def _percent(path: Path, what: str, place: Place) -> np.ndarray:
    volume = open_volume(path)
    if tuple(volume.array.shape) != place.stored:
        raise InputError(f"{path} has shape {tuple(volume.array.shape)}, SR {place.stored}: give the {what}_image of the same result")
    array = in_memory(path, volume, place.of(path, volume)).array
    if (array == NOT_MADE).any():
        raise InputError(f"{path}: holds parts that are not made yet ({NOT_MADE}); run the same inference again, it goes on")
    return array


def record(files: Mapping[str, Sequence[Path]], sr_image: Path) -> dict[str, Any]:
    """Where an evaluation comes from, JSON-ready.

    Args:
        files: key of the config -> files.
        sr_image: the SR volume: `<its name>_provenance.json` beside it tells of the inference.

    Returns:
        `files`: {key: {"file": folder and name, "sha256"}}, a folder (OME-Zarr) without a checksum; `commit`, `versions`; `inference`: the record of
        the inference, or None.

    Raises:
        InputError: the record of the inference cannot be read.
    """
    entries = {}
    for key, paths in files.items():
        for i, path in enumerate(paths):
            name = key if len(paths) == 1 else f"{key} {i + 1}"
            entries[name] = {"file": f"{path.absolute().parent.name}/{path.name}", "sha256": sha256(path) if path.is_file() else None}
    return {"files": entries, "commit": commit(), "versions": versions(), "inference": _inference_of(sr_image)}


def _inference_of(sr_image: Path) -> dict[str, Any] | None:
    """The record beside an SR volume, or None where there is none.

    Raises:
        InputError: it cannot be read, or is no such record.
    """
    path = record_of(sr_image)
    if not path.is_file():
        return None
    with readable(path):
        inference = json.loads(path.read_text(encoding="utf-8"))
    if not _is_record(inference):
        raise InputError(f"{path}: no record of an inference; run the inference again, or take the file away")
    return inference


def _is_record(found: Any) -> bool:
    """Whether what was read is a record of an inference, as far as something is made of it: its parts are tables, its checksum is a text."""
    if not isinstance(found, dict) or not all(isinstance(found.get(part, {}), dict) for part in ("input", "fingerprint")):
        return False
    return isinstance(found.get("input", {}).get("labels_sha256", ""), str)


def check_recorded_phases(path: Path, phases: Sequence[str]) -> None:
    """Whether the labels of an SR volume have the names, in the order, that its store or the record beside it tells, where one does.

    Raises:
        InputError: they have others.
    """
    recorded = (_made_of(path) or {}).get("phases")
    if recorded is not None and recorded != list(phases):
        raise InputError(f"{path}: was made with the phases {recorded}, but phases is {list(phases)}; give them as in the inference")


def check_alike(path: Path, one: Volume, first: Path, other: Volume) -> None:
    """Whether two SR volumes have the same voxel size, the same model and, of the same place, the same scan, as far as both say.

    Raises:
        InputError: the voxel sizes differ by more than 1 %, or what they were made from differs.
    """
    if one.voxel_size and other.voxel_size and not np.allclose(one.voxel_size, other.voxel_size, rtol=0.01):
        raise InputError(f"{path} has voxels of {one.voxel_size} µm, {first} of {other.voxel_size}: sr_images must be of the same LR")
    mine, others = _made_of(path) or {}, _made_of(first) or {}
    place = ("start in lr", "shape")
    keys = ["model_sha256", "noise_std", *(["lr_sha256"] if all(mine.get(key) == others.get(key) for key in place) else [])]
    differing = [key for key in keys if key in mine and key in others and mine[key] != others[key]]
    if differing:
        raise InputError(f"{path}: {', '.join(differing)} is not that of {first}; give sr_images that differ in the seed alone")


def is_trust(path: Path) -> bool:
    """Whether a file of per cent is a store of trust."""
    try:
        return path.is_dir() and TRUST in _fingerprint(path)
    except Exception:  # of zarr and of the system, each their own: whoever reads it says what is wrong
        return False


def _made_otherwise(path: Path, sr_image: Path) -> str:
    """Why a store of votes is not taken for that of SR: what the two are made from differs, or is not known; nothing where they fit."""
    try:
        votes = _fingerprint(path)
        made_of = _made_of(sr_image)
    except Exception as error:  # of zarr and of the system, each their own
        return f"its record ({first_line(error)}) is not that of {sr_image}"
    if made_of is None:
        return f"{record_of(sr_image)} is missing, or does not tell what {sr_image.name} was made from"
    keys = [key for key in {**votes, **made_of} if key not in (UNCERTAINTY, TRUST) and votes.get(key) != made_of.get(key)]
    return f"{', '.join(keys)} is not that of {sr_image}" if keys else ""


def _made_of(sr_image: Path) -> dict[str, Any] | None:
    """What an SR volume is made from, as its store or the record beside it tells; None where none does.

    Raises:
        InputError: the record cannot be read, or is none.
    """
    return _fingerprint(sr_image) if sr_image.name.endswith(SUFFIX) else (_inference_of(sr_image) or {}).get("fingerprint")


def _fingerprint(path: Path) -> dict[str, Any]:
    """What a store is made from."""
    import zarr

    return dict(zarr.open(str(path), mode="r").attrs.get(FINGERPRINT, {}))
