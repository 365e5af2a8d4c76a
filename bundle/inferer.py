"""Super-resolution window by window, equal to the whole volume at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from monai.inferers import Inferer
from monai.networks import eval_mode
from torch import Tensor, nn
from torch.nn import functional as F

from bundle.errors import InputError, check_seed, switch, whole
from bundle.io.region import boxes, replicated
from bundle.memory import choose_core, free_memory, lack_of_memory
from bundle.networks.noise import coordinate_noise

logger = logging.getLogger(__name__)

Read = Callable[[Sequence[int], Sequence[int]], np.ndarray]
"""Labels of a box from its first voxel to the one behind its last, which may lie beyond the border."""
Item, Result = TypeVar("Item"), TypeVar("Result")


class Window(NamedTuple):
    """What a window gave, and its place in the box that was asked for, fine voxels."""

    place: tuple[slice, slice, slice]
    labels: Tensor
    """uint8 (d, h, w)."""
    probabilities: Tensor
    """float32 (phases, d, h, w), empty if not asked for."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; others imitate it, and slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return True
    arm = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("SVE256", "DEFAULT")
    return arm and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class WindowInferer(Inferer):
    """Cuts the LR volume into cores on a fixed grid and runs the generator on each with its receptive field around it.

    Only what is exact is kept, so neighbouring windows meet without a seam, nothing is blended, and `core` decides on memory and
    speed alone. Beyond the border of the volume the labels are replicated and the noise goes on. The noise depends on the seed and
    the position only: one seed, one rock, however it is cut.

    Args:
        core: edge of a core, LR voxels; None takes the largest that half of the free memory holds.
        seed: of the noise: each seed is another realisation of the same rock.
        output: what a call gives: "labels" (uint8, the most probable phase) or "probabilities" (float32).
        noise_std: standard deviation of the noise; 1 as in training, 0 for none.
        amp: runs the network under bfloat16 autocast; None where the device computes in it.
        processes: that share the memory of this machine.
    """

    def __init__(
        self,
        core: int | None = None,
        seed: int = 0,
        output: str = "labels",
        noise_std: float = 1.0,
        amp: bool | None = False,
        processes: int = 1,
    ):
        super().__init__()
        core = None if core == "null" else core  # as the command line gives it
        if output not in ("labels", "probabilities"):
            raise InputError(f"output: {output} is neither labels nor probabilities")
        if isinstance(noise_std, (str, bool)) or not 0 <= noise_std < float("inf"):
            raise InputError(f"noise_std: {noise_std} is no standard deviation; give 1, or 0 for no noise")
        self.core = None if core is None else whole(core, "core", "LR voxels, such as 16, or null", 1)
        self.seed, self.output, self.noise_std, self.processes = check_seed(seed), output, float(noise_std), int(processes)
        self.amp = None if amp is None else switch(amp, "amp")
        self._chosen: tuple[nn.Module | None, int, int] = None, 0, 0  # for which network and longest edge, and the core

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Super-resolve one volume in memory.

        Args:
            inputs: LR labels (1, 1, D, H, W).
            network: a generator with `halo`, `scale_factor`, `in_channels`, `out_channels`, `noise_windows` and `window`; runs where its
                weights are, in evaluation mode.

        Returns:
            on the CPU, labels (1, 1, sD, sH, sW) uint8 or probabilities (1, phases, sD, sH, sW) float32.

        Raises:
            ValueError: `inputs` is not one volume of labels.
            InputError: too little memory.
        """
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"one volume of labels (1, 1, D, H, W) is needed, not {tuple(inputs.shape)}")
        labels = inputs[0, 0].cpu().numpy()
        wants_labels, shape = self.output == "labels", [network.scale_factor * n for n in labels.shape]
        result = torch.empty((1, *shape), dtype=torch.uint8) if wants_labels else torch.empty((network.out_channels, *shape))
        for window in self.windows(partial(replicated, labels), network, (0, 0, 0), labels.shape, self.seed, not wants_labels):
            result[(slice(None), *window.place)] = window.labels[None] if wants_labels else window.probabilities
        return result[None]

    def windows(
        self, read: Read, network: nn.Module, start: Sequence[int], shape: Sequence[int], seed: int, probabilities: bool = False
    ) -> Iterator[Window]:
        """Super-resolve a box of a volume, window by window; while a GPU computes one the next is read.

        Args:
            read: gives the labels of any box, as `LabelSource.read` does.
            network: as for a call.
            start, shape: of the box (z, y, x), LR voxels.
            seed: of the noise.
            probabilities: of the phases, beside the labels.

        Raises:
            InputError: too little memory.
        """
        scale, core = int(network.scale_factor), self.core_for(network, max(shape), probabilities)
        device = next(network.parameters()).device
        amp = self.precision(device) == "bfloat16"
        cores = list(boxes(shape, core))
        jobs = [([a + b for a, b in zip(start, low)], size) for low, size in cores]
        prepare = partial(self._prepared, read, network, seed, device, core)
        ready = ahead(prepare, jobs) if _is_gpu(device) else map(prepare, jobs)  # a processor would only take from itself
        for (low, size), (image, noise) in zip(cores, ready):
            with _room_for_window(core, device), eval_mode(network), torch.autocast(device.type, torch.bfloat16, enabled=amp):
                labels, phases = network.window(image, noise, True, probabilities)
            place = tuple(slice(scale * a, scale * (a + n)) for a, n in zip(low, size))
            yield Window(place, labels[0, 0], phases[0] if probabilities else phases)

    def precision(self, device: torch.device | str) -> str:
        """The precision of the network on a device: bfloat16 or float32."""
        return "bfloat16" if (has_bfloat16(torch.device(device)) if self.amp is None else self.amp) else "float32"

    def free(self, device: torch.device) -> int:
        """Bytes that this process may take, of those that are free."""
        return free_memory(device) // self.processes

    def core_for(self, network: nn.Module, most: int, probabilities: bool = False, reserved: int = 0) -> int:
        """Edge of the windows of a box whose longest edge is `most`. Chosen once: later what is free is not what was.

        Args:
            network: as for a call.
            most: LR voxels.
            probabilities: of the phases, beside the labels.
            reserved: bytes that something else will take.

        Raises:
            InputError: too little memory.
        """
        if self._chosen[0] is not network or self._chosen[1] < most:
            device = next(network.parameters()).device
            amp, free = self.precision(device) == "bfloat16", self.free(device) - reserved
            self._chosen = network, most, choose_core(network, amp, free, most, self.core, probabilities)
            logger.debug(f"windows of {self._chosen[2]} LR voxels")
        return min(self._chosen[2], most)

    def _prepared(
        self, read: Read, network: nn.Module, seed: int, device: torch.device, core: int, job: tuple[Sequence[int], Sequence[int]]
    ) -> tuple[Tensor, list[Tensor]]:
        """One-hot labels with noise, and the noise of the finer levels, on their way to the device; `job` is the start and shape of a core."""
        start, shape = job
        low, high = [a - network.halo for a in start], [a + n + network.halo for a, n in zip(start, shape)]
        labels = torch.from_numpy(read(low, high))
        onehot = F.one_hot(labels[None].long(), network.in_channels - 1).movedim(-1, 1)
        image = torch.cat([onehot.float(), self._noise(seed, 1, low, labels.shape)], 1).contiguous(memory_format=torch.channels_last_3d)
        noise = [self._noise(seed, s, [s * a + offset for a in start], noise_shape) for s, offset, noise_shape in network.noise_windows(list(shape))]
        with _room_for_window(core, device):
            return _sent(image, device), [_sent(one, device) for one in noise]

    def _noise(self, seed: int, scale: int, start: Sequence[int], shape: Sequence[int]) -> Tensor:
        return self.noise_std * coordinate_noise(seed, scale, tuple(start), tuple(shape))[None, None]


def _room_for_window(core: int, device: torch.device) -> AbstractContextManager[None]:
    return lack_of_memory(f"core: windows of {core} LR voxels", f"set core to {max(1, core // 2)}", device)


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory, so that the copy does not hold anything up."""
    return x.pin_memory().to(device, non_blocking=True) if _is_gpu(device) else x.to(device)


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` that computes the next result in a thread while the caller works with this one."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            following = thread.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
