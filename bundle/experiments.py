"""The experiments of docs/experiments.md: rock whose truth is known, made, scanned, super-resolved and judged. Run by scripts/experiments.py.

Everything is kept in the folder of the lab and made once: rocks, models, super-resolved volumes. Every model is trained and run by the bundle's own
commands.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from bundle import judging, report
from bundle.checkpoint import load_checkpoint
from bundle.errors import InputError
from bundle.io import Volume, read_images, write_text, write_volume
from bundle.io.files import read_volume
from bundle.lab import ARTEFACTS, plant, split_volume, write_phantom
from bundle.metrics import chord_lengths, compare_curves, statistic_names, statistics, two_point, upsample_nearest, upsample_trilinear
from bundle.phantom import FACTOR, ROCKS, VOXEL, rock, sections

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]


COARSENING = 4  # fine voxels along the edge of a cell of the physics, unless told otherwise


@dataclass(frozen=True)
class Model:
    """Trained weights, and what is laid over inference.yaml to run them."""

    path: Path
    configs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "shipped" if self == SHIPPED else self.path.parent.name


SHIPPED = Model(ROOT / "models" / "model.pt")


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
        epochs: of 50 generator steps, of the first model; the others, which start from it, get half of them.
        physics: whether flow, conduction and elasticity are computed, too.
        coarsening: fine voxels along the edge of a cell of the physics.
        workers: processes that make rock.
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

    def training_data(self, name: str, axes: Sequence[int] = (0,)) -> Path:
        """Folder with lr.tif and the images of a synthetic rock to learn from."""
        folder = self.folder / name / "train"
        if self.anew(folder, folder / "scan.json", {"edge of the scan": self.train_size, "edge of the images": self.hr_size, "axes": list(axes)}):
            write_phantom(folder, name, 1, self.train_size, self.hr_size, 4, axes, workers=self.workers)
        return folder

    def tests(self, name: str) -> list[Path]:
        """Folders with lr.tif and truth.tif of unseen realisations of a synthetic rock."""
        folders = [self.folder / name / f"test_{i}" for i in range(self.realisations)]
        for i, folder in enumerate(folders):
            if self.anew(folder, folder / "scan.json", {"edge of the scan": self.test_size}):
                write_phantom(folder, name, 201 + i, self.test_size, truth=True, workers=self.workers)
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
        """
        output = self.folder / "models" / name
        if self.anew(output, output / "done", {"epochs": epochs, "options": list(options), "configs": list(training)}):
            given = {option.split("=")[0] for option in options}
            own = {
                "--lr_image": data / "lr.tif", "--hr_images": data / "hr.tif", "--phases": list(phases), "--epoch_length": 50,
                "--max_epochs": epochs, "--output_dir": output, "--resume": "true",
            }  # fmt: skip
            self.bundle("training", ("train.yaml", *training), *(f"{k}={v}" for k, v in own.items() if k not in given), *options)
            (output / "done").touch()
        return Model(output / "model.pt", tuple(inference))

    def super_resolve(self, model: Model, lr: Path, seed: int = 0, scale: int = FACTOR) -> np.ndarray:
        """SR labels (z, y, x) of a scan; made once."""
        output = lr.parent / f"sr_{model.name}_{lr.stem}_{seed}"
        result = output / f"{lr.stem}_sr.tif"
        if not result.exists():
            phases = load_checkpoint(model.path)["phases"]  # a rock that the model never saw may name the same labels otherwise
            self.bundle(
                "inference", ("inference.yaml", *model.configs), f"--lr_image={lr}", f"--phases={phases}", f"--model_file={model.path}",
                f"--seed={seed}", f"--scale_factor={scale}", f"--output_dir={output}",
            )  # fmt: skip
        return read_volume(result).array

    @staticmethod
    def anew(folder: Path, result: Path, settings: Mapping[str, Any]) -> bool:
        """Whether a result is still to be made, its settings noted beside it; a warning where it is there and was made with others.

        It is used all the same: experiments share rocks and models, and the model that others start from may be trained for longer than theirs.
        """
        path, told = folder / "settings.json", json.loads(json.dumps(settings))
        if not result.exists():
            write_text(path, json.dumps(told, indent=1) + "\n")
            return True
        if not path.exists():
            logger.warning(f"{folder}: used as it is; with which settings it was made is not known")
        else:
            was = json.loads(path.read_text(encoding="utf-8"))
            other = [f"{name} {was.get(name)}, now {value}" for name, value in told.items() if was.get(name) != value]
            if other:
                logger.warning(f"{folder}: used as it is, made with {'; '.join(other)}; delete it or give another --output to make it anew")
        return False

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
            physics: of the baselines and the last model's first seed.
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
            keys = {title: models[title].name if title in models else title for title in made}
            if votes:
                more = [self.super_resolve(models[own], folder / "lr.tif", seed, scale) for seed in range(self.seeds, votes)]
                guess = f"majority of {votes} seeds"
                made[guess], keys[guess] = [judging.majority_of_seeds([*made[own], *more][:votes], n)], f"{keys[own]}_majority_of_{votes}"
            for title, volumes in made.items():
                for seed, volume in enumerate(volumes):
                    errors = partial(judging.geometry_errors, volume, truth.array, phases, size, boundaries=False)
                    geometry.setdefault(title, []).append(self.kept(folder, f"geometry_{keys[title]}_{seed}", errors))
            if physics:
                found = {"truth": self._physics(folder, "truth", truth.array, phases, size)}
                found |= {title: self._physics(folder, f"{keys[title]}_0", made[title][0], phases, size) for title in ("nearest", "trilinear", own)}
                for title in list(found)[1:]:
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
        return self.kept(folder, f"physics{cells}_{title}", partial(judging.physical_properties, labels, phases, size, self.coarsening))

    @staticmethod
    def kept(folder: Path, name: str, make: Callable[[], dict]) -> dict:
        """What `make` gives, kept as JSON in `folder`: solvers take minutes."""
        path = folder / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            write_text(path, json.dumps(make()) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))


def phantom(lab: Lab, hr_images: str, count: int = 64, size: int = 512) -> str:
    """How near the Berea-like phantom is to images of the real rock: fractions, areas and two-point curves of `count` sections, one a realisation."""
    real, _ = read_images(hr_images)
    with ProcessPoolExecutor(lab.workers) as pool:
        made = [found[0] for found in pool.map(sections, range(1000, 1000 + 17 * count, 17), [1] * count, [size] * count)]
    phases = rock("berea").phases
    n = len(phases)
    found, wanted = (np.stack([statistics(image, n) for image in images]) for images in (made, real))
    rows = []
    for i, name in enumerate(statistic_names(phases)):
        mean, error, goal = found[:, i].mean(), found[:, i].std(ddof=1) / np.sqrt(count), wanted[:, i].mean()
        rows.append([name, f"{goal:.5f}", f"{mean:.5f} ± {error:.5f}", f"{mean / goal:.2f}"])
    curves = {
        title: np.stack([np.mean([two_point(image, n, axis, size // 3) for axis in (0, 1)], 0) for image in images])
        for title, images in {"images": real, "phantom": made}.items()
    }
    report.plot_curves(lab.folder / "phantom_two_point.png", np.arange(size // 3 + 1) * VOXEL, curves, phases)
    shown = {}
    for name in ROCKS:
        cut = {plane: sections(7, 1, size, rock(name), axis)[0] for plane, axis in (("xy", 0), ("xz", 1), ("yz", 2))}
        shown[f"{name}: {', '.join(rock(name).phases)}"] = (cut, (VOXEL,) * 3)
    report.plot_slices(lab.folder / "phantom.png", shown, phases)
    heads = ["", f"images, mean of {len(real)}", f"phantom, mean of {count} ± its standard error", "ratio"]
    return lab.write("phantom", report.markdown_table(heads, rows))


def base_model(lab: Lab) -> Model:
    """Learns the Berea-like rock from its scan and four images, starting from the shipped weights."""
    data = lab.training_data("berea")
    return lab.train("base", data, rock("berea").phases, lab.epochs, f"--start_from={SHIPPED.path}")


def truth(lab: Lab) -> str:
    """Known truth: nearest neighbour, trilinear, the shipped model (which never saw this rock) and one trained on it, on unseen realisations."""
    models = {"shipped model": SHIPPED, "SR": base_model(lab)}
    return lab.judge("truth", lab.tests("berea"), rock("berea").phases, models, physics=lab.physics, votes=9)


def mse_only(lab: Lab) -> str:
    """The paper's first check: trained on the consistency alone."""
    data, phases = lab.training_data("berea"), rock("berea").phases
    models = {"consistency alone": lab.train("mse_only", data, phases, lab.epochs // 2, training=["mse_only.yaml"]), "SR": base_model(lab)}
    return lab.judge("mse_only", lab.tests("berea"), phases, models)


def zero_noise(lab: Lab) -> str:
    """The paper's second check: the noise is zero, in training and inference."""
    data, phases = lab.training_data("berea"), rock("berea").phases
    silent, start = ["zero_noise.yaml"], f"--start_from={SHIPPED.path}"
    still = lab.train("zero_noise", data, phases, lab.epochs // 2, start, training=silent, inference=silent)
    return lab.judge("zero_noise", lab.tests("berea"), phases, {"zero noise": still, "SR": base_model(lab)})


def two_points(lab: Lab) -> str:
    """The paper's third check: two-point correlation of SR against LR, here beside the truth."""
    phases, folder = rock("berea").phases, lab.tests("berea")[0]
    true, lr = read_volume(folder / "truth.tif"), read_volume(folder / "lr.tif")
    model = base_model(lab)
    sr = [lab.super_resolve(model, folder / "lr.tif", seed) for seed in range(lab.seeds)]
    lags = true.array.shape[0] // 2

    def curve(labels: np.ndarray, step: int) -> np.ndarray:
        return np.mean([two_point(labels, len(phases), axis, lags // step) for axis in range(3)], 0)

    seeds = np.stack([curve(volume, 1) for volume in sr])
    fine, coarse = np.arange(lags + 1) * VOXEL, np.arange(lags // FACTOR + 1) * VOXEL * FACTOR
    reference, scan = curve(true.array, 1), curve(lr.array, FACTOR)
    continuous = np.stack([np.interp(fine, coarse, row) for row in scan])
    report.plot_curves(lab.folder / "two_points.png", fine, {"LR": continuous[None], "SR": seeds, "truth": reference[None]}, phases)
    rows = []
    for i, name in enumerate(phases):
        errors = [compare_curves(found[i, 1:], reference[i, every::every])["mean"] for found, every in ((scan, FACTOR), (seeds.mean(0), 1))]
        rows.append([name, *(f"{error:.4f}" for error in errors)])
    return lab.write("two_points", report.markdown_table(["phase", "LR: mean error of S2", "SR"], rows))


def minerals(lab: Lab) -> str:
    """Unseen rock, tight rock and other minerals: the Berea-like model on each, and one that learned the rock for half as long."""
    tables, base = [], base_model(lab)
    for name in ("tight", "carbonate"):
        phases = rock(name).phases
        own = lab.train(
            name, lab.training_data(name), phases, lab.epochs // 2, f"--start_from={base.path}",
            f"--hidden={ {phases[1]: phases[2]} }", f"--costs={_costs(*phases)}",
        )  # fmt: skip
        models = {"unseen": base, "own": own}
        tables.append(f"{name}\n\n" + lab.judge(f"minerals_{name}", lab.tests(name), phases, models))
    return "\n".join(tables)


def _costs(pore: str, host: str, second: str, clay: str) -> dict:
    """The costs of configs/train.yaml in the names of another rock."""
    return {pore: {clay: 0.8}, host: {second: 0.9}, second: {pore: 0.6, host: 0.9, clay: 0.7}, clay: {pore: 0.5, host: 0.7, second: 0.7}}


def layering(lab: Lab) -> str:
    """Layered rock with flat grains: the model that takes it for isotropic against one with images of each plane; anisotropy of the pore chords."""
    phases, data = rock("layered").phases, lab.training_data("layered", axes=(0, 1))
    across, along = data / "hr_y.tif", data / "hr_z.tif"
    images = {"xy": str(along), "xz": str(across), "yz": str(across)}
    base = base_model(lab)
    options = (f"--start_from={base.path}", f"--hr_images={images}")
    own = lab.train("layered", data, phases, lab.epochs // 2, *options, training=["anisotropic.yaml"])
    models = {"isotropic model": base, "images of each plane": own}
    table = lab.judge("layering", lab.tests("layered"), phases, models)
    rows: dict[str, list[str]] = {}
    for folder in lab.tests("layered"):
        volumes = {"truth": read_volume(folder / "truth.tif").array, "nearest": upsample_nearest(read_volume(folder / "lr.tif").array, FACTOR)}
        volumes |= {title: lab.super_resolve(model, folder / "lr.tif") for title, model in models.items()}
        for title, volume in volumes.items():
            z, y, x = (chord_lengths(volume == 0, axis, VOXEL)["mean"] for axis in range(3))
            rows.setdefault(title, []).append("-" if None in (z, y, x) else f"{2 * z / (y + x):.3f}")
    heads = ["pore chord along z / along x, y", *(f"rock {i}" for i in range(lab.realisations))]
    chords = report.markdown_table(heads, [[title, *values] for title, values in rows.items()])
    return lab.write("layering", f"{table}\n{chords}")


def artefacts(lab: Lab) -> str:
    """Errors planted in the scan, followed through the super-resolution: voxels of SR that change, and how far from the truth it gets."""
    phases, folder = rock("berea").phases, lab.tests("berea")[0]
    true, lr = read_volume(folder / "truth.tif"), read_volume(folder / "lr.tif")
    model = base_model(lab)
    clean = lab.super_resolve(model, folder / "lr.tif")
    right = float(np.mean(clean == true.array))
    rows = []
    shown = {"SR, clean scan": (report.middle_slices(clean), true.voxel_size)}
    for name in ARTEFACTS:
        planted = plant(lr.array, name)
        path = folder / f"planted_{name.replace(' ', '_')}.tif"
        write_volume(path, Volume(planted, lr.voxel_size))
        sr = lab.super_resolve(model, path)
        far = upsample_nearest((~ndimage.binary_dilation(planted != lr.array, iterations=2)).astype(np.uint8), FACTOR) == 1
        changed = sr != clean
        away = f"{np.mean(changed[far]):.2%}" if far.any() else "-"
        shares = [f"{np.mean(planted != lr.array):.1%}", f"{np.mean(changed):.1%}", away, f"{right:.1%}", f"{np.mean(sr == true.array):.1%}"]
        rows.append([name, *shares])
        shown[name] = (report.middle_slices(sr), true.voxel_size)
    report.plot_slices(lab.folder / "artefacts.png", shown, phases)
    heads = ("artefact", "LR voxels changed", "SR voxels changed", "SR changed away from the artefact", "SR right, clean", "SR right, with it")
    return lab.write("artefacts", report.markdown_table(heads, rows))


def paired(lab: Lab, path: str, phases: Sequence[str], name: str, voxel_size: float) -> str:
    """A real 3D volume, block-downsampled by 4: learned from one part, judged on another."""
    folder = lab.folder / name
    tests = split_volume(path, folder, 4, len(phases), voxel_size, tests=lab.realisations)
    options = (f"--hr_images={folder / 'hr.tif'}", "--scale_factor=4", "--feedback_weight=0.5", "--feedback#fractions=60")
    model = lab.train(name, folder / "train", phases, lab.epochs, *options)
    return lab.judge(f"paired_{name}", tests, phases, {"SR": model}, scale=4, physics=lab.physics)
