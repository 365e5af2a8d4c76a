"""The experiment on HR images: real ones, ones that our generator made, and ones that another made, taught by critics or by patches. Run by
scripts/experiments.py; see bundle/workbench.py for the lab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle import judging, report
from bundle.errors import InputError, whole
from bundle.gating import Gating
from bundle.io import Volume, check_labels, read_images, read_volume, write_volume
from bundle.io.images import image_files
from bundle.metrics import mean_relative_error, real_reference, statistics, upsample_nearest
from bundle.phantom import FACTOR
from bundle.workbench import Lab, Model, checksum, checksum_of_labels

TRAIN, TEST = ((0, 128), None, None), ((128, 192), (96, 160), (96, 160))  # LR voxels of the Berea scan, as in docs/results.md
TEACHERS = {  # configs laid over train.yaml, options, and how many times as long as one of critics.yaml an iteration takes
    "plain critic": (("critics.yaml",), ("--augment_critics=false",), 1),
    "ADA critic": (("critics.yaml",), ("--augment_critics=true",), 1),
    "patches": ((), (), 4),
}


def hr_sources(
    lab: Lab, lr_image: str, hr_images: str, others: str | None, phases: Sequence[str], left_out: int = 0, generator_epochs: int = 50, images: int = 2000
) -> str:
    """The same super-resolution, trained for as long on each source of HR images by each teacher, judged on a real image that none of them saw.

    Critics teach by real images (plain, and with adaptive augmentation) and by generated ones, and so do the patches of train.yaml.

    Args:
        lab: its `epochs` are those of every super-resolution that critics teach; patches have a quarter, which takes as long.
        lr_image: scan of the rock.
        hr_images: its real images, 3 or more.
        others: images of another generator; None leaves them out.
        phases: names of the labels.
        left_out: index of the image that is kept out of all trainings (what `others` learned from is theirs).
        generator_epochs: of 100 steps, of our generator.
        images: that it makes.

    Raises:
        InputError: too few images, files that cannot be read, a scan that cannot be parted, or epochs that are no whole number of 1 or more; before
            anything is written.
    """
    generator_epochs = whole(generator_epochs, "--generator-epochs", "epochs, such as 50", 1)
    real, size = read_images(hr_images)
    if not 0 <= left_out < len(real) >= 3:
        raise InputError(f"{hr_images}: {len(real)} images; with image {left_out} kept out 2 or more must be left: give another number")
    if len({image.shape for image in real}) > 1:
        raise InputError(f"{hr_images}: images of several sizes; cut them to one, as each takes its turn in the same stack")
    folder = lab.folder / "hr_sources" / f"without_{left_out}"
    kept, unseen = [image for i, image in enumerate(real) if i != left_out], real[left_out]
    pixel = None if size is None else (size[0], *size)
    learned, judged = parted(lr_image, len(phases))
    if others:
        checksum(*image_files(others))  # the training that reads it comes hours later
    if lab.anew(folder, folder / "train" / "lr.tif", noted(learned, judged) | {"images": checksum(*image_files(hr_images))}):
        for path, volume in (
            (folder / "train" / "hr.tif", Volume(np.stack(kept), pixel)), (folder / "test" / "hr.tif", Volume(np.stack([unseen]), pixel)),
            (folder / "test" / "lr.tif", judged), (folder / "train" / "lr.tif", learned),
        ):  # fmt: skip
            write_volume(path, volume)
    kept, (unseen,) = (read_images(folder / part / "hr.tif")[0] for part in ("train", "test"))  # of the folder, whatever is given now
    real = [*kept[:left_out], unseen, *kept[left_out:]]
    sources = {"real": folder / "train" / "hr.tif", "our generated": _generate(lab, folder, phases, generator_epochs, images)}
    if others:
        sources["others' generated"] = Path(others).resolve()
    trials = [("real", "ADA critic"), *((source, teacher) for teacher in ("plain critic", "patches") for source in sources)]
    lr = folder / "test" / "lr.tif"
    found, shown = {"LR, nearest": _judged(lab, folder, None, lr, unseen, real, phases)}, {}
    for source, teacher in trials:
        title = f"{source}, {teacher}"
        name = f"hr_sources_{left_out}_{title.replace(' ', '_').replace(',', '').replace(chr(39), '')}"
        configs, options, longer = TEACHERS[teacher]
        model = lab.train(
            name, folder / "train", phases, max(1, lab.epochs // longer), f"--hr_images={sources[source]}", "--accept_failed=true", *options,
            training=configs,
        )  # fmt: skip
        found[title] = _judged(lab, folder, model, lr, unseen, real, phases)
        shown[title] = (report.middle_slices(lab.super_resolve(model, lr)), (size[0],) * 3 if size else (1.0,) * 3)
    report.plot_slices(lab.folder / f"hr_sources_{left_out}.png", shown, phases)
    settings = {"images": _images(folder), "phases": list(phases)}
    reference = lab.kept(folder, "reference", settings, lambda: real_reference(real, len(phases), edge=judging.EDGE))
    heads = ["source of the HR images", "statistics, against the image kept out", "against all images", "two-point", "AUC", "LR pore kept"]
    rows = [[title, *(f"{one[key]:.1%}" for key in ("statistics", "all")), f"{one['two_point']:.4f}", f"{one['auc']:.2f} ± {one['auc_error']:.2f}",
             f"{one['pore']:.1%}"] for title, one in found.items()]  # fmt: skip
    table = report.markdown_table(heads, rows)
    return lab.write(f"hr_sources_{left_out}", f"{table}\nreal images against each other: AUC {reference['auc']:.2f}\n")


def parted(lr_image: str, n_phases: int) -> tuple[Volume, Volume]:
    """The parts of a scan to learn from and to judge on, `TRAIN` and `TEST`.

    Raises:
        InputError: it cannot be read, has other labels, or does not hold them.
    """
    scan = read_volume(lr_image)
    labels = check_labels(scan.array, n_phases, lr_image, key=None)
    ends = [max(part[1] if part else 1 for part in parts) for parts in zip(TRAIN, TEST)]
    if any(n < end for n, end in zip(labels.shape, ends)):
        needed, shape = (" x ".join(map(str, sides)) for sides in (ends, labels.shape))
        raise InputError(f"{lr_image}: {shape} voxels; the parts to learn from and to judge on take {needed}: give a larger scan")
    train, test = (np.ascontiguousarray(labels[tuple(slice(*(part or (None,))) for part in region)]) for region in (TRAIN, TEST))
    return Volume(train, scan.voxel_size), Volume(test, scan.voxel_size)


def noted(*parts: Volume) -> dict[str, Any]:
    """What tells the parts of a scan from those of others, for the settings of a folder that is made of them."""
    return {"scan": [checksum_of_labels(part.array) for part in parts], "voxel size": parts[0].voxel_size}


def _images(folder: Path) -> str:
    return checksum(folder / "train" / "hr.tif", folder / "test" / "hr.tif")


def _generate(lab: Lab, folder: Path, phases: Sequence[str], epochs: int, images: int) -> Path:
    """Stack of our generator, trained on the images that are not kept out, and the verdict on it; each made once."""
    output, learned = folder / "generator", folder / "train" / "hr.tif"
    known = {"phases": list(phases)}
    if lab.anew(output, output / "done", known | {"epochs": epochs, "images to learn from": checksum(learned)}):
        training = [f"--hr_images={learned}", f"--max_epochs={epochs}", "--epoch_length=100", "--resume=true"]
        lab.bundle("training", ["hr_synthesis.yaml"], *training, f"--phases={list(phases)}", f"--output_dir={output}")
        (output / "done").touch()
    made, model = output / "images", output / "model.pt"
    stack, verdict = made / "hr_generated.tif", made / "hr_generated_gates.json"
    if lab.anew(made, stack, known | {"images": images, "weights": checksum(model)}):
        verdict.unlink(missing_ok=True)
        options = [f"--model_file={model}", f"--n_images={images}", f"--phases={list(phases)}", f"--output_dir={made}"]
        lab.bundle("inference", ["hr_synthesis_inference.yaml"], *options)
    if not verdict.exists():
        Gating(str(stack), str(learned), phases, held_out_images=str(folder / "test" / "hr.tif")).run()
    return stack


def _judged(
    lab: Lab, folder: Path, model: Model | None, lr: Path, unseen: np.ndarray, real: Sequence[np.ndarray], phases: Sequence[str]
) -> dict:
    """Figures of one super-resolution, or of nearest neighbour where there is no model; made once."""

    def judge() -> dict:
        scan = read_volume(lr).array
        sr = upsample_nearest(scan, FACTOR) if model is None else lab.super_resolve(model, lr)
        wanted = np.mean([statistics(image, len(phases)) for image in real], 0)
        return judging.likeness(sr, scan, FACTOR, [unseen], phases) | {"all": float(mean_relative_error(statistics(sr, len(phases)), wanted))}

    settings = {"scan": checksum(lr), "images": _images(folder), "phases": list(phases)}
    return lab.kept(folder, f"judged_{model.key if model else 'nearest'}", settings, judge)
