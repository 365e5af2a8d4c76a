"""`run training` with hr_synthesis.yaml, `run inference`, `run gating`, and training with what they made, from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from bundle.errors import find_input_error
from bundle.io import read_images
from bundle.metrics import statistics
from bundle.transforms.adaptive import AdaptiveAugmentation
from tests.comparison import same

TINY = {"resolution": 16, "channels": 4, "most_channels": 8, "batch_size": 4, "epoch_length": 2, "path_interval": 2, "r1_interval": 2}
NETWORK = {key: TINY[key] for key in ("resolution", "channels", "most_channels")}


@pytest.fixture
def cli(tmp_path, bundle_root) -> Callable[..., subprocess.CompletedProcess]:
    """`python -m monai.bundle run` from a folder that is not the bundle's."""

    def run(workflow: str, config: str, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "monai.bundle", "run", workflow, "--config_file", str(bundle_root / "configs" / config)]
        return subprocess.run([*command, *(f"--{k}={v}" for k, v in options.items())], cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


def images(number: int = 3, edge: int = 32, seed: int = 0) -> np.ndarray:
    """Label images of four phases: smooth noise, cut at its quartiles."""
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(edge, edge)), 2, mode="wrap") for _ in range(number)]
    return np.stack([np.digitize(one, np.quantile(one, [0.25, 0.5, 0.75])) for one in smooth]).astype(np.uint8)


def write(path: Path, array: np.ndarray, pixel: float = 0.5) -> Path:
    tifffile.imwrite(path, array, imagej=True, resolution=(1 / pixel, 1 / pixel), metadata={"axes": "ZYX", "unit": "um", "spacing": pixel})
    return path


def refused(result: subprocess.CompletedProcess, *words: str) -> str:
    """The one line of an error, with all the words in it."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1 and len(lines) == 1 and "Traceback" not in result.stderr, result.stderr[-2000:]
    assert all(word in lines[0] for word in words), lines[0]
    return lines[0]


@pytest.fixture
def evaluate(bundle_root) -> Callable[..., Any]:
    """A value of a config, inside this process: the line of an error is the one that the command prints."""

    def get(config: str, name: str, **options) -> Any:
        parser = ConfigParser()
        parser.read_config(str(bundle_root / "configs" / config))
        parser.update({"bundle_root": str(bundle_root)} | {key: str(value) if isinstance(value, Path) else value for key, value in options.items()})
        return parser.get_parsed_content(name)

    return get


def not_evaluated(evaluate: Callable[..., Any], config: str, name: str, *words: str, **options) -> None:
    with pytest.raises(Exception) as caught:
        evaluate(config, name, **options)
    message = find_input_error(caught.value)
    assert message and all(word in message for word in words), caught.value


@pytest.fixture
def hr(tmp_path) -> Path:
    return write(tmp_path / "hr.tif", images())


def test_from_images_to_a_stack_that_teaches_or_is_refused(tmp_path, cli, evaluate, hr):
    output = tmp_path / "out"
    result = cli("training", "hr_synthesis.yaml", hr_images=hr, output_dir=output, max_epochs=2, **TINY)
    assert result.returncode == 0, result.stderr[-2000:]
    record = json.loads((output / "model.json").read_text())
    assert record["iterations"] == 4 and record["settings"]["resolution"] == 16 and record["data"]["hr"][0]["file"] == "hr.tif"
    model = torch.load(output / "model.pt", weights_only=True)
    assert model["phases"] == ["pore", "quartz", "feldspar", "clay"] and model["resolution"] == 16 and model["pixel_size"] == (0.5, 0.5)
    assert list((output / "tensorboard").iterdir())

    result = cli("inference", "hr_synthesis_inference.yaml", model_file=output / "model.pt", n_images=70, output_dir=output, **NETWORK)
    assert result.returncode == 0, result.stderr[-2000:]
    made, pixel = read_images(output / "hr_generated.tif")
    assert len(made) == 70 and made[0].shape == (16, 16) and pixel == (0.5, 0.5)
    provenance = json.loads((output / "hr_generated_provenance.json").read_text())
    assert provenance["generated"] and provenance["images"] == 70 and provenance["seed"] == 0
    evaluate("hr_synthesis_inference.yaml", "synthesis", model_file=output / "model.pt", n_images=90, output_dir=tmp_path / "longer", **NETWORK).run()
    assert np.array_equal(tifffile.imread(tmp_path / "longer" / "hr_generated.tif")[:70], np.stack(made))

    lr = tmp_path / "lr.tif"
    tifffile.imwrite(lr, images(8, 8), imagej=True, resolution=(0.25, 0.25), metadata={"axes": "ZYX", "unit": "um", "spacing": 4.0})
    training = {"lr_image": lr, "hr_images": output / "hr_generated.tif", "output_dir": tmp_path / "sr", "boxes": [2, 2, 2]}
    refused(cli("training", "train.yaml", **training), "generated, and not yet judged", "accept_failed")
    result = cli("gating", "gates.yaml", images=output / "hr_generated.tif", hr_images=hr, edge=8, steps=2, crops=4)
    assert result.returncode == 0, result.stderr[-2000:]
    verdict = json.loads((output / "hr_generated_gates.json").read_text())
    assert not verdict["passed"] and (output / "hr_generated_gates.png").stat().st_size and (output / "hr_generated_gates_curves.png").stat().st_size
    failed = [name for name, gate in verdict["gates"].items() if not gate["passed"]]
    refused(cli("training", "train.yaml", **training), "did not pass the gates", *failed)
    assert not (tmp_path / "sr").exists()


def test_pixels_that_are_no_squares_are_not_turned(evaluate, hr):
    options = TINY | {"hr_images": hr, "hr_voxel_size": [2.0, 4.0]}
    not_evaluated(evaluate, "hr_synthesis.yaml", "train#dataset", "symmetries: 8 turns the axes", "of 2 x 4 µm; set symmetries to 4", **options)
    assert evaluate("hr_synthesis.yaml", "train#dataset", **options | {"symmetries": 4}).data[0]["pixel_size"] == (2.0, 4.0)


def test_resumed_equals_uninterrupted(tmp_path, cli, hr):
    for name, runs in (("whole", [2]), ("broken", [1, 2])):
        for epochs in runs:  # a plateau, so that the rates do not depend on the number of epochs
            result = cli("training", "hr_synthesis.yaml", hr_images=hr, output_dir=tmp_path / name, max_epochs=epochs, resume="true", decay=0.0, **TINY)
            assert result.returncode == 0, result.stderr[-2000:]
    for file in ("checkpoint.pt", "model.pt"):
        assert same(*(torch.load(tmp_path / name / file, weights_only=True) for name in ("whole", "broken")))


def test_a_training_starts_from_one_of_images_half_as_fine(tmp_path, cli, hr):
    """Of 33 pixels the last fills no block."""
    write(hr, np.pad(images(3), ((0, 0), (0, 1), (0, 1))))
    half = {"resolution": 8, "channels": 8, "coarsening": 2}
    result = cli("training", "hr_synthesis.yaml", hr_images=hr, output_dir=tmp_path / "coarse", max_epochs=1, **TINY | half)
    assert result.returncode == 0, result.stderr[-2000:]
    model = torch.load(tmp_path / "coarse" / "model.pt", weights_only=True)
    coarse = []
    for image in images(3):
        blocks = image.reshape(16, 2, 16, 2).swapaxes(1, 2).reshape(256, 4)
        votes = [np.bincount(block) + 0.5 * (np.arange(max(block) + 1) == block[0]) for block in blocks]  # the first pixel decides
        coarse.append(np.array([vote.argmax() for vote in votes], np.uint8).reshape(16, 16))
    assert model["statistics"] == pytest.approx(np.mean([statistics(image, 4) for image in coarse], 0)) and model["pixel_size"] == (1.0, 1.0)
    assert json.loads((tmp_path / "coarse" / "model.json").read_text())["settings"]["coarsening"] == 2
    start = tmp_path / "coarse" / "checkpoint.pt"
    result = cli("training", "hr_synthesis.yaml", hr_images=hr, output_dir=tmp_path / "fine", max_epochs=1, start_from=start, g_learning_rate=1e-12, **TINY)
    assert result.returncode == 0, result.stderr[-2000:]
    fine = torch.load(tmp_path / "fine" / "model.pt", weights_only=True)
    assert fine["pixel_size"] == (0.5, 0.5) and fine["resolution"] == 16
    torch.testing.assert_close(fine["model"]["constant"], torch.load(start, weights_only=True)["network"]["constant"])  # averaged anew
    assert json.loads((tmp_path / "fine" / "model.json").read_text())["started_from"]["file"] == "checkpoint.pt"
    options = {"hr_images": hr, "output_dir": tmp_path / "coarse", "max_epochs": 2, "resume": "true"} | TINY | half
    refused(cli("training", "hr_synthesis.yaml", **options | {"resume": "false"}), f"{start}: holds a training of 1 epochs; --resume true goes on")
    refused(cli("training", "hr_synthesis.yaml", **options | {"coarsening": 1}), "was trained with coarsening ['2'], now ['1']")
    other = {"hr_images": hr, "output_dir": tmp_path / "other", "start_from": start, "phases": "['clay','quartz','feldspar','pore']"} | TINY
    refused(cli("training", "hr_synthesis.yaml", **other), "StyleGenerator cannot start from other phases")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"coarsening": 0}, ["coarsening: 0", "1 or more"]), ({"coarsening": 1.5}, ["coarsening: 1.5", "whole number"]),
     ({"coarsening": 64}, ["32 x 32 pixels hold no block of 64", "lower coarsening"]),
     ({"coarsening": 4}, ["8 x 8 pixels, smaller than a crop of 16, 4 made one by coarsening"]),
     ({"symmetries": 6}, ["symmetries: 6", "give 8, or 4"]), ({"resolution": 24}, ["resolution: 24", "power of 2"])],
)  # fmt: skip
def test_settings_that_cannot_be(evaluate, hr, options, words):
    not_evaluated(evaluate, "hr_synthesis.yaml", "train#trainer", *words, hr_images=hr, **TINY | options)


def lacking_clay() -> np.ndarray:
    array = images()
    array[1][array[1] == 3] = 2
    return array


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (images(1), ["one image", "give 2 or more"]),
        (images(3, 8), ["8 x 8 pixels, smaller than a crop of 16", "lower resolution"]),
        (lacking_clay(), ["image 2 of 3 lacks clay", "leave it out"]),
        (images() + 2, ["holds values (4, 5)", "hr_labels"]),
    ],
)
def test_images_that_cannot_be_learned_from(tmp_path, evaluate, array, words):
    path = write(tmp_path / "bad.tif", array)
    not_evaluated(evaluate, "hr_synthesis.yaml", "train#trainer", *words, hr_images=path, output_dir=tmp_path / "out", **TINY)
    assert not (tmp_path / "out").exists()


def test_images_of_several_sizes(tmp_path, cli):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for edge in (32, 40):
        write(folder / f"{edge}.tif", images(1, edge))
    refused(cli("training", "hr_synthesis.yaml", hr_images=folder, output_dir=tmp_path / "out", **TINY), "32 x 32, 40 x 40", "cut them to one size")


def test_a_model_of_other_phases_or_another_network(tmp_path, cli, evaluate, hr):
    evaluate("hr_synthesis.yaml", "train#trainer", hr_images=hr, output_dir=tmp_path, max_epochs=1, **TINY).run()
    options = {"model_file": tmp_path / "model.pt", "output_dir": tmp_path / "out", **NETWORK}
    for words, other in (
        ("was trained with phases", {"phases": ["a", "b", "c", "d"]}),
        ("was trained with resolution 16", {"resolution": 32}),
        ("another network", {"channels": 8}),
    ):
        not_evaluated(lambda *args, **options: evaluate(*args, **options).run(), "hr_synthesis_inference.yaml", "synthesis", words, **options | other)
    refused(cli("inference", "hr_synthesis_inference.yaml", **options, n_images=0), "n_images: 0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("configs", "options", "augmented"),
    [(["critics.yaml"], {}, True), (["critics.yaml"], {"augment_critics": "false"}, False), (["paper.yaml"], {}, False),
     (["paper.yaml"], {"augment_critics": True}, True)],
)  # fmt: skip
def test_critics_of_the_super_resolution_are_augmented_where_images_are_few(bundle_root, tmp_path, configs, options, augmented):
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / name) for name in ("train.yaml", *configs)])
    parser.update({"bundle_root": str(bundle_root), "output_dir": str(tmp_path), **options})
    if "paper.yaml" in configs:
        parser.update({"boxes": [8], "border": 0, "critic_def#last_kernel": 1})  # published sizes do not fit the sample's images
    assert isinstance(parser.get_parsed_content("train#trainer").augmentation, AdaptiveAugmentation if augmented else type(None))
