"""What the averaged generator makes of the same LR patches at every look, and what is measured of it and of the slices of the last steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ignite.engine import Events
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from bundle.buffer import SliceBuffer
from bundle.metrics import lr_agreement, volume_fractions
from bundle.networks.generator import Box
from bundle.trainer import of_box

if TYPE_CHECKING:
    from bundle.trainer import SuperResolutionTrainer


class Made(NamedTuple):
    """What the averaged generator made of one LR patch, once for each noise."""

    labels: Tensor
    """Corrected LR labels of the patch, one-hot (noises, LR phases, N, N, N)."""
    volumes: list[tuple[int, Tensor, Box]]
    """As `forward_training` of the network gives them."""

    def finest(self) -> tuple[np.ndarray, np.ndarray, int]:
        """LR labels (noises, d, h, w) and SR labels (noises, s d, s h, s w) of the finest box, and s."""
        scale, probabilities, box = self.volumes[-1]
        lr = of_box(self.labels, box).argmax(1)
        return lr.byte().cpu().numpy(), probabilities.argmax(1).byte().cpu().numpy(), scale


class Probe:
    """What the averaged generator makes of the same LR patches at every look: computed once a look, for all monitors.

    The patches are of epoch 0, which no training draws, and of some candidates those whose finest box holds most of both the watched LR label and
    of others. Random numbers are those of `seed`; the training's are left alone.

    Args:
        label: LR label that is watched.
        patches: number of patches.
        noises: realisations of each.
        candidates: patches to choose from.
        seed: of the noise and the boxes.

    Attributes:
        noisy: whether the patches have noise (`noise_std` is not 0), once they are chosen.
    """

    def __init__(self, label: int = 0, patches: int = 2, noises: int = 2, candidates: int = 4, seed: int = 0):
        self.label, self.patches, self.noises, self.candidates, self.seed = label, patches, noises, candidates, seed
        self.noisy = False  # until a look finds noise in the patches
        self._chosen: list[tuple[int, Tensor]] = []
        self._made: tuple[int, list[Made]] = (-1, [])

    def __call__(self, engine: SuperResolutionTrainer) -> list[Made]:
        """One of each patch."""
        if not self._chosen:
            found: list[tuple[int, Tensor, Made]] = []
            for candidate in self._patches(engine):
                found = sorted([*found, (*candidate, self._run(engine, *candidate))], key=lambda one: -self._use(one[2]))[: self.patches]
            self._chosen = [(seed, image) for seed, image, _ in found]
            self._made = engine.state.iteration, [made for _, _, made in found]
            self.noisy = any(bool(image[-1].any()) for _, image in self._chosen)
            engine.add_event_handler(Events.EPOCH_STARTED, self._forget)  # the training needs the memory
        if self._made[0] != engine.state.iteration:
            self._made = engine.state.iteration, [self._run(engine, *chosen) for chosen in self._chosen]
        return self._made[1]

    def _forget(self) -> None:
        self._made = -1, []

    def _patches(self, engine: SuperResolutionTrainer) -> list[tuple[int, Tensor]]:
        dataset = engine.data_loader.dataset
        dataset.set_epoch(0)
        images = [convert_to_tensor(dataset[n]["image"], track_meta=False) for n in range(min(self.candidates, len(dataset)))]
        dataset.set_epoch(engine.state.epoch)
        return list(enumerate(images, start=self.seed))

    def _run(self, engine: SuperResolutionTrainer, seed: int, image: Tensor) -> Made:
        with own_random_numbers(torch.device(engine.state.device), seed):
            images = image.repeat(self.noises, 1, 1, 1, 1)
            for noise in images[1:, -1]:  # white, so any order of it is another realisation of the same amplitude
                noise.copy_(noise.flatten()[torch.randperm(noise.numel())].view_as(noise))
            images = images.to(engine.state.device, memory_format=torch.channels_last_3d)
            return Made(engine.network.corrected(images), engine.averaged(images))

    def _use(self, made: Made) -> int:
        watched = made.finest()[0] == self.label
        return int(min(watched.sum(), (~watched).sum()))


@contextmanager
def own_random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from a seed; afterwards those of the training go on as if none had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**64)  # what is counted on from the largest seed begins anew
        yield


def noise_diversity(made: Sequence[Made]) -> float | None:
    """Of the voxels in which the SR of two noises is not what the LR says in both, the share in which the two differ.

    0 where the noise changes nothing. LR voxels that come out of hiding with one noise and not with the other are left out: their change is
    none that was learned.

    Returns:
        None where there is no such LR voxel.
    """
    differing, detail, voxels = 0, 0, 0
    for one in made:
        lr, sr, scale = one.finest()
        lr = lr.repeat(scale, 1).repeat(scale, 2).repeat(scale, 3)
        for a, b in combinations(range(len(sr)), 2):
            alike = lr[a] == lr[b]
            voxels += int(alike.sum())
            differing += int(((sr[a] != sr[b]) & alike).sum())
            detail += int((((sr[a] != lr[a]) | (sr[b] != lr[b])) & alike).sum())
    return None if voxels == 0 else differing / max(detail, 1)


def agreement(made: Sequence[Made], label: int, n_phases: int) -> float | None:
    """Share of the LR voxels of a label whose block in the SR has the same majority; see `metrics.lr_agreement`.

    Returns:
        None where the patches hold none of it.
    """
    names = [str(phase) for phase in range(n_phases)]
    row = np.zeros(n_phases, dtype=np.int64)
    for lrs, srs, scale in (one.finest() for one in made):
        for lr, sr in zip(lrs, srs):
            row += np.array(lr_agreement(lr, sr, scale, names)["confusion"][label])
    return float(row[label] / row.sum()) if row.sum() else None


def slice_diversity(buffer: SliceBuffer, name: str, images: Sequence[np.ndarray], n_phases: int) -> float | None:
    """Mean share of pixels in which the label slices of two generator steps differ, over that of HR crops.

    Two crops at independent places differ in 1 - sum p^2 of their pixels, p being the volume fractions of the images (Simpson 1949). 1 where
    the slices are as various as the images, 0 where all are the same.

    Args:
        buffer: slices of the last generator steps.
        name: of the ring: plane group and scale.
        images: of the group, label arrays (y, x).
        n_phases: of the images.

    Returns:
        None where the images are of one phase, or fewer than two steps are remembered.
    """
    expected = 1 - float(np.square(volume_fractions(images, n_phases)).sum())
    steps = [slices[:: max(1, len(slices) // 4)].argmax(1).flatten(1) for slices, _ in buffer.rings.get(name, [])]  # some of every plane
    if len(steps) < 2 or expected <= 0:
        return None
    labels = F.one_hot(torch.cat(steps), n_phases).flatten(1).float()
    step = torch.repeat_interleave(torch.arange(len(steps)), torch.tensor([len(slices) for slices in steps])).to(labels.device)
    same = labels @ labels.T / (labels.shape[1] // n_phases)
    return float((1 - same)[step[:, None] != step].mean()) / expected
