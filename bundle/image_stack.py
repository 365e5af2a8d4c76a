"""From a trained generator to a stack of label images on disk, made as they are written."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bundle.calibration import Calibration, calibrate
from bundle.checkpoint import load_weights
from bundle.errors import InputError, whole
from bundle.inference import check_output_dir
from bundle.io import Volume, write_text, write_volume
from bundle.io.files import record_of
from bundle.io.scale import as_pixel_size
from bundle.metrics import mean_relative_error, statistic_names, statistics
from bundle.networks.stylegan2 import StyleGenerator
from bundle.provenance import sha256, versions
from bundle.sheets import write_sheets

logger = logging.getLogger(__name__)

BATCH = 16  # images at a time, always: another number would round otherwise, and change a pixel here and there
FAR = 0.1  # error of the statistics that a choice of images should not leave
TRIAL_SEED = 2**40  # of the images that tell what is to be kept: others than those of any usual seed, but for image 256 of seed 0


class GeneratedImages:
    """Images (n, y, x) of a generator as an array that makes what is asked for. Image i depends on the seed and i alone.

    Args:
        network: in evaluation.
        number: of images.
        seed: of the latents and the noise.
        truncation: share by which styles differ from their mean.
        device: where to compute.
        calibration: chooses which of the images that are made are kept; None keeps all.
        progress: shows a bar.
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(
        self,
        network: StyleGenerator,
        number: int,
        seed: int = 0,
        truncation: float = 1.0,
        device: torch.device | str = "cpu",
        calibration: Calibration | None = None,
        progress: bool = False,
    ):
        self.network, self.seed, self.truncation, self.device, self.calibration = network, seed, truncation, device, calibration
        self.shape = (number, network.resolution, network.resolution)
        self.bar = tqdm(total=number, desc="images", unit="image", disable=not progress)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, box: slice | tuple[slice, slice, slice]) -> np.ndarray:
        """Images of a slice of step 1, cut to the rows and columns of two further slices."""
        first, *rest = box if isinstance(box, tuple) else (box,)
        start, stop, _ = first.indices(self.shape[0])
        blocks = range(start // BATCH, -(-stop // BATCH))
        found = [self._block(i)[max(start - i * BATCH, 0) : stop - i * BATCH] for i in blocks]
        images = np.concatenate(found) if found else np.empty((0, *self.shape[1:]), np.uint8)
        self.bar.update(len(images))
        return images[(slice(None), *rest)]

    def _block(self, number: int) -> np.ndarray:
        """(BATCH, y, x), those beyond the last image included."""
        kept: list[np.ndarray] = []
        for attempt in count():
            images, luck = self._candidates(number, attempt)
            if self.calibration is None:
                return images
            values = np.stack([statistics(image, self.network.n_phases) for image in images])
            kept.extend(images[luck < self.calibration.chance(values)])
            if len(kept) >= BATCH:
                return np.stack(kept[:BATCH])

    def _candidates(self, number: int, attempt: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (BATCH, y, x), and for each a number from 0 to 1 that decides whether it is kept."""
        drawn, luck = [], []
        for i in range(number * BATCH, (number + 1) * BATCH):
            words = np.random.SeedSequence([self.seed, i, attempt]).generate_state(2, np.uint64)
            drawn.append(self.network.draw(1, torch.Generator().manual_seed(int(words[0] >> 1)), self.device))
            luck.append(float(words[1]) / 2**64)
        z = torch.cat([latent for latent, _ in drawn])
        noises = [torch.cat(maps) for maps in zip(*(noises for _, noises in drawn))]
        with torch.no_grad():
            w = self.network.truncated(self.network.map(z), self.truncation)
            return self.network(self.network.styles(w), noises).argmax(1).to(torch.uint8).cpu().numpy(), np.array(luck)


class ImageSynthesis:
    """Writes `hr_generated.tif`, a picture of its first images, and `hr_generated_provenance.json` to a folder.

    Args:
        network: the generator of the config; filled with the weights.
        model_file: as `run training` with hr_synthesis.yaml writes it.
        output_dir: folder of the results.
        phases: names of the labels.
        n_images: to be made.
        seed, truncation: see `GeneratedImages`.
        calibration: images that tell which to keep (see `bundle.calibration.calibrate`); 0 = all are kept.
        pixel_size: µm, a number or [row, column]; None = that of the images the model was trained on.
        device: where to compute.

    Raises:
        InputError: a number of images below 1.
    """

    def __init__(
        self,
        network: StyleGenerator,
        model_file: str | Path,
        output_dir: str | Path,
        phases: Sequence[str],
        n_images: int,
        seed: int = 0,
        truncation: float = 1.0,
        calibration: int = 2000,
        pixel_size: float | Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ):
        self.network, self.model_file, self.output_dir, self.phases = network, Path(model_file), Path(output_dir), list(phases)
        self.n_images, self.calibration = whole(n_images, "n_images", "images", 1), whole(calibration, "calibration", "images, 0 for none")
        self.seed, self.truncation, self.pixel_size, self.device = seed, truncation, pixel_size, device

    def run(self) -> Path:
        """Makes and writes the images; returns the path of the stack.

        Raises:
            InputError: another model than the config says, or a folder that cannot be written.
        """
        facts = load_weights(self.network, self.model_file, {"phases": self.phases, "resolution": self.network.resolution})
        check_output_dir(self.output_dir)
        size = self._pixel_size(facts.get("pixel_size"))
        self.network.to(self.device)
        chosen, told = self._calibrated(facts.get("statistics")) if self.calibration else (None, None)
        images = GeneratedImages(self.network, self.n_images, self.seed, self.truncation, self.device, chosen, progress=True)
        path = self.output_dir / "hr_generated.tif"
        write_text(record_of(path), json.dumps({"generated": True}) + "\n")  # first: without any, what a killed run leaves would pass for real
        write_volume(path, Volume(images, size and (size[0], *size)))
        images.bar.close()
        write_sheets(path.with_suffix(".png"), {f"generated, seed {self.seed}": images[: min(16, self.n_images)]}, self.phases)
        record = {
            "generated": True,
            "file": path.name,
            "sha256": sha256(path),
            "images": self.n_images,
            "pixel_size_um": size,
            "phases": self.phases,
            "seed": self.seed,
            "truncation": self.truncation,
            "calibration": told,
            "model": {"file": str(self.model_file), "sha256": sha256(self.model_file)},
            "versions": versions(),
        }
        write_text(record_of(path), json.dumps(record, indent=2) + "\n")
        logger.info(f"wrote {self.n_images} images of {self.network.resolution} x {self.network.resolution} pixels to {path}")
        return path

    def _calibrated(self, wanted: Sequence[float] | None) -> tuple[Calibration, dict]:
        """The choice, and what there is to tell of it."""
        if wanted is None:
            raise InputError(f"{self.model_file}: does not tell the statistics of the real images; train it again, or set calibration to 0")
        trials = GeneratedImages(self.network, self.calibration, TRIAL_SEED, self.truncation, self.device)
        blocks = (trials[i : i + BATCH] for i in range(0, self.calibration, BATCH))
        values = np.stack([statistics(image, len(self.phases)) for block in blocks for image in block])
        found = calibrate(values, np.array(wanted))
        means = {"real": np.array(wanted), "made": values.mean(0), "kept": found.means(values)}
        before, after = (float(mean_relative_error(means[key], means["real"])) for key in ("made", "kept"))
        share = float(found.chance(values).mean())
        logger.info(f"statistics of {self.calibration} images {before:.1%} off the real ones; {after:.1%} where {share:.0%} of the images are kept")
        if after > FAR:
            logger.warning("no choice of images has the statistics of the real ones: train longer; the gates (configs/gates.yaml) tell what is amiss")
        names = statistic_names(self.phases)
        rounded = {key: {name: float(f"{value:.4g}") for name, value in zip(names, row)} for key, row in means.items()}
        return found, {"images": self.calibration, "share_kept": share, "error_made": before, "error_kept": after, "statistics": rounded}

    def _pixel_size(self, trained: Any) -> tuple[float, float] | None:
        if self.pixel_size is None:
            return trained and (float(trained[0]), float(trained[1]))
        return as_pixel_size(self.pixel_size)
