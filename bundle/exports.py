"""The trained generator for programs without this bundle: TorchScript and ONNX, for volumes of any size."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.bundle import ConfigParser, ckpt_export
from torch import Tensor, nn

from bundle.checkpoint import load_checkpoint
from bundle.errors import InputError
from bundle.io.atomic import atomic_path
from bundle.networks.generator import LevelGenerator

LARGEST = 512  # LR voxels along an axis of a window


class WindowGenerator(nn.Module):
    """The generator as a function of everything that it depends on, the noise of each level too.

    Exact for a core of D x H x W LR voxels: `image` (1, labels + 1, D + 2 halo, …), one-hot labels and standard normal noise, and for each level of
    x2 its noise (1, 1, scale D + 2 margin, …), as `noise_windows` of the generator says -> probabilities (1, phases, scale D, …).
    """

    def __init__(self, network: LevelGenerator):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, *noise: Tensor) -> Tensor:
        """See the class; all of the finest level at once, as exporters know no loop whose length depends on the size."""
        x, logits = self.network.coarse(image)
        for k, level in enumerate(self.network.levels):
            x, logits = level(x, logits, noise[k])
            if k + 1 < len(self.network.levels):
                x, logits = self.network.inner(k, x, logits)
        return self.network.probabilities(logits)


def export_torchscript(config: Path, model: Path, path: Path) -> None:
    """Write `network_def` of a config with the weights of a model as TorchScript, by MONAI's own command.

    It takes whole volumes (B, labels + 1, D, H, W) and draws the noise of the levels itself.
    """
    ckpt_export("network_def", filepath=str(path), ckpt_file=str(model), config_file=str(config), key_in_ckpt="model")


def export_onnx(config: Path, model: Path, path: Path) -> None:
    """Write a `WindowGenerator` as ONNX (opset 20), with sizes left open; inputs `image`, `noise_2x`, `noise_4x`, …, output `pred`.

    MONAI's `onnx_export` knows modules of one input; here the noise goes in from outside, so that the result is one of the seed alone.

    Args:
        config: with a `LevelGenerator` as `network_def`.
        model: weights, as training writes them.
        path: of the file.

    Raises:
        InputError: the extra `export` is not installed, or the generator is another one.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"the export to ONNX needs {error.name}: pip install -c constraints.txt -e '.[export]'") from error
    parser = ConfigParser()
    parser.read_config(str(config))
    network = parser.get_parsed_content("network_def").eval()
    if not isinstance(network, LevelGenerator):
        raise InputError(f"{config}: the export to ONNX knows LevelGenerator, not {type(network).__name__}")
    network.load_state_dict(load_checkpoint(model)["model"])
    core = [2, 3, 4]  # of unequal edges, so that none is taken for another
    windows = network.noise_windows(core)
    example = [torch.rand(1, network.in_channels, *[n + 2 * network.halo for n in core])]
    example += [torch.rand(1, 1, *shape) for _, _, shape in windows]
    sizes = [torch.export.Dim(axis, min=1, max=LARGEST) for axis in ("depth", "height", "width")]
    open_sizes = [{2 + i: size + 2 * network.halo for i, size in enumerate(sizes)}]
    open_sizes += [{2 + i: scale * size - 2 * offset for i, size in enumerate(sizes)} for scale, offset, _ in windows]
    program = torch.onnx.export(
        WindowGenerator(network).eval(), tuple(example), dynamo=True, opset_version=20, verbose=False,
        dynamic_shapes=(open_sizes[0], tuple(open_sizes[1:])),
        input_names=["image", *(f"noise_{scale}x" for scale, _, _ in windows)], output_names=["pred"],
    )  # fmt: skip
    with atomic_path(path) as partial:
        program.save(str(partial))
