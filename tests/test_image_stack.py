"""Stacks of generated images: each image by itself, made as it is written."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from bundle import image_stack
from bundle.calibration import Calibration
from bundle.checkpoint import save_weights
from bundle.errors import InputError
from bundle.gating import admit
from bundle.image_stack import BATCH, GeneratedImages, ImageSynthesis
from bundle.io import Volume, read_images, write_volume
from bundle.metrics import statistics
from bundle.networks.stylegan2 import StyleGenerator

PHASES = ["a", "b", "c"]
WANTED = [0.4, 0.3, 0.3, 0.1, 0.1, 0.1]


@pytest.fixture
def network() -> StyleGenerator:
    torch.manual_seed(0)
    network = StyleGenerator(3, 16, channels=4, most_channels=8, latent=6, mapping_layers=1).eval()
    network.follow_mean(network.map(torch.randn(500, 6)), decay=0.0)
    return network


def test_an_image_is_the_same_whoever_asks(network):
    stack = GeneratedImages(network, 70)
    whole = stack[0:70]
    assert whole.shape == stack.shape == (70, 16, 16) and whole.dtype == np.uint8 and stack.size == whole.size
    assert len({image.tobytes() for image in whole}) == 70
    for start, stop in ((3, 4), (15, 17), (60, 70), (0, 33)):
        assert np.array_equal(stack[start:stop], whole[start:stop])
    assert np.array_equal(stack[5:40, 2:9, 3:16], whole[5:40, 2:9, 3:16]) and len(stack[7:7]) == 0
    assert np.array_equal(GeneratedImages(network, 20)[0:20], whole[:20])
    assert not np.array_equal(GeneratedImages(network, 20, seed=1)[0:20], whole[:20])


def test_an_image_is_what_the_network_makes_of_its_own_numbers(network):
    found = GeneratedImages(network, 2 * BATCH, seed=7)[0 : 2 * BATCH]
    differing = 0
    for i in (0, 1, BATCH + 3):
        word = int(np.random.SeedSequence([7, i, 0]).generate_state(1, np.uint64)[0] >> 1)
        z, noises = network.draw(1, torch.Generator().manual_seed(word))
        with torch.no_grad():
            alone = network(network.styles(network.map(z)), noises)[0].argmax(0).numpy()
        differing += int((alone != found[i]).sum())
    assert differing <= 2  # an image alone is rounded otherwise than one of sixteen, and a tie may fall the other way


def test_images_are_kept_by_their_chance_whoever_asks(network):
    every = Calibration(np.zeros(6), 1.0)
    assert np.array_equal(GeneratedImages(network, 40, calibration=every)[0:40], GeneratedImages(network, 40)[0:40])
    few = Calibration(np.array([0.0, 4.0, 0.0, 0.0, 0.0, 0.0]), -3.0)
    whole = GeneratedImages(network, 400, calibration=few)[0:400]
    assert len({image.tobytes() for image in whole}) == 400
    assert np.array_equal(GeneratedImages(network, 40, calibration=few)[17:36], whole[17:36])
    made = np.stack([statistics(image, 3) for image in GeneratedImages(network, 4000, seed=1)[0:4000]])
    kept = np.stack([statistics(image, 3) for image in whole])
    error = kept.std(0) / 20
    assert np.all(np.abs(kept.mean(0) - few.means(made)) < 4 * error) and kept[:, 1].mean() > made[:, 1].mean() + 6 * error[1]


def test_truncated_to_nothing_all_images_are_the_mean_one(network):
    with torch.no_grad():
        for layer in [network.first, *(layer for level in network.levels for layer in (level.upper, level.lower))]:
            layer.noise.zero_()
    images = GeneratedImages(network, 5, truncation=0.0)[0:5]
    assert all(np.array_equal(image, images[0]) for image in images)
    assert len({image.tobytes() for image in GeneratedImages(network, 5)[0:5]}) == 5


@pytest.fixture
def model(tmp_path, network):
    save_weights(tmp_path / "model.pt", network, {"phases": PHASES, "resolution": 16, "pixel_size": (0.5, 0.25), "statistics": WANTED})
    return tmp_path / "model.pt"


def test_a_stack_with_its_pixel_size_picture_and_provenance(tmp_path, network, model):
    path = ImageSynthesis(network, model, tmp_path / "out", PHASES, 20, seed=3, calibration=0).run()
    images, pixel = read_images(path)
    assert pixel == (0.5, 0.25) and np.array_equal(images, GeneratedImages(network, 20, seed=3)[0:20])
    record = json.loads((tmp_path / "out" / "hr_generated_provenance.json").read_text())
    assert (record["seed"], record["images"], record["generated"], record["phases"]) == (3, 20, True, PHASES)
    assert min(Image.open(tmp_path / "out" / "hr_generated.png").size) >= 4 * 16
    path = ImageSynthesis(network, model, tmp_path / "other", PHASES, 2, pixel_size=2.0, calibration=0).run()
    assert read_images(path)[1] == (2.0, 2.0)


@pytest.mark.parametrize("step", ["write_sheets", "sha256", "versions"])
def test_what_a_run_that_was_killed_leaves_does_not_pass_for_real_images(tmp_path, network, model, monkeypatch, step):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_stack, step, killed)
        ImageSynthesis(network, model, tmp_path / "out", PHASES, 2, calibration=0).run()
    path = tmp_path / "out" / "hr_generated.tif"
    assert path.is_file()
    with pytest.raises(InputError, match="hr_generated.tif: generated, and not yet judged"):
        admit(path)
    ImageSynthesis(network, model, tmp_path / "out", PHASES, 2, calibration=0).run()
    assert json.loads((tmp_path / "out" / "hr_generated_provenance.json").read_text())["images"] == 2


def test_a_calibrated_stack_is_nearer_to_the_real_statistics(tmp_path, network, model):
    stacks = {}
    for number in (0, 500):
        path = ImageSynthesis(network, model, tmp_path / str(number), PHASES, 300, calibration=number).run()
        stacks[number] = np.mean([statistics(image, 3) for image in read_images(path)[0]], 0)
        told = json.loads((tmp_path / str(number) / "hr_generated_provenance.json").read_text())["calibration"]
    assert np.abs(stacks[500][:3] - WANTED[:3]).sum() < 0.7 * np.abs(stacks[0][:3] - WANTED[:3]).sum()
    assert told["images"] == 500 and told["error_kept"] < told["error_made"] and told["share_kept"] == pytest.approx(0.25, abs=0.02)
    assert list(told["statistics"]["real"].items())[::5] == [("a", 0.4), ("b-c", 0.1)]
    save_weights(tmp_path / "old.pt", network, {"phases": PHASES, "resolution": 16, "pixel_size": None})
    with pytest.raises(InputError, match="does not tell the statistics of the real images; train it again, or set calibration to 0"):
        ImageSynthesis(network, tmp_path / "old.pt", tmp_path / "old", PHASES, 3).run()
    assert not (tmp_path / "old" / "hr_generated.tif").exists()


@pytest.mark.parametrize("number", [0, -1, "ten", 2.5])
def test_a_number_that_is_none(tmp_path, network, model, number):
    with pytest.raises(InputError, match=f"n_images: {number}; give a whole number of images"):
        ImageSynthesis(network, model, tmp_path / "out", PHASES, number).run()
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_phases(tmp_path, network, model):
    with pytest.raises(InputError, match="was trained with phases"):
        ImageSynthesis(network, model, tmp_path / "out", ["a", "b", "d"], 2).run()
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    network, peaks = StyleGenerator(3, 64, channels=2, most_channels=2, latent=2, mapping_layers=1).eval(), []
    for number in (64, 64, 1000):  # the first fills caches
        tracemalloc.start()
        write_volume(tmp_path / "stack.tif", Volume(GeneratedImages(network, number), None))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    written = (tmp_path / "stack.tif").stat().st_size
    assert written > 1000 * 64**2 and peaks[2] < peaks[1] + written / 10  # some 200 bytes a page are tifffile's own
