"""Experiment on hidden phases: is what returns where it belongs? Run by scripts/experiments.py."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bundle import report
from bundle.io.files import read_volume
from bundle.metrics import majority_downsample, volume_fractions
from bundle.metrics.truth import voxel_agreement
from bundle.networks.hidden import HiddenPhases, hidden_shares
from bundle.phantom import FACTOR, HOST, SECOND, rock
from bundle.workbench import KINDS, Lab

RADIUS = 16  # LR voxels, as in train.yaml


def grains(lab: Lab) -> str:
    """Of scans of unseen rocks, as they are and with as much of the second mineral brought back as they lost, grain by grain: by noise alone, and those
    of which the scan saw some first; against the majority of the truth in each voxel of the scan. How much is lost is taken from the truth of all."""
    rows = []
    for kind in KINDS:
        phases = rock(kind).phases
        pairs = [[read_volume(folder / f"{name}.tif").array for name in ("lr", "truth")] for folder in lab.tests(kind)]
        pairs = [(scan, majority_downsample(truth, FACTOR, len(phases))) for scan, truth in pairs]
        fractions = [volume_fractions(volumes, len(phases)).tolist() for volumes in zip(*pairs)]
        shares = hidden_shares(phases, {phases[HOST]: phases[SECOND]}, *fractions)
        made: dict[str, list[np.ndarray]] = {"scan": [], "by noise": [], "by grains": []}
        for i, (scan, _) in enumerate(pairs):
            noise, grain = (HiddenPhases(len(phases), len(phases), RADIUS) for _ in range(2))
            noise.hide(shares)
            grain.hide(shares)
            grain.calibrate(scan)
            for seed in range(lab.seeds * i, lab.seeds * (i + 1)):
                for way, volume in zip(made, (scan, _returned(noise, scan, seed), _returned(grain, scan, seed))):
                    made[way].append(volume)
        truth = np.concatenate([true for _, true in pairs for _ in range(lab.seeds)])
        scores = [voxel_agreement(np.concatenate(volumes), truth, phases) for volumes in made.values()]
        figures = [*(f"{fraction[SECOND]:.3f}" for fraction in fractions), *(f"{score['dice'][phases[SECOND]]:.2f}" for score in scores)]
        rows.append([kind, *figures, *(f"{1 - score['accuracy']:.1%}" for score in scores)])
    heads = ["rock", "second mineral in the scan", "in truth", *(f"Dice, {way}" for way in made), *(f"wrong voxels, {way}" for way in made)]
    return lab.write("grains", report.markdown_table(heads, rows))


def _returned(layer: nn.Module, scan: np.ndarray, seed: int) -> np.ndarray:
    """The scan with what it hides, (z, y, x)."""
    around = torch.from_numpy(np.pad(scan, layer.reach, mode="edge")).long()
    noise = torch.randn(1, 1, *around.shape, generator=torch.Generator().manual_seed(seed))
    onehot = F.one_hot(around, len(layer.target)).movedim(-1, 0)[None].float()
    return layer(onehot, noise)[0].argmax(0).numpy().astype(scan.dtype)
