"""Super-resolution from disk to disk, shard by shard, in flat memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from monai.inferers import Inferer
from torch import nn
from tqdm import tqdm

from bundle.errors import InputError, switch, whole
from bundle.inferer import WindowInferer
from bundle.io import Volume, super_resolved_affine
from bundle.io.source import LabelSource
from bundle.memory import lack_of_memory, size_text
from bundle.metrics import upsample_nearest
from bundle.store import SUFFIX, LabelStore, PercentStore, ShardStore
from bundle.trust import Trust
from bundle.votes import entropy_percent, majority_of_votes

logger = logging.getLogger(__name__)

COUNT_EVERY = 5.0  # seconds
LABELS, PROBABILITIES, UNCERTAINTY, MAJORITY, TRUST = "labels", "probabilities", "uncertainty", "majority", "trust"


class StoreInferer(Inferer):
    """Super-resolves a volume on disk into stores, shard by shard: in flat memory, and it can be killed at any time and goes on.

    Several processes share the work without a word to each other: shard i belongs to process i modulo their number, and what is finished is
    left as it is. While a shard is written the next one is computed.

    Args:
        window: makes the windows of a shard.
        path: of the labels, `<name>.ome.zarr`; the others are `<name>_probabilities.ome.zarr` and so on.
        phases: names of the result's labels.
        fingerprint: what else the labels are made from, such as the checksum of the weights; a store made otherwise is refused.
        shard: edge of a shard, LR voxels.
        probabilities: a store of the softmax of each phase, in per cent.
        uncertainty: number of noise seeds that vote, `window.seed` and those after it; a store of the entropy of their votes in per cent of
            the largest possible: 0 where all agree, 100 where all phases have equally many; and one of the label that most of them gave, the best
            guess of each voxel, smoother than any rock. 0 for none.
        trust: turns the votes into a store of the chance, in per cent, that a label of the result is right; None, or no votes, for none.
        rank, world_size: this process, of how many.
        progress: shows a bar with voxels per second, the time left and the shards done of all.

    Attributes:
        made: shards that the last call made.
    """

    def __init__(
        self,
        window: WindowInferer,
        path: str | Path,
        phases: Sequence[str],
        fingerprint: Mapping[str, Any],
        shard: int = 32,
        probabilities: bool = False,
        uncertainty: int = 0,
        trust: Trust | None = None,
        rank: int = 0,
        world_size: int = 1,
        progress: bool = True,
    ):
        super().__init__()
        shard = whole(shard, "shard", "LR voxels, such as 32", 1)
        uncertainty = whole(uncertainty, "uncertainty", "seeds, such as 8, or 0 for none", 0, 254)
        if uncertainty == 1:
            raise InputError("uncertainty: 1 seed has none to differ from; give 2 to 254, such as 8, or 0 for none")
        if uncertainty and not window.noise_std:
            raise InputError(f"uncertainty: without noise all {uncertainty} seeds are alike, and say nothing; set noise_std to 1, or uncertainty to 0")
        if not 0 <= rank < world_size:
            raise InputError(f"rank: {rank} of {world_size} processes; give 0 to {world_size - 1}")
        self.window, self.path, self.phases, self.fingerprint = window, Path(path), list(phases), dict(fingerprint)
        self.shard, self.probabilities, self.uncertainty = shard, switch(probabilities, "probabilities"), uncertainty
        self.trust = trust if self.uncertainty else None
        self.rank, self.world_size, self.progress = int(rank), int(world_size), progress
        self.made = 0

    def __call__(self, inputs: LabelSource, network: nn.Module, *args: Any, **kwargs: Any) -> dict[str, ShardStore]:
        """Super-resolve this process's shards that are not finished yet.

        Args:
            inputs: the LR labels.
            network: as for `WindowInferer`.

        Returns:
            the stores by what they hold: "labels", "probabilities", "uncertainty", "majority", "trust". Whether all of them is there `missing` says,
            as other processes may still be at work.

        Raises:
            InputError: a store made otherwise; the disk is full; the LR file changed; too little memory.
        """
        scale, edge = int(network.scale_factor), min(self.shard, max(inputs.shape))
        device = next(network.parameters()).device
        # before anything is written, so that too little memory leaves nothing
        self.window.core_for(network, edge, self.probabilities, 0 if device.type == "cuda" else self._reserved(inputs.shape, network))
        stores = self._stores(inputs, network)
        own = list(stores[LABELS].shards())[self.rank :: self.world_size]
        open_stores = {start: [name for name, store in stores.items() if not store.finished(start)] for start, _ in own}
        missing = [(start, shape) for start, shape in own if open_stores[start]]
        for start, _ in missing:
            for name in open_stores[start]:
                stores[name].discard(start)  # else a damaged one would count as there for the others
        self.made = len(missing)
        if len(missing) < len(own):
            logger.info(f"{self.path}: {len(own) - len(missing)} of {len(own)} shards are finished already")
        passes = max(1, self.uncertainty)
        total = passes * sum(prod(shape) for _, shape in own)
        room = lack_of_memory(
            f"shard: shards of {self.shard} LR voxels",
            f"set shard to {max(1, self.shard // 2)} and choose another output_dir, or run fewer processes",
        )
        with room, tqdm(total=total, unit="voxel", unit_scale=True, disable=not self.progress) as bar, ThreadPoolExecutor(1) as writer:
            bar.update(total - passes * sum(prod(shape) for _, shape in missing))
            bar.initial = bar.n  # what is there already tells nothing of the speed
            writing: Future | None = None
            count_at = 0.0
            for start, shape in missing:
                begun = time.monotonic()
                if self.progress and begun >= count_at:  # of a large store it takes a while: a twentieth of the time at most
                    bar.set_description(_progress(stores))
                    count_at = time.monotonic() + max(COUNT_EVERY, 20 * (time.monotonic() - begun))
                made = self._shard(inputs, network, [a // scale for a in start], [n // scale for n in shape], scale, bar)
                if writing:
                    writing.result()  # its errors, too
                writing = writer.submit(_write, {stores[name]: made[name] for name in open_stores[start]}, start)
            if writing:
                writing.result()
            if self.progress:
                bar.set_description(_progress(stores))
        return stores

    def _reserved(self, shape: Sequence[int], network: nn.Module) -> int:
        """Bytes that two shards, one made and one written, take of a volume of so many LR voxels.

        Raises:
            InputError: more than are free, or too few even for a window.
        """
        layers = 1 + len(self.phases) * (self.probabilities + bool(self.uncertainty)) + 2 * bool(self.uncertainty) + 2 * bool(self.trust)

        def taken(edge: int) -> int:
            return 2 * layers * prod(int(network.scale_factor) * min(edge, n) for n in shape)

        free = self.window.free(next(network.parameters()).device)
        if taken(self.shard) >= free:
            self.window.core_for(network, min(self.shard, max(shape)), self.probabilities)  # says so where no window fits, whatever the shard
            fitting = next((n for power in range(self.shard.bit_length()) if taken(n := self.shard >> power) <= free / 2), 1)
            raise InputError(
                f"shard: shards of {self.shard} LR voxels take {size_text(taken(self.shard))} of memory, {size_text(free)} are free; "
                f"set shard to {fitting} and choose another output_dir, or run fewer processes"
            )
        return taken(self.shard)

    def _stores(self, inputs: LabelSource, network: nn.Module) -> dict[str, ShardStore]:
        scale = int(network.scale_factor)
        made_of = {
            **self.fingerprint,
            "lr_sha256": inputs.checksum_around(network.halo),
            "start in lr": list(inputs.start),  # on which the noise depends
            "seed": self.window.seed,
            "noise_std": self.window.noise_std,
            "precision (amp)": self.window.precision(next(network.parameters()).device),
            "network": _settings(network),
        }
        fine = Volume.from_affine(None, super_resolved_affine(Volume(None, inputs.voxel_size, inputs.origin).affine, scale))
        place = {
            "shape": [scale * n for n in inputs.shape],
            "shard": scale * self.shard,
            "voxel_size": fine.voxel_size,
            "origin": fine.origin,
            "phases": self.phases,
            "levels": scale.bit_length() - 1,
        }
        stores: dict[str, ShardStore] = {LABELS: LabelStore(self.path, fingerprint=made_of, **place)}
        if self.probabilities:
            path = beside(self.path, PROBABILITIES)
            stores[PROBABILITIES] = PercentStore(path, fingerprint=made_of, channels=len(self.phases), **place)
        if self.uncertainty:
            voted = {**made_of, "uncertainty": self.uncertainty}
            stores[UNCERTAINTY] = PercentStore(beside(self.path, UNCERTAINTY), fingerprint=voted, **place)
            stores[MAJORITY] = LabelStore(beside(self.path, MAJORITY), fingerprint=voted, **place)
            if self.trust:
                told = {**voted, "trust": self.trust.table.round(4).tolist()}
                stores[TRUST] = PercentStore(beside(self.path, TRUST), fingerprint=told, **place)
        return stores

    def _shard(
        self, inputs: LabelSource, network: nn.Module, start: Sequence[int], shape: Sequence[int], scale: int, bar: tqdm
    ) -> dict[str, np.ndarray]:
        """Everything asked for of a shard: uint8 (s d, s h, s w), probabilities (phases, s d, s h, s w)."""
        fine, phases = [scale * n for n in shape], len(self.phases)
        made = {LABELS: np.empty(fine, np.uint8)}
        if self.probabilities:
            made[PROBABILITIES] = np.empty((phases, *fine), np.uint8)
        votes = np.zeros((phases, *fine), np.uint8) if self.uncertainty else None
        place = [a + b for a, b in zip(inputs.start, start)]  # in the volume: a region is the same rock as there
        for i in range(max(1, self.uncertainty)):
            first = i == 0
            for window in self.window.windows(inputs.read, network, place, shape, self.window.seed + i, first and self.probabilities):
                labels = window.labels.cpu().numpy()
                if first:
                    made[LABELS][window.place] = labels
                if first and self.probabilities:
                    made[PROBABILITIES][(slice(None), *window.place)] = (100 * window.probabilities).round().byte().cpu().numpy()
                if votes is not None:
                    for phase in range(phases):
                        votes[(phase, *window.place)] += labels == phase
                bar.update(labels.size)
        if votes is not None:
            made[UNCERTAINTY] = entropy_percent(votes, self.uncertainty)
            made[MAJORITY] = majority_of_votes(made[LABELS], votes)
            if self.trust:
                scan = inputs[tuple(slice(a, a + n) for a, n in zip(start, shape))]
                made[TRUST] = self.trust.percent(made[LABELS], votes, self.uncertainty, made[LABELS] == upsample_nearest(scan, scale))
        return made


def _settings(network: nn.Module) -> dict[str, Any]:
    """What a generator does beside its weights: its class, and the numbers that it was made with, but for what changes its time and memory alone."""
    numbers = {name: value for name, value in vars(network).items() if isinstance(value, (int, float, list)) and not name.startswith("_")}
    return {"class": type(network).__name__} | {name: value for name, value in numbers.items() if name not in ("training", "block", "checkpointing")}


def beside(path: str | Path, what: str) -> Path:
    """The store of something else than labels: `<name>_<what>.ome.zarr`."""
    return Path(str(path).removesuffix(SUFFIX) + f"_{what}{SUFFIX}")


def missing_shards(stores: Mapping[str, ShardStore]) -> int:
    """How many shards of the stores are not there yet, whoever makes them."""
    return max(store.missing() for store in stores.values())


def _progress(stores: Mapping[str, ShardStore]) -> str:
    number = sum(1 for _ in stores[LABELS].shards())
    return f"shards {number - missing_shards(stores)}/{number}"


def _write(parts: Mapping[ShardStore, np.ndarray], start: tuple[int, int, int]) -> None:
    for store, voxels in parts.items():
        store.write(start, voxels)
        logger.debug(f"{store.path}: shard {start} of {voxels.shape} voxels written")
