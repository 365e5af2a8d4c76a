"""Super-resolution of a volume window by window, equal to the whole volume at once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks import eval_mode
from monai.utils import MetaKeys
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bundle.errors import InputError
from bundle.io.volume import super_resolved_affine
from bundle.networks.noise import coordinate_noise

Triple = tuple[int, int, int]


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
        scratch_dir: folder for a temporary file that holds the result while it is made, for results larger than memory; the file is
            gone when the result is freed. None keeps it in memory.
        progress: shows a bar with voxels per second and the time left.
    """

    def __init__(
        self,
        core: int = 16,
        seed: int = 0,
        output: str = "labels",
        noise_std: float = 1.0,
        amp: bool = False,
        scratch_dir: str | Path | None = None,
        progress: bool = True,
    ):
        super().__init__()
        if int(core) != core or core < 1:
            raise InputError(f"core: {core} is not a window size; give a whole number of LR voxels, such as 16")
        if output not in ("labels", "probabilities"):
            raise InputError(f"output: {output} is neither labels nor probabilities")
        if noise_std < 0:
            raise InputError(f"noise_std: {noise_std} is negative; give 1, or 0 for no noise")
        self.core, self.seed, self.output, self.noise_std = int(core), int(seed), output, float(noise_std)
        self.amp, self.scratch_dir, self.progress = amp, scratch_dir, progress

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Super-resolve one volume.

        Args:
            inputs: LR labels (1, 1, D, H, W), on any device. They become one-hot inside a window only, so a large volume stays uint8.
            network: a generator with `halo`, `scale_factor`, `in_channels`, `out_channels`, `noise_windows` and `forward_window`; runs
                where its weights are, in evaluation mode.

        Returns:
            on the CPU, labels (1, 1, sD, sH, sW) uint8 or probabilities (1, phases, sD, sH, sW) float32; a MetaTensor with the affine
            of the finer grid where `inputs` is one.

        Raises:
            InputError: `scratch_dir` cannot hold the result.
            ValueError: `inputs` is not one volume of labels.
        """
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"one volume of labels (1, 1, D, H, W) is needed, not {tuple(inputs.shape)}")
        labels = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        size, scale = tuple(labels.shape[2:]), int(network.scale_factor)
        channels, dtype = (1, torch.uint8) if self.output == "labels" else (network.out_channels, torch.float32)
        result = self._allocate((1, channels, *(scale * n for n in size)), dtype)
        bar = tqdm(total=prod(size) * scale**3, desc="super-resolution", unit="voxel", unit_scale=True, disable=not self.progress)
        with bar, eval_mode(network):
            for start, shape in self.cores(size):
                probabilities = self._window(labels, network, start, shape)
                place = tuple(slice(scale * a, scale * (a + n)) for a, n in zip(start, shape))
                finished = probabilities.argmax(1, keepdim=True).to(dtype) if self.output == "labels" else probabilities.to(dtype)
                result[(..., *place)] = finished.to(result.device)
                bar.update(prod(shape) * scale**3)
        return _finer(result, inputs, scale) if isinstance(inputs, MetaTensor) else result

    def cores(self, size: Sequence[int]) -> Iterator[tuple[Triple, Triple]]:
        """Start and shape (z, y, x) of every core of a volume, in LR voxels; the last ones are cut at the border."""
        for start in product(*(range(0, n, self.core) for n in size)):
            yield start, tuple(min(self.core, n - a) for a, n in zip(start, size))

    def _window(self, labels: Tensor, network: nn.Module, start: Triple, shape: Triple) -> Tensor:
        """Probabilities of a core: (1, phases, s d, s h, s w), on the network's device."""
        device, halo = next(network.parameters()).device, network.halo
        low, high = [a - halo for a in start], [a + n + halo for a, n in zip(start, shape)]
        inside = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, labels.shape[2:]))
        outside = [p for a, b, n in zip(low, high, labels.shape[2:]) for p in (max(-a, 0), max(b - n, 0))]
        # F.pad counts axes from the last one
        outside = [outside[i] for i in (4, 5, 2, 3, 0, 1)]
        window = F.pad(labels[(..., *inside)].to(device).float(), outside, mode="replicate")
        onehot = F.one_hot(window[0].long(), network.in_channels - 1).movedim(-1, 1)
        noise = [self._noise(1, low, window.shape[2:], device)]
        for scale, offset, noise_shape in network.noise_windows(list(shape)):
            noise.append(self._noise(scale, [scale * a + offset for a in start], noise_shape, device))
        image = torch.cat([onehot.float(), noise[0]], 1).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, enabled=self.amp):
            return network.forward_window(image, noise[1:])

    def _noise(self, scale: int, start: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
        return (self.noise_std * coordinate_noise(self.seed, scale, tuple(start), tuple(shape))).to(device)[None, None]

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room for the result, in memory or in a nameless file, which no crash leaves behind."""
        if self.scratch_dir is None:
            return torch.empty(shape, dtype=dtype)
        needed = prod(shape) * dtype.itemsize
        try:
            Path(self.scratch_dir).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.scratch_dir).free
            if free < needed:  # a map of a full disk would kill the process without a word
                sizes = f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed"
                raise InputError(f"{self.scratch_dir}: {sizes}; set scratch_dir to another disk")
            with tempfile.TemporaryFile(dir=self.scratch_dir) as file:
                return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=(needed,))).view(dtype).view(shape)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.scratch_dir}: cannot be written ({reason}); set scratch_dir to another folder") from error


def _finer(result: Tensor, inputs: MetaTensor, scale: int) -> MetaTensor:
    """`result` with the metadata of `inputs` on the finer grid; a batch of a DataLoader has one affine for each volume."""
    affine = np.asarray(inputs.affine, dtype=float)
    finer = np.stack([super_resolved_affine(a, scale) for a in affine.reshape(-1, 4, 4)]).reshape(affine.shape)
    finer_image = MetaTensor(result, meta=deepcopy(inputs.meta))
    finer_image.affine = torch.from_numpy(finer)
    finer_image.meta[MetaKeys.SPATIAL_SHAPE] = torch.tensor(result.shape[2:]).expand(*affine.shape[:-2], 3)
    finer_image.is_batch = inputs.is_batch
    return finer_image
