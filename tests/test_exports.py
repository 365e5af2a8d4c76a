"""TorchScript and ONNX give what the generator gives, for sizes that the export never saw."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bundle import exports
from bundle.checkpoint import save_model
from bundle.errors import InputError
from bundle.networks.generator import LevelGenerator

PHASES = ["pore", "quartz", "clay"]
CONFIG = """
network_def: {_target_: bundle.networks.generator.LevelGenerator, in_channels: 4, out_channels: 3, channels: [6, 4, 4], blocks: 1, grain_radius: 2}
"""


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    torch.manual_seed(0)
    network = LevelGenerator(4, 3, channels=(6, 4, 4), blocks=1, grain_radius=2).eval()
    network.hidden.hide([[0, 0, 0], [0, 0, 0.3], [0, 0, 0]])
    (tmp_path / "inference.yaml").write_text(CONFIG)
    save_model(tmp_path / "model.pt", network, PHASES, PHASES)
    return {"config": tmp_path / "inference.yaml", "model": tmp_path / "model.pt", "network": network}


def window(network: LevelGenerator, core: tuple[int, int, int], seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    around = [n + 2 * network.halo for n in core]
    labels = F.one_hot(torch.randint(3, [1, *around], generator=draw), 3).movedim(-1, 1).float()
    image = torch.cat([labels, torch.randn(1, 1, *around, generator=draw)], 1)
    return image, [torch.randn(1, 1, *shape, generator=draw) for _, _, shape in network.noise_windows(list(core))]


def test_onnx_equals_eager_at_other_sizes(files, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    exports.export_onnx(files["config"], files["model"], tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["image", "noise_2x", "noise_4x"]
    network = files["network"]
    for core in ((2, 3, 4), (6, 1, 3)):
        image, noise = window(network, core, sum(core))
        with torch.no_grad():
            expected = network.forward_window(image, noise)
        found = session.run(None, {given.name: part.numpy() for given, part in zip(session.get_inputs(), [image, *noise])})[0]
        assert found.shape == (1, 3, *(4 * n for n in core))
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=5e-5)


def test_the_exported_function_is_the_generator_s(files):
    """All at once and block by block."""
    network = files["network"]
    network.block = 3
    image, noise = window(network, (4, 2, 3), 1)
    with torch.no_grad():
        torch.testing.assert_close(exports.WindowGenerator(network)(image, *noise), network.forward_window(image, noise), rtol=1e-4, atol=5e-5)


def test_torchscript_equals_eager_at_other_sizes(files, tmp_path):
    exports.export_torchscript(files["config"], files["model"], tmp_path / "model.ts")
    scripted = torch.jit.load(str(tmp_path / "model.ts")).eval()
    for shape in ((5, 4, 6), (3, 7, 2)):
        labels = F.one_hot(torch.randint(3, (1, *shape)), 3).movedim(-1, 1).float()
        image, outputs = torch.cat([labels, torch.randn(1, 1, *shape)], 1), []
        for module in (files["network"], scripted):
            torch.manual_seed(2)  # the noise of the levels is drawn inside
            with torch.no_grad():
                outputs.append(module(image))
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("end", [".blur", "label_blur"], ids=["0.9.3", "0.9.4"])
def test_weights_of_older_versions_do_what_they_did(files, tmp_path, end):
    """They lack what blurs the noise, or the labels that the trunk sees: they stay as they are in what is exported, too."""
    model = torch.load(files["model"], weights_only=True)
    model["model"] = {key: value for key, value in model["model"].items() if not key.endswith(end)}
    torch.save(model, tmp_path / "old.pt")
    exports.export_torchscript(files["config"], tmp_path / "old.pt", tmp_path / "model.ts")
    scripted = torch.jit.load(str(tmp_path / "model.ts")).eval()
    labels = F.one_hot(torch.randint(3, (1, 4, 3, 5)), 3).movedim(-1, 1).float()
    image, outputs = torch.cat([labels, torch.randn(1, 1, 4, 3, 5)], 1), []
    blurred, white = files["network"], copy.deepcopy(files["network"])
    (white.levels[0].blur if end == ".blur" else white.label_blur).zero_()
    for module in (scripted, white, blurred):
        torch.manual_seed(2)
        with torch.no_grad():
            outputs.append(module(image))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=5e-5)
    assert (outputs[1] - outputs[2]).abs().max() > 0.01


def test_another_generator_is_refused(tmp_path):
    pytest.importorskip("onnxscript")
    (tmp_path / "inference.yaml").write_text("network_def: {_target_: torch.nn.Identity}")
    with pytest.raises(InputError, match="knows LevelGenerator, not Identity"):
        exports.export_onnx(tmp_path / "inference.yaml", tmp_path / "model.pt", tmp_path / "model.onnx")


def test_without_the_extra_it_says_what_to_install(files, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install .*\[export\]"):
        exports.export_onnx(files["config"], files["model"], tmp_path / "model.onnx")
