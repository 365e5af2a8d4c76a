"""`run gating`: passes a set of HR images through the gates; and what lets a set into a training."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle import report
from bundle.errors import NULL, InputError, check_seed, names, switch, whole
from bundle.inference import check_output_dir
from bundle.io import check_labels, read_images, write_text
from bundle.io.images import image_files
from bundle.io.files import record_of, stem_of
from bundle.metrics.gates import LEVEL, cut_tiles, gate_images
from bundle.provenance import sha256, versions
from bundle.sheets import write_sheets

logger = logging.getLogger(__name__)

MOST_IMAGES = 500  # of a set are judged, evenly spaced


class Gating:
    """Writes `<name>_gates.json`, a picture of both sets and one of their curves to a folder.

    Args:
        images: the set: file, folder, pattern or list.
        hr_images: the real images that it is to stand for.
        phases: names of the labels.
        output_dir: folder of the results; None = beside the set, where train.yaml looks for the verdict.
        held_out_images: real images that nobody learned from; None = `hr_images`.
        hr_labels: file value -> label, or None.
        hr_voxel_size: µm, a number or [row, column]; overrides what the files say.
        edge, steps, crops, seed: see `gate_images`.

    Raises:
        InputError: `phases` are no names, or `edge`, `steps`, `crops` or `seed` is no such number.
    """

    def __init__(
        self,
        images: Any,
        hr_images: Any,
        phases: Sequence[str],
        output_dir: str | Path | None = None,
        held_out_images: Any = None,
        hr_labels: Mapping | None = None,
        hr_voxel_size: float | Sequence[float] | None = None,
        edge: int = 64,
        steps: int = 700,
        crops: int = 24,
        seed: int = 0,
    ):
        self.images, self.hr_images, self.held_out_images, self.phases = images, hr_images, held_out_images, names(phases, "phases")
        self.output_dir, self.hr_labels, self.hr_voxel_size = output_dir, hr_labels, hr_voxel_size
        self.settings = {
            "edge": whole(edge, "edge", "pixels along a crop, such as 64", 8), "steps": whole(steps, "steps", "steps, such as 700", 1),
            "crops": whole(crops, "crops", "crops, such as 24", 1), "seed": check_seed(seed),
        }  # fmt: skip

    def run(self) -> dict:
        """Judges, writes, logs a line a gate, and returns the verdict.

        Raises:
            InputError: files that cannot be read or compared, or a folder that cannot be written.
        """
        files = image_files(self.images)
        target = verdict_path(files, self.output_dir)
        check_output_dir(target.parent)
        real, size = self._read(self.hr_images, "hr_images")
        made, pixel = self._read(self.images, "images")
        held_out, unseen = (None, None) if self.held_out_images is None else self._read(self.held_out_images, "held_out_images")
        for key, paths, other in (("images", self.images, pixel), ("held_out_images", self.held_out_images, unseen)):
            if size and other and not np.allclose(size, other, rtol=0.01):
                raise InputError(f"{key} ({paths}): pixels of {other[0]:g} µm, but those of hr_images are {size[0]:g} µm; compare one pixel size")
        number = len(made)
        made = [made[i] for i in np.unique(np.linspace(0, number - 1, min(number, MOST_IMAGES)).astype(int))]
        verdict = gate_images(real, made, self.phases, held_out, **self.settings)
        curves = verdict.pop("curves")
        record = {
            **verdict,
            "images": [{"file": path.name, "sha256": sha256(path)} for path in files],
            "number": number,
            "judged": len(made),
            "real": [{"file": path.name, "sha256": sha256(path)} for path in image_files(self.hr_images)],
            "phases": self.phases,
            "settings": self.settings,
            "versions": versions(),
        }
        write_text(target, json.dumps(record, indent=1) + "\n")
        base = str(target).removesuffix(".json")
        self._picture(f"{base}.png", real, made)
        step = size[0] if size else 1.0
        report.plot_bands(f"{base}_curves.png", curves, self.phases, step, "µm" if size else "pixels", LEVEL)
        for name, gate in verdict["gates"].items():
            logger.info(f"{'passed' if gate['passed'] else 'FAILED'}: {name}: {gate['text']}")
        error = verdict["statistics_error"]
        logger.info(
            f"mean relative error of the statistics {100 * error['error']:.1f} % ({100 * error['low']:.1f} to {100 * error['high']:.1f} with what sampling "
            f"does; the real images, drawn with replacement, {100 * error['real']:.1f})"
        )
        logger.info(f"the set {'passes' if verdict['passed'] else 'does NOT pass'}; wrote {target}")
        return record

    def _read(self, paths: Any, key: str) -> tuple[list[np.ndarray], tuple[float, float] | None]:
        images, size = read_images(paths, self.hr_voxel_size)
        ours = key == "images" and all(record_of(path).is_file() for path in image_files(paths))  # generated: labels, whatever the real files hold
        table = None if ours else self.hr_labels
        return [check_labels(image, len(self.phases), f"{key} ({paths})", table, "hr_labels") for image in images], size

    def _picture(self, path: str, real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> None:
        rng = np.random.default_rng(self.settings["seed"])
        edge = min(256, *made[0].shape)
        columns = {}
        for title, images in (("real", real), ("set", made)):
            tiles = [tile for image in images for tile in cut_tiles(image, (edge, edge))]
            columns[title] = [tiles[i] for i in rng.permutation(len(tiles))[:16]]
        write_sheets(path, columns, self.phases)


def verdict_path(files: Sequence[Path], output_dir: str | Path | None = None) -> Path:
    """Where the verdict on a set lies: `<name of its first file>_gates.json`, beside it or in a folder."""
    first = files[0]
    return (first.parent if output_dir is None else Path(output_dir)) / f"{stem_of(first)}_gates.json"


def admit(images: Any, accept_failed: bool | str = False, gates_file: str | Path | None = None, phases: Sequence[str] | None = None) -> None:
    """Lets a set of HR images into a training, or refuses it.

    Refused are sets with a verdict that they failed, or on other files, and generated ones without any; of several files each may have its own.
    Real images have none, and are what the others are measured by.

    Args:
        images: of one plane group: file, folder, pattern or list.
        accept_failed: takes a refused set after all, with a warning.
        gates_file: the verdict, where it does not lie beside the set.
        phases: names that the training has for the labels in the files; None where it takes them for others (`hr_labels`).

    Raises:
        InputError: refused, and why; a verdict that cannot be read; or a set that was made or judged with other phases, which is never accepted.
    """
    files = image_files(images)
    if gates_file and not Path(gates_file).is_file():
        raise InputError(f"{gates_file}: no such file; give the verdict that run gating wrote, or {NULL}")
    if phases is not None:
        _check_phases(files, [Path(gates_file)] if gates_file else [], phases)
    reason = _reason(Path(gates_file), files) if gates_file else _refusal(files)
    if reason is None:
        return
    if not switch(accept_failed, "accept_failed"):
        raise InputError(f"{reason}; or set accept_failed to true")
    logger.warning(f"accepted all the same: {reason}")


def admit_groups(
    data: Mapping[str, Any], groups: Sequence[str], accept_failed: bool | str = False, gates_file: str | Path | None = None,
    phases: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """`admit` for the HR images of every plane group of a training, as `training_files` names them.

    Raises:
        InputError: a set is refused, or is of other phases, or one verdict is given for several sets.
    """
    if gates_file and len(groups) > 1:
        raise InputError(f"{gates_file}: one verdict for {len(groups)} sets of images; put each beside its set and set gates_file to {NULL}")
    for group in groups:
        admit(data[group], accept_failed, gates_file, phases)


def _refusal(files: Sequence[Path]) -> str | None:
    """Why the verdicts that lie beside the files refuse them, one on all or one on each that was generated; None where they do not."""
    verdict = verdict_path(files)
    together = _reason(verdict, files) if verdict.is_file() else None
    if verdict.is_file() and (together is None or len(files) == 1):
        return together
    alone = [_reason(verdict_path([path]), [path]) if verdict_path([path]).is_file() else _unjudged(path) for path in files]
    return (together or next(filter(None, alone))) if any(alone) else None


def _unjudged(path: Path) -> str | None:
    return f"{path}: generated, and not yet judged; run gating --images {path} first" if record_of(path).is_file() else None


def _check_phases(files: Sequence[Path], verdicts: Sequence[Path], phases: Sequence[str]) -> None:
    """Whether the verdicts, and what lies beside the files, call the labels as a training does, as far as they say it.

    Raises:
        InputError: one has other names.
    """
    for record in [*verdicts, *(path for file in files for path in (verdict_path([file]), record_of(file)))]:
        try:
            named = [str(name) for name in json.loads(record.read_text(encoding="utf-8"))["phases"]]
        except (OSError, ValueError, KeyError, TypeError):  # of a verdict, `_reason` says what is wrong with it
            continue
        if named != list(phases):
            raise InputError(f"{files[0]}: its phases are {', '.join(named)} ({record.name}), but the config has {', '.join(phases)}; correct phases")


def _reason(verdict: Path, files: Sequence[Path]) -> str | None:
    """Why a verdict refuses these files; None where it does not."""
    try:
        found = json.loads(verdict.read_text(encoding="utf-8"))
        judged, gates, passed = [entry["sha256"] for entry in found["images"]], found["gates"], found["passed"]
        failed = [f"{name} ({gate['text']})" for name, gate in gates.items() if not gate["passed"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{verdict}: no verdict of run gating ({error!r}); run it again") from error
    if [sha256(path) for path in files] != judged:
        return f"{files[0]}: not the images that {verdict.name} judges; run gating again"
    return None if passed else f"{files[0]}: did not pass the gates: {'; '.join(failed)}"
