"""What `run inference` checks first, and what it leaves beside the super-resolved volume."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from bundle import report
from bundle.checkpoint import load_checkpoint
from bundle.errors import InputError
from bundle.io import Volume, write_text, write_volume
from bundle.io.atomic import left_partials
from bundle.io.files import WRITERS, check_fits
from bundle.io.source import LabelSource
from bundle.io.volume import as_voxel_size, size_text
from bundle.provenance import read_record, sha256, versions
from bundle.shards import LABELS, missing_shards
from bundle.store import SUFFIX, LabelStore

logger = logging.getLogger(__name__)


def check_output_dir(output_dir: str | Path) -> None:
    """Make the folder for the results and try to write there, before the long work.

    Raises:
        InputError: it cannot be made or written.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f"{output_dir}: cannot be written ({error.strerror or error}); choose another output_dir") from error


def check_format(output_ext: str | None, shape: Sequence[int], scale_factor: int) -> None:
    """Whether the format asked for beside the store holds the result, before the long work.

    Args:
        output_ext: suffix, such as .nii; None or nothing for the store alone.
        shape: of the LR volume.
        scale_factor: of the result.

    Raises:
        InputError: a format that is not written, or that cannot hold it.
    """
    if output_ext:
        check_fits(f"output_ext {output_ext}", [scale_factor * n for n in shape])


def check_voxel_size(model_file: str | Path, lr_image: str | Path, voxel_size: Sequence[float]) -> None:
    """A warning where the voxels of the scan differ by more than a tenth from those that a model learned from, as it or the record beside it tells.

    Args:
        model_file: the weights.
        lr_image: path of the scan, for the message.
        voxel_size: of the scan, µm (z, y, x).

    Raises:
        InputError: what the model or its record says is no voxel size.
    """
    record = read_record(Path(model_file).with_suffix(".json"))
    learned = load_checkpoint(model_file).get("lr_voxel_size") or record.get("settings", {}).get("lr_voxel_size")
    if learned is None:
        return
    learned = as_voxel_size(learned, f"{model_file}: lr_voxel_size")
    if not np.allclose(voxel_size, learned, rtol=0.1):
        logger.warning(
            "%s: voxels of %s µm, but the model learned from voxels of %s µm; if the unit is wrong give lr_voxel_size in µm",
            lr_image, size_text(voxel_size), size_text(learned),
        )  # fmt: skip


class InferenceRecord:
    """When all shards are there: writes the formats asked for, `<name>_sr.png` (middle slices of LR and SR) and `<name>_sr_provenance.json`.

    Of several processes the last one does it. What a killed run left of these files is removed by a run of one process.

    Args:
        output_dir: folder of the results.
        phases: names of the SR labels, in order.
        lr_phases: names of the LR labels, in order; all of them among `phases`.
        model_file: the weights.
        settings: of the config, to be noted.
        formats: suffixes that the volume is written in beside the store, such as .tif.

    Raises:
        InputError: names that `phases` lacks.
    """

    def __init__(
        self,
        output_dir: str | Path,
        phases: Sequence[str],
        lr_phases: Sequence[str],
        model_file: str | Path,
        settings: Mapping[str, Any],
        formats: Sequence[str] = (),
    ):
        missing = [name for name in lr_phases if name not in phases]
        if missing:
            raise InputError(f"lr_phases has {', '.join(missing)}, which phases ({', '.join(phases)}) lacks; use the same names")
        self.output_dir, self.model_file, self.settings = Path(output_dir), Path(model_file), dict(settings)
        self.phases, self.lr_phases, self.formats = list(phases), list(lr_phases), list(formats)

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        source, stores = engine.state.output["image"], engine.state.output["pred"]
        store, left = stores[LABELS], missing_shards(stores)
        if left:
            logger.info(f"{store.path}: {left} shards are left to other processes; the last one writes the pictures")
            return
        if engine.inferer.rank and not engine.inferer.made:
            return  # all was there before: one is enough
        for one in stores.values():
            one.tidy()
        base, sr = str(store.path).removesuffix(SUFFIX), replace(store.volume(), signs=source.signs)
        if engine.inferer.world_size == 1:  # else another process may be done at the same moment, and write, too
            for suffix in {*WRITERS, *self.formats, ".json", ".png", "_provenance.json"}:  # .json: beside .raw
                for partial in left_partials(Path(base + suffix)):
                    partial.unlink(missing_ok=True)
        for suffix in self.formats:
            write_volume(base + suffix, sr)
        write_text(f"{base}_provenance.json", json.dumps(self._provenance(source, store), indent=2, default=str) + "\n")
        lr = Volume(source, source.voxel_size, source.origin)
        names = np.array([self.phases.index(name) for name in self.lr_phases], np.uint8)
        columns = {
            f"LR, {size_text(lr.voxel_size)} µm": ({plane: names[labels] for plane, labels in report.middle_slices(lr.array).items()}, lr.voxel_size),
            f"SR, {size_text(sr.voxel_size)} µm": (report.middle_slices(sr.array), sr.voxel_size),
        }
        report.plot_slices(f"{base}.png", columns, self.phases)
        logger.info(f"{source.path}: {_shape(lr)} voxels of {size_text(lr.voxel_size)} µm became {_shape(sr)} of {size_text(sr.voxel_size)} µm")
        written = [str(one.path) for one in stores.values()] + [base + suffix for suffix in (*self.formats, ".png", "_provenance.json")]
        logger.info(f"wrote {', '.join(written)}")

    def _provenance(self, source: LabelSource, store: LabelStore) -> dict[str, Any]:
        lr = Volume(source, source.voxel_size, source.origin)
        return {
            "input": {"file": str(source.path), "labels_sha256": source.checksum, **_grid(lr), "phases": self.lr_phases},
            "result": {**_grid(store.volume()), "phases": self.phases},
            "model": {"file": str(self.model_file), "sha256": sha256(self.model_file)},
            "settings": self.settings,
            "fingerprint": store.fingerprint,  # for a volume that left its store: to find what belongs to it
            "versions": versions(),
        }


def _grid(volume: Volume) -> dict[str, Any]:
    return {"shape": volume.array.shape, "voxel_size_um": volume.voxel_size, "origin_um": volume.origin}


def _shape(volume: Volume) -> str:
    return " x ".join(str(n) for n in volume.array.shape)
