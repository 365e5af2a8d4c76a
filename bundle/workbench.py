"""Where the experiments of docs/experiments.md live: rocks, models and super-resolved volumes, each made once by the bundle's own commands, and judged."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bundle import judging, report
from bundle.checkpoint import load_checkpoint
from bundle.errors import InputError, whole
from bundle.io import write_text
from bundle.io.files import read_volume
from bundle.io.images import image_files
from bundle.io.labels import labels_sha256
from bundle.lab import write_phantom
from bundle.metrics import upsample_nearest, upsample_trilinear
from bundle.phantom import FACTOR
from bundle.provenance import sha256
from bundle.votes import majority_of_votes, votes_of

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]

KINDS = ("berea", "tight", "layered", "carbonate")  # of synthetic rock, the one that models learn first

COARSENING = 4  # fine voxels along the edge of a cell of the physics, unless told otherwise


@dataclass(frozen=True)
class Model:
    """Trained weights, and what is laid over inference.yaml, configs and options, to run them."""

    path: Path
    configs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "shipped" if self == SHIPPED else self.path.parent.name

    @property
    def key(self) -> str:
        """Name of what these weights made: of other weights of the same name it is another."""
        return f"{self.name}_{sha256(self.path)[:8]}"


def checksum(*files: str | Path) -> str:
    """Of the files that an experiment takes, eight digits: enough to tell them from others.

    Raises:
        InputError: one cannot be read.
    """
    try:
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()[:8]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the path") from error


def checksum_of_labels(labels: np.ndarray) -> str:
    """Of labels, however they are stored, as `checksum`."""
    return labels_sha256(labels)[:8]


SHIPPED = Model(ROOT / "models" / "model.pt")


def trained_on(model: Model) -> tuple[str, ...]:
    """Options of a training that starts from a model: with the rates of a new one amounts swing (docs/training.md)."""
    return f"--start_from={model.path}", "--g_learning_rate=0.0002", "--decay=1.0"


@dataclass
class Lab:
    """Where the experiments live and how large they are.

    Args:
        folder: of everything that is made.
        realisations: unseen rocks that each model is judged on.
        seeds: of the noise, for each of them; physics takes the first.
        train_size: edge of the scan that a model learns from, coarse voxels.
        test_size: edge of an unseen scan, coarse voxels.
        hr_size: edge of each of the four images, fine pixels.
        epochs: of 50 generator steps, of the first model, half of them for the others; of each model in `paired`, `hr_sources` and `factors`.
        physics: whether flow, conduction and elasticity are computed, too.
        coarsening: fine voxels along the edge of a cell of the physics.
        workers: processes that make rock.

    Raises:
        InputError: a number that is not whole, or less than 1.
    """

    folder: Path
    realisations: int = 3
    seeds: int = 3
    train_size: int = 72
    test_size: int = 40
    hr_size: int = 1024
    epochs: int = 20
    physics: bool = True
    coarsening: int = COARSENING
    workers: int = 2
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # warnings: one for all that a folder keeps

    def __post_init__(self) -> None:
        counts = {
            "realisations": "unseen rocks, such as 3", "seeds": "seeds, such as 3", "train_size": "coarse voxels, such as 72",
            "test_size": "coarse voxels, such as 40", "hr_size": "fine pixels, such as 1024", "epochs": "epochs, such as 20",
            "coarsening": "fine voxels along the edge of a cell, such as 4", "workers": "processes, such as 2",
        }  # fmt: skip
        for name, of in counts.items():
            setattr(self, name, whole(getattr(self, name), f"--{name.replace('_', '-')}", of, 1))

    @property
    def half_epochs(self) -> int:
        """Of the models that have half, one or more."""
        return max(1, self.epochs // 2)

    def check_cells(self, edge: int) -> None:
        """Whether the cells of the physics fill a truth of `edge` voxels a side, before anything is made.

        Raises:
            InputError: physics is asked for, and they do not.
        """
        if self.physics and edge % self.coarsening:
            raise InputError(f"--coarsening: cells of {self.coarsening} voxels do not fill a truth of {edge} voxels a side; give a divisor of it, "
                             "or --no-physics")  # fmt: skip

    def training_data(self, name: str, axes: Sequence[int] = (0,)) -> Path:
        """Folder with lr.tif and the images of a synthetic rock to learn from."""
        folder = self.folder / name / "train"
        if self.anew(folder, folder / "scan.json", {"edge of the scan": self.train_size, "edge of the images": self.hr_size, "axes": list(axes)}):
            write_phantom(folder, name, 1, self.train_size, self.hr_size, 4, axes, workers=self.workers)
        return folder

    def tests(self, name: str) -> list[Path]:
        """Folders with lr.tif and truth.tif of unseen realisations of a synthetic rock."""
        return self._with_truth(name, "test", 201, self.test_size)

    def calibration(self, name: str) -> list[Path]:
        """As `tests`, of other realisations, as large as what a model learns from: rare minerals are rare in a small rock."""
        return self._with_truth(name, "calibration", 301, self.train_size)

    def _with_truth(self, name: str, purpose: str, seed: int, size: int) -> list[Path]:
        folders = [self.folder / name / f"{purpose}_{i}" for i in range(self.realisations)]
        for i, folder in enumerate(folders):
            if self.anew(folder, folder / "scan.json", {"edge of the scan": size}):
                write_phantom(folder, name, seed + i, size, truth=True, workers=self.workers)
        return folders

    def train(
        self, name: str, data: Path, phases: Sequence[str], epochs: int, *options: str, training: Sequence[str] = (), inference: Sequence[str] = ()
    ) -> Model:
        """A model that learns from lr.tif and hr.tif in `data`; made once.

        Args:
            name: of its folder.
            data: folder of the rock.
            phases: names of its labels.
            epochs: of 50 generator steps.
            options: of the command, before those from here.
            training, inference: configs laid over train.yaml and inference.yaml.

        Raises:
            InputError: the scan or the images cannot be read, or the training failed.
        """
        output = self.folder / "models" / name
        given = dict(option.split("=", 1) for option in options)
        start = given.get("--start_from")
        images = given.get("--hr_images", str(data / "hr.tif"))
        sets = literal_eval(images).values() if images.startswith("{") else [images]  # of each plane, or of all
        settings = {
            "epochs": epochs, "options": list(options), "configs": list(training), "weights to start from": sha256(start)[:8] if start else None,
            "scan": checksum(data / "lr.tif"), "images": checksum(*(file for one in sets for file in image_files(one))), "phases": list(phases),
        }  # fmt: skip
        if self.anew(output, output / "done", settings):
            own = {
                "--lr_image": data / "lr.tif", "--hr_images": data / "hr.tif", "--phases": list(phases), "--epoch_length": 50,
                "--max_epochs": epochs, "--output_dir": output, "--resume": "true",
            }  # fmt: skip
            self.bundle("training", ("train.yaml", *training), *(f"{k}={v}" for k, v in own.items() if k not in given), *options)
            (output / "done").touch()
        return Model(output / "model.pt", tuple(inference))

    def super_resolve(self, model: Model, lr: Path, seed: int = 0, scale: int = FACTOR) -> np.ndarray:
        """SR labels (z, y, x) of a scan; made once."""
        output = lr.parent / f"sr_{model.key}_{lr.stem}_{seed}"
        result = output / f"{lr.stem}_sr.tif"
        if self.anew(output, result, {"scan": checksum(lr), "scale": scale}, lr.parent):
            phases = load_checkpoint(model.path)["phases"]  # a rock that the model never saw may name the same labels otherwise
            self.bundle(
                "inference", ("inference.yaml", *model.configs), f"--lr_image={lr}", f"--phases={phases}", f"--model_file={model.path}",
                f"--seed={seed}", f"--scale_factor={scale}", f"--output_dir={output}", *model.options,
            )  # fmt: skip
        return read_volume(result).array

    def anew(self, folder: Path, result: Path, settings: Mapping[str, Any], place: Path | None = None) -> bool:
        """Whether a result is still to be made, its settings noted beside it; a warning where it is there and was made with others.

        It is used all the same: experiments share rocks and models, and the model that others start from may be trained for longer than theirs. A
        training that was broken off goes on with other `epochs`, but not with other settings; those that its version did not note may be the same.

        Args:
            folder: of settings.json.
            result: the file that is there when all is made.
            settings: and checksums of what goes in.
            place: folder that the warning names; `folder` unless given.
        """
        path = folder / "settings.json"
        was = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if result.exists():
            self._warn(place or folder, was, settings)
            return False
        if was is not None and (folder / "checkpoint.pt").exists():
            other = _others(was, settings)
            begun = f"begun with {'; '.join(other.values())}"
            if other.keys() & was.keys() - {"epochs"}:
                logger.warning(f"{folder}: {begun}; starts anew")
                (folder / "checkpoint.pt").unlink()
            elif other.keys() - {"epochs"}:
                logger.warning(f"{folder}: {begun}; goes on")
        write_text(path, json.dumps(settings, indent=1) + "\n")
        return True

    def _warn(self, place: Path, was: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
        """Tell, once, that what is used was made with other settings, or with unknown ones (None)."""
        other = {} if was is None else _others(was, settings)
        if was is None:
            message = f"{place}: used as it is; with which settings it was made is not known"
        else:
            message = f"{place}: used as it is, made with {'; '.join(other.values())}; delete it or give another --output to make it anew"
        if (was is None or other) and message not in self._told:
            self._told.add(message)
            logger.warning(message)

    def bundle(self, run: str, configs: Sequence[str], *options: str) -> None:
        """Runs the bundle's own command with configs laid over each other.

        Raises:
            InputError: it failed.
        """
        files = [str(ROOT / "configs" / name) for name in configs]
        command = [sys.executable, "-m", "monai.bundle", "run", run, "--config_file", str(files), *options]
        logger.info(" ".join(command))
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            raise InputError(f"{run} ended with exit code {code}: see its message above")

    def judge(
        self, name: str, folders: Sequence[Path], phases: Sequence[str], models: Mapping[str, Model], scale: int = FACTOR, physics: bool = False,
        votes: int = 0,
    ) -> str:  # fmt: skip
        """Judge models on rocks with truth, write `<name>.json`, `<name>.md` and `<name>.png`, and return the table.

        Args:
            name: of the files.
            folders: with lr.tif and truth.tif.
            phases: names of the labels.
            models: title -> model; the last is the one that is set against nearest neighbour.
            scale: fine voxels along the edge of a coarse one.
            physics: of the baselines and each model's first seed.
            votes: seeds of the last model whose most frequent label is judged as well; 0 = none.
        """
        geometry: dict[str, list[dict]] = {}
        physical: dict[str, list[dict]] = {}
        own = list(models)[-1]
        for folder in folders:
            truth, lr = read_volume(folder / "truth.tif"), read_volume(folder / "lr.tif")
            size, n = truth.voxel_size[0], len(phases)
            made = {"nearest": [upsample_nearest(lr.array, scale)], "trilinear": [upsample_trilinear(lr.array, scale, n)]}
            for title, model in models.items():
                made[title] = [self.super_resolve(model, folder / "lr.tif", seed, scale) for seed in range(self.seeds)]
            keys = {title: models[title].key if title in models else title for title in made}
            if votes:
                more = [self.super_resolve(models[own], folder / "lr.tif", seed, scale) for seed in range(self.seeds, votes)]
                guess = f"majority of {votes} seeds"
                made[guess] = [majority_of_votes(made[own][0], votes_of([*made[own], *more][:votes], n))]
                keys[guess] = f"{keys[own]}_majority_of_{votes}"
            known = {"phases": list(phases), "voxel size": size, "truth": checksum_of_labels(truth.array)}
            for title, volumes in made.items():
                for seed, volume in enumerate(volumes):
                    errors = partial(judging.geometry_errors, volume, truth.array, phases, size)
                    settings = known | {"volume": checksum_of_labels(volume)}
                    geometry.setdefault(title, []).append(self.kept(folder, f"geometry_{keys[title]}_{seed}", settings, errors))
            if physics:
                found = {"truth": self._physics(folder, "truth", truth.array, phases, size)}
                titles = ("nearest", "trilinear", *models)
                found |= {title: self._physics(folder, f"{keys[title]}_0", made[title][0], phases, size) for title in titles}
                for title in titles:
                    physical.setdefault(title, []).append(judging.physical_errors(found[title], found["truth"]))
                write_text(folder / "physics.md", judging.property_table(found))
        spreads = {title: judging.spread(rows) | (judging.spread(physical[title]) if title in physical else {}) for title, rows in geometry.items()}
        table = judging.markdown(spreads, (own, "nearest"))
        write_text(self.folder / f"{name}.json", json.dumps({"geometry": geometry, "physics": physical}, indent=1) + "\n")
        shown = {"LR": (report.middle_slices(lr.array), lr.voxel_size)}
        shown |= {title: (report.middle_slices(volumes[0]), truth.voxel_size) for title, volumes in made.items() if title in models}
        shown["truth"] = (report.middle_slices(truth.array), truth.voxel_size)
        report.plot_slices(self.folder / f"{name}.png", shown, phases)
        return self.write(name, table)

    def write(self, name: str, table: str) -> str:
        """Keep a table as `<name>.md`, and return it."""
        write_text(self.folder / f"{name}.md", table)
        return table

    def _physics(self, folder: Path, title: str, labels: np.ndarray, phases: Sequence[str], size: float) -> dict:
        cells = "" if self.coarsening == COARSENING else f"_{self.coarsening}"  # results of other cells are other files
        settings = {"phases": list(phases), "voxel size": size, "volume": checksum_of_labels(labels)}
        return self.kept(folder, f"physics{cells}_{title}", settings, partial(judging.physical_properties, labels, phases, size, self.coarsening))

    def kept(self, folder: Path, name: str, settings: Mapping[str, Any], make: Callable[[], dict]) -> dict:
        """What `make` gives, kept as JSON in `folder`, as solvers take minutes, with its settings; a warning where it was made with others."""
        path = folder / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            write_text(path, json.dumps({**make(), "settings": settings}) + "\n")
        found = json.loads(path.read_text(encoding="utf-8"))
        self._warn(folder, found.pop("settings", None), settings)
        return found


def _others(was: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """What a file of settings tells otherwise, by name."""
    now = json.loads(json.dumps(settings))  # as they would be read
    return {name: f"{name} {was.get(name, 'not known')}, now {value}" for name, value in now.items() if name not in was or was[name] != value}
