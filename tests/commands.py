"""The bundle's own commands, replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bundle import workbench
from bundle.arguments import check_arguments
from bundle.io import Volume, write_volume
from bundle.io.files import read_volume
from bundle.metrics import upsample_nearest
from bundle.workbench import Lab


class Commands:
    """Stands in for `monai.bundle run`: training leaves a model file, inference repeats the voxels of the scan, or writes images of pores."""

    def __init__(self, monkeypatch):
        self.calls: list[tuple[str, tuple[str, ...], dict[str, str]]] = []
        monkeypatch.setattr(Lab, "bundle", self.run)
        monkeypatch.setattr(workbench, "load_checkpoint", lambda path: {"phases": ["pore", "quartz", "feldspar", "clay"]})

    def run(self, run: str, configs, *options: str) -> None:
        files = [str(workbench.ROOT / "configs" / name) for name in configs]
        check_arguments(["monai/bundle/__main__.py", "run", run, f"--config_file={files}", *options])
        given = dict(option.removeprefix("--").split("=", 1) for option in options)
        self.calls.append((run, tuple(configs), given))
        output = Path(given["output_dir"])
        if run == "training":
            output.mkdir(parents=True, exist_ok=True)
            (output / "model.pt").write_bytes(b"")
        elif "n_images" in given:
            write_volume(output / "hr_generated.tif", Volume(np.zeros((int(given["n_images"]), 8, 8), np.uint8), None))
        else:
            lr = read_volume(given["lr_image"])
            scale = int(given["scale_factor"])
            write_volume(output / f"{Path(given['lr_image']).stem}_sr.tif", Volume(upsample_nearest(lr.array, scale), (lr.voxel_size[0] / scale,) * 3))

    def of(self, run: str) -> list[dict[str, str]]:
        return [given for kind, _, given in self.calls if kind == run]
