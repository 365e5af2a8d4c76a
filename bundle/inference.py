"""What `run inference` checks first, and what it leaves beside the super-resolved volume."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.data.utils import create_file_basename
from monai.utils import ImageMetaKey

from bundle import report
from bundle.errors import InputError
from bundle.io import Volume, atomic_path
from bundle.provenance import sha256, versions

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


class InferenceRecord:
    """Writes `<name>_sr.png`, the middle slices of LR and SR, and `<name>_sr_provenance.json`, what the result was made from.

    Args:
        output_dir: folder of the results.
        phases: names of the SR labels, in order.
        lr_phases: names of the LR labels, in order; all of them among `phases`.
        model_file: the weights.
        settings: of the config, to be noted.
    """

    def __init__(
        self, output_dir: str | Path, phases: Sequence[str], lr_phases: Sequence[str], model_file: str | Path, settings: Mapping[str, Any]
    ):
        missing = [name for name in lr_phases if name not in phases]
        if missing:
            raise InputError(f"lr_phases has {', '.join(missing)}, which phases ({', '.join(phases)}) lacks; use the same names")
        self.output_dir, self.model_file, self.settings = output_dir, Path(model_file), dict(settings)
        self.phases, self.lr_phases = list(phases), list(lr_phases)

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        for item in engine.state.output:
            image, pred = item["image"], item["pred"]
            source = image.meta[ImageMetaKey.FILENAME_OR_OBJ]
            base = create_file_basename("sr", source, self.output_dir, separate_folder=False)
            with atomic_path(f"{base}_provenance.json") as partial:
                partial.write_text(json.dumps(self._provenance(source, image, pred), indent=2, default=str) + "\n", encoding="utf-8")
            lr, sr = _volume(image), _volume(pred)
            names = np.array([self.phases.index(name) for name in self.lr_phases], np.uint8)
            columns = {
                f"LR, {_size(lr)} µm": ({plane: names[labels] for plane, labels in _slices(lr).items()}, lr.voxel_size),
                f"SR, {_size(sr)} µm": (_slices(sr), sr.voxel_size),
            }
            report.plot_slices(f"{base}.png", columns, self.phases)
            logger.info(f"{source}: {_shape(lr)} voxels of {_size(lr)} µm became {_shape(sr)} of {_size(sr)} µm")
            logger.info(f"wrote {base}.png, {base}_provenance.json and the volume to {self.output_dir}")

    def _provenance(self, source: str, image: MetaTensor, pred: MetaTensor) -> dict[str, Any]:
        return {
            "input": {"file": source, "sha256": sha256(source), **_grid(_volume(image)), "phases": self.lr_phases},
            "result": {**_grid(_volume(pred)), "phases": self.phases},
            "model": {"file": str(self.model_file), "sha256": sha256(self.model_file)},
            "settings": self.settings,
            "versions": versions(),
        }


def _volume(image: MetaTensor) -> Volume:
    """(C, z, y, x) with its voxel size; a view, which matters for a memory-mapped result."""
    return Volume.from_affine(image.as_tensor().cpu().numpy(), image.affine)


def _slices(volume: Volume) -> dict[str, np.ndarray]:
    """Middle slices of labels (1, z, y, x), or of the most probable phase of (phases, z, y, x)."""
    channels = [report.middle_slices(channel) for channel in volume.array]
    return channels[0] if len(channels) == 1 else {plane: np.argmax([c[plane] for c in channels], 0) for plane in channels[0]}


def _grid(volume: Volume) -> dict[str, Any]:
    return {"shape": volume.array.shape[1:], "voxel_size_um": volume.voxel_size, "origin_um": volume.origin}


def _shape(volume: Volume) -> str:
    return " x ".join(str(n) for n in volume.array.shape[1:])


def _size(volume: Volume) -> str:
    return " x ".join(f"{v:g}" for v in (volume.voxel_size[:1] if len(set(volume.voxel_size)) == 1 else volume.voxel_size))
