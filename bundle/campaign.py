"""The choice of the default: trainings of one rock that differ in one thing each, under about equal compute, judged at a place that none of them saw.
Run by scripts/experiments.py; see bundle/workbench.py for the lab."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bundle import judging, report
from bundle.factor_experiments import coarsened
from bundle.image_experiments import parted
from bundle.io import read_images, read_volume
from bundle.io.images import image_files
from bundle.metrics import lr_agreement, seed_diversity, two_sample_auc, upsample_nearest
from bundle.metrics.oblique import oblique_reference, oblique_slices
from bundle.phantom import FACTOR
from bundle.workbench import SHIPPED, Lab, Model, checksum, checksum_of_labels, trained_on

CROPS = 600  # at 45 degrees, of either kind


@dataclass(frozen=True)
class Trial:
    """What is laid over train.yaml, and for how long.

    Args:
        configs: override files.
        options: of the command.
        share: of the lab's epochs, so that a step that takes longer comes less often.
        scratch: whether it starts anew instead of from the shipped model.
    """

    configs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    share: float = 1.0
    scratch: bool = False


BEFORE = (
    "--consistency#absent=$None", "--tolerance=0.35", "--patches#patch=7", "--patches#samples=512", "--network_def#softness=0.0", "--network_def#blur=0.0",
    "--network_def#label_blur=0.0",
)  # fmt: skip
"""train.yaml as the model of version 0.5 learned with."""

TRIALS: dict[str, Trial] = {
    "as in version 0.5": Trial(options=BEFORE),
    "train.yaml": Trial(),
    "tolerance .35": Trial(options=("--tolerance=0.35",)),
    "one tolerance everywhere": Trial(options=("--consistency#absent=$None",)),
    "patches of 7 pixels, 512 at a time": Trial(options=BEFORE[2:4]),
    "labels not softened": Trial(options=BEFORE[4:5]),
    "white noise": Trial(options=BEFORE[5:6]),
    "labels seen as they are": Trial(options=BEFORE[6:]),
    "patches at borders": Trial(options=("--patches#borders=0.75",)),
    "equal costs": Trial(options=("--costs={}",)),
    "consistency of the majority": Trial(options=("--costs={}", "--tolerance=0.5", "--consistency#absent=$None")),
    "consistency of the nearest voxel": Trial(options=("--consistency={'_target_': 'bundle.losses.consistency.NearestConsistency'}",)),
    "learned confusion": Trial(("confusion.yaml",)),
    "no feedback": Trial(options=("--feedback_weight=0.0",)),
    "patches and critics": Trial(("patches_and_critics.yaml",), share=0.6),
    "from scratch": Trial(scratch=True),
    "half the features, from scratch": Trial(options=("--network_def#channels=[32,24,16,8]",), share=1.5, scratch=True),
    "twice the blocks, from scratch": Trial(options=("--network_def#blocks=4",), share=0.7, scratch=True),
    "critics alone, from scratch": Trial(("critics.yaml",), share=0.8, scratch=True),
    "critics without augmentation, from scratch": Trial(("critics.yaml",), ("--augment_critics=false",), share=0.8, scratch=True),
    "one critic, of the finest scale, from scratch": Trial(("critics.yaml",), ("--scales=[8]",), share=0.8, scratch=True),
    "relativistic critics, from scratch": Trial(("critics.yaml", "relativistic.yaml"), share=0.5, scratch=True),
    "consistency alone, from scratch": Trial(("mse_only.yaml",), scratch=True),
}


def campaign(lab: Lab, lr_image: str, hr_images: str, phases: Sequence[str], names: Sequence[str] = ()) -> str:
    """Train what `TRIALS` names, and set it beside the shipped model and nearest neighbour.

    Args:
        lab: its `epochs` are those of a trial of share 1, its `seeds` those whose figures are averaged.
        lr_image: scan of the rock that the shipped model learned, 8 times coarser than the images.
        hr_images: of the rock.
        phases: names of the labels.
        names: of the trials; none: all.
    """
    real, _ = read_images(hr_images)
    folder = lab.folder / "campaign"
    coarsened(lab, folder, parted(lr_image, len(phases)), len(phases), FACTOR)
    lr = folder / "test" / "lr.tif"
    scan = read_volume(lr)
    models: dict[str, Model | None] = {"nearest neighbour": None, "shipped": SHIPPED}
    for title in names or TRIALS:
        trial = TRIALS[title]
        start = () if trial.scratch else trained_on(SHIPPED)
        trained = lab.train(
            f"campaign_{re.sub(r'[^a-z0-9.]+', '_', title)}", folder / "train", phases, max(1, round(trial.share * lab.epochs)), *start,
            *trial.options, f"--hr_images={Path(hr_images).resolve()}", training=trial.configs,
        )  # fmt: skip
        models[title] = replace(trained, options=tuple(option for option in trial.options if option.startswith("--network_def#")))
    known = {"phases": list(phases), "images": checksum(*image_files(hr_images)), "scan": checksum_of_labels(scan.array)}
    rows, shown = [], {}
    for title, model in models.items():
        made = [upsample_nearest(scan.array, FACTOR)] if model is None else [lab.super_resolve(model, lr, seed) for seed in range(lab.seeds)]
        settings = known | {"volumes": [checksum_of_labels(volume) for volume in made]}
        name = f"judged_{model.key if model else 'nearest'}_{len(made)}_seeds"
        found = lab.kept(folder, name, settings, lambda: _figures(made, scan.array, real, phases))
        rows.append([title, *_trained(model), *_cells(found, phases)])
        shown[title] = (report.middle_slices(made[0]), tuple(v / FACTOR for v in scan.voxel_size or (1.0,) * 3))
    report.plot_slices(lab.folder / "campaign.png", shown, phases)
    heads = ["", "steps", "hours", "statistics", "two-point", "AUC", "AUC at 45°"]
    heads += [*(f"{name} kept" for name in phases), "seeds differ", f"foreign within {phases[0]}"]
    return lab.write("campaign", report.markdown_table(heads, rows))


def _trained(model: Model | None) -> tuple[str, str]:
    """Steps and hours as its record tells them."""
    if model is None:
        return "-", "-"
    record = json.loads(model.path.with_suffix(".json").read_text(encoding="utf-8"))
    return str(record["generator_steps"]), f"{record['hours']:.2f}"


def _figures(made: Sequence[np.ndarray], scan: np.ndarray, real: Sequence[np.ndarray], phases: Sequence[str]) -> dict[str, Any]:
    """What a table row says of the volumes of some seeds; the networks that try to tell them from the images see the first."""
    n, edge = len(phases), judging.EDGE
    axis = two_sample_auc(real, made[0], n, edge)
    oblique = two_sample_auc(oblique_reference(real, CROPS, edge), oblique_slices(made[0], CROPS, edge), n, edge)
    return {
        "distances": [judging.distances(volume, real, n) for volume in made],
        "auc": [axis["auc"], axis["error"]],
        "oblique": [oblique["auc"], oblique["error"]],
        "kept": lr_agreement(scan, made[0], made[0].shape[0] // scan.shape[0], phases)["kept"],
        "foreign": judging.foreign_within(made[0], scan),
        "differing": seed_diversity(made, phases)["differing"]["mean"] if len(made) > 1 else None,
    }


def _cells(found: dict[str, Any], phases: Sequence[str]) -> list[str]:
    shares = [*(found["kept"][name] for name in phases), found["differing"], found["foreign"]]
    auc = [f"{value:.2f} ± {error:.2f}" for value, error in (found["auc"], found["oblique"])]
    statistics, two_point = (np.mean([one[name] for one in found["distances"]]) for name in ("statistics", "two_point"))
    return [f"{statistics:.1%}", f"{two_point:.4f}", *auc, *("-" if share is None else f"{share:.1%}" for share in shares)]
