"""Super-resolution window by window, equal to the whole volume at once; of volumes in memory, or from disk to disk in flat memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.networks import eval_mode
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bundle.errors import InputError
from bundle.io.region import boxes, replicated
from bundle.io.source import LabelSource
from bundle.networks.noise import coordinate_noise
from bundle.store import LabelStore

logger = logging.getLogger(__name__)

Read = Callable[[Sequence[int], Sequence[int]], np.ndarray]
"""Labels of a box from its first voxel to the one behind its last, which may lie beyond the border."""


class WindowInferer(Inferer):
    """Cuts the LR volume into cores on a fixed grid and runs the generator on each with its receptive field around it.

    Only what is exact is kept, so neighbouring windows meet without a seam, nothing is blended, and `core` decides on memory and
    speed alone. Beyond the border of the volume the labels are replicated and the noise goes on. The noise depends on the seed and
    the position only: one seed, one rock, however it is cut.

    Args:
        core: edge of a core, LR voxels.
        seed: of the noise: each seed is another realisation of the same rock.
        output: "labels" (uint8, the most probable phase) or "probabilities" (float32).
        noise_std: standard deviation of the noise; 1 as in training, 0 for none.
        amp: runs the network under autocast: float16 on a GPU, bfloat16 on a CPU.
    """

    def __init__(self, core: int = 16, seed: int = 0, output: str = "labels", noise_std: float = 1.0, amp: bool = False):
        super().__init__()
        if int(core) != core or core < 1:
            raise InputError(f"core: {core} is not a window size; give a whole number of LR voxels, such as 16")
        if output not in ("labels", "probabilities"):
            raise InputError(f"output: {output} is neither labels nor probabilities")
        if noise_std < 0:
            raise InputError(f"noise_std: {noise_std} is negative; give 1, or 0 for no noise")
        self.core, self.seed, self.output, self.noise_std, self.amp = int(core), int(seed), output, float(noise_std), amp

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Super-resolve one volume in memory.

        Args:
            inputs: LR labels (1, 1, D, H, W).
            network: a generator with `halo`, `scale_factor`, `in_channels`, `out_channels`, `noise_windows`, `forward_window` and
                `labels_window`; runs where its weights are, in evaluation mode.

        Returns:
            on the CPU, labels (1, 1, sD, sH, sW) uint8 or probabilities (1, phases, sD, sH, sW) float32.

        Raises:
            ValueError: `inputs` is not one volume of labels.
        """
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"one volume of labels (1, 1, D, H, W) is needed, not {tuple(inputs.shape)}")
        labels = inputs[0, 0].cpu().numpy()
        return self.box(partial(replicated, labels), network, (0, 0, 0), labels.shape)[None]

    def box(self, read: Read, network: nn.Module, start: Sequence[int], shape: Sequence[int], done: Callable[[int], Any] = lambda voxels: None) -> Tensor:
        """Super-resolve a box of a volume, core by core.

        Args:
            read: gives the labels of any box, as `LabelSource.read` does.
            network: as for a call.
            start, shape: of the box (z, y, x), LR voxels.
            done: is told of the fine voxels of every core.

        Returns:
            on the CPU, (1 or phases, s d, s h, s w).
        """
        scale = int(network.scale_factor)
        channels, dtype = (1, torch.uint8) if self.output == "labels" else (network.out_channels, torch.float32)
        result = torch.empty((channels, *(scale * n for n in shape)), dtype=dtype)
        with eval_mode(network):
            for core, size in boxes(shape, self.core):
                place = tuple(slice(scale * a, scale * (a + n)) for a, n in zip(core, size))
                result[(slice(None), *place)] = self._window(read, network, [a + b for a, b in zip(start, core)], size)[0].to(dtype).cpu()
                done(prod(size) * scale**3)
        return result

    def _window(self, read: Read, network: nn.Module, start: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Labels or probabilities of a core: (1, …, s d, s h, s w), on the network's device."""
        device, halo = next(network.parameters()).device, network.halo
        low, high = [a - halo for a in start], [a + n + halo for a, n in zip(start, shape)]
        window = torch.from_numpy(read(low, high)).to(device)
        onehot = F.one_hot(window[None].long(), network.in_channels - 1).movedim(-1, 1)
        noise = [self._noise(1, low, window.shape, device)]
        for scale, offset, noise_shape in network.noise_windows(list(shape)):
            noise.append(self._noise(scale, [scale * a + offset for a in start], noise_shape, device))
        image = torch.cat([onehot.float(), noise[0]], 1).contiguous(memory_format=torch.channels_last_3d)
        run = network.labels_window if self.output == "labels" else network.forward_window
        with torch.autocast(device.type, enabled=self.amp):
            return run(image, noise[1:])

    def _noise(self, scale: int, start: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
        return (self.noise_std * coordinate_noise(self.seed, scale, tuple(start), tuple(shape))).to(device)[None, None]


class StoreInferer(Inferer):
    """Super-resolves a volume on disk into a store, shard by shard: in flat memory, and it can be killed at any time and goes on.

    Several processes share the work without a word to each other: shard i belongs to process i modulo their number, and what is finished is
    left as it is.

    Args:
        window: makes the labels of a box.
        path: of the store, `<name>.ome.zarr`.
        phases: names of the result's labels.
        fingerprint: what else the labels are made from, such as the checksum of the weights; a store made otherwise is refused.
        shard: edge of a shard, LR voxels.
        rank, world_size: this process, of how many.
        progress: shows a bar with voxels per second, the time left and the shards done.
    """

    def __init__(
        self,
        window: WindowInferer,
        path: str | Path,
        phases: Sequence[str],
        fingerprint: Mapping[str, Any],
        shard: int = 32,
        rank: int = 0,
        world_size: int = 1,
        progress: bool = True,
    ):
        super().__init__()
        if window.output != "labels":
            raise InputError(f"output: a store holds labels, not {window.output}")
        if int(shard) != shard or shard < 1:
            raise InputError(f"shard: {shard} is no size; give a whole number of LR voxels, such as 32")
        self.window, self.path, self.phases, self.fingerprint = window, Path(path), list(phases), dict(fingerprint)
        self.shard, self.rank, self.world_size, self.progress = int(shard), int(rank), int(world_size), progress

    def __call__(self, inputs: LabelSource, network: nn.Module, *args: Any, **kwargs: Any) -> LabelStore:
        """Super-resolve this process's shards that are not finished yet.

        Args:
            inputs: the LR labels.
            network: as for `WindowInferer`.

        Returns:
            the store; whether all of it is there `LabelStore.missing` says, as other processes may still be at work.

        Raises:
            InputError: a store made otherwise; the disk is full; the LR file changed.
        """
        scale = int(network.scale_factor)
        made_of = {"lr_sha256": inputs.checksum, "seed": self.window.seed, "noise_std": self.window.noise_std, "amp": self.window.amp}
        store = LabelStore(
            self.path,
            [scale * n for n in inputs.shape],
            scale * self.shard,
            [v / scale for v in inputs.voxel_size],
            [o + v * (1 / scale - 1) / 2 for o, v in zip(inputs.origin, inputs.voxel_size)],
            self.phases,
            {**self.fingerprint, **made_of, "scale_factor": scale},
            levels=scale.bit_length() - 1,
        )
        own = list(store.shards())[self.rank :: self.world_size]
        missing = [shard for shard in own if not store.finished(shard[0])]
        if len(missing) < len(own):
            logger.info(f"{store.path}: {len(own) - len(missing)} of {len(own)} shards are finished already")
        total = sum(prod(shape) for _, shape in own)
        bar = tqdm(total=total, desc=f"shards 0/{len(own)}", unit="voxel", unit_scale=True, disable=not self.progress)
        with bar:
            bar.update(total - sum(prod(shape) for _, shape in missing))
            bar.initial = bar.n  # what is there already tells nothing of the speed
            for i, (start, shape) in enumerate(missing, len(own) - len(missing)):
                bar.set_description(f"shards {i}/{len(own)}")
                labels = self.window.box(inputs.read, network, [a // scale for a in start], [n // scale for n in shape], bar.update)
                store.write(start, labels[0].numpy())
                logger.debug(f"shard {start} of {shape} voxels written")
            bar.set_description(f"shards {len(own)}/{len(own)}")
        return store

