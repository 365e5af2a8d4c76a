"""What a training will take of memory: against what the system says that it took, and what is proposed where it is too much."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from bundle import planner
from bundle.buffer import SliceBuffer
from bundle.errors import InputError
from bundle.losses.feedback import StatisticsFeedback
from bundle.losses.patches import SlicedWasserstein
from bundle.networks.critic import SliceCritic
from bundle.networks.paper import PaperGenerator
from tests.test_data_parallel import torchrun_script
from tests.test_trainer import APART, level_trainer, trainer_of

MEASURE = """
    import json, re, resource, sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from monai.bundle import ConfigParser
    from bundle.planner import training_memory
    parser = ConfigParser()
    parser.read_config([{root!r} + "/configs/" + name for name in ["train.yaml", *{files}]])
    parser.update({{"train#handlers": [], "device": "cpu", "epoch_length": 3, "max_epochs": 1, "buffer_volumes": 2, "amp": False, **{settings}}})
    trainer = parser.get_parsed_content("train#trainer")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    need = training_memory(trainer, parser.get_parsed_content("batch_size"), trainer.boxes)
    trainer.run()
    # not getrusage: a child starts with the peak of its parent
    peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    sys.stdout.write(json.dumps([before, need, peak]) + "\\n")  # in one piece, as two processes write
"""


def patch_trainer(**options):
    images = {"hr": list(np.random.default_rng(3).integers(0, 3, (2, 64, 64)).astype(np.uint8))}
    teachers = {"patches": SlicedWasserstein(images, 3, 4, 3, samples=64), "feedback": StatisticsFeedback(images, 3, [0.5, 0.5])}
    return level_trainer(critics=nn.ModuleDict(), hard_labels=False, **teachers, **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("files", "settings"), [([], {"batch_size": 3}), (["critics.yaml"], {"warmup_iterations": 0, "batch_size": 3})])
def test_what_it_says_is_what_the_system_counts(bundle_root, files, settings):
    """The process's peak is within 20 % of the prediction, and what the training added to it within 40 %."""
    script = textwrap.dedent(MEASURE).format(root=str(bundle_root), files=files, settings=settings)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, need, peak = np.array(re.findall(r"\d+", done.stdout.splitlines()[-1]), float)
    assert peak == pytest.approx(before + need, rel=0.2) and peak - before == pytest.approx(need, rel=0.4), (before, need, peak)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_of_two_processes_each_holds_what_both_made(bundle_root, tmp_path):
    """As one process, but each of two is measured."""
    script = textwrap.dedent(MEASURE).format(root=str(bundle_root), files=["multi_gpu.yaml"], settings={"batch_size": 3, "output_dir": str(tmp_path)})
    done = torchrun_script(tmp_path, bundle_root, script)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^\[\d+, \d+, \d+\]$", done.stdout, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        before, need, peak = np.array(json.loads(line), float)
        assert peak == pytest.approx(before + need, rel=0.2) and peak - before == pytest.approx(need, rel=0.4), (before, need, peak)


class Shared:
    shares, neighbours, decoder = 3, 2, staticmethod(lambda network: None)


def test_a_shared_batch_takes_more_than_its_part_and_less_than_the_whole():
    trainer = patch_trainer(buffer=SliceBuffer(20))
    part, whole = (planner.training_memory(trainer, batch, [4, 2]) for batch in (2, 6))
    trainer.parallel = Shared()
    assert part < planner.training_memory(trainer, 2, [4, 2]) < whole


@pytest.mark.parametrize("name", ["patches", "critics", "apart", "paper"])
def test_more_patches_take_more_and_nothing_is_changed(name):
    if name == "patches":
        trainer, edges = patch_trainer(buffer=SliceBuffer(3, 5)), [4, 2]
    elif name == "paper":
        trainer = trainer_of(PaperGenerator(3, 3, 16), scales=(8,), critic=lambda: SliceCritic(3, [4, 4]), separate_planes=True)
        edges = [4]
    else:
        trainer = level_trainer(hard_labels=name == "critics", **({"planes": APART} if name == "apart" else {}))
        edges = [4, 2]
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    random = torch.get_rng_state()
    found = [planner.training_memory(trainer, batch, edges) for batch in (1, 2, 4)]
    assert 0 < found[0] < found[1] < found[2] < 4.5 * found[0]
    assert torch.equal(torch.get_rng_state(), random) and all(p.grad is None for part in (trainer.network, trainer.critics) for p in part.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())
    trainer.run()  # nothing is left that could not train


def test_checkpointing_takes_less():
    trainer = patch_trainer(batch_size=8)
    assert planner.training_memory(trainer, 8, [4, 2], True) < 0.9 * planner.training_memory(trainer, 8, [4, 2], False)
    assert not trainer.network.checkpointing


def test_what_is_kept_by_hand():
    """Weights with gradient and two moments, block means of two images of 64^2 at blocks of 1, 2, 4 and 8, and a full buffer in half precision."""
    trainer = patch_trainer(buffer=SliceBuffer(3, 5))
    weights = sum(p.numel() for p in trainer.network.parameters())
    means = 4 * 3 * 2 * sum((64 // block) ** 2 for block in (1, 2, 4, 8))
    slices = 3 * 5 * 2 * 3 * (8**2 + 8**2)  # of 2x and 4x, boxes of 4 and 2 LR voxels; 6 a step, of which 5 are kept
    assert planner._kept(trainer, 1, [4, 2]) == 3 * 4 * weights + means + slices


def advice_of(trainer, batch_size: int, free: float, monkeypatch) -> str:
    monkeypatch.setattr(planner, "free_memory", lambda device: free)
    with pytest.raises(InputError, match="^training takes about .* of memory, .* are free") as caught:
        planner.check_training(trainer, batch_size, trainer.network.scale_factor)
    return str(caught.value)


def test_what_is_proposed_fits_and_no_more_is_taken_than_needed(monkeypatch):
    trainer = patch_trainer(batch_size=6)
    need = planner.training_memory(trainer, 6, trainer.boxes)
    planner_free = need
    monkeypatch.setattr(planner, "free_memory", lambda device: planner_free)
    planner.check_training(trainer, 6, trainer.network.scale_factor)  # just enough
    saving = planner.training_memory(trainer, 6, trainer.boxes, True)
    assert "set checkpointing to true: " in advice_of(trainer, 6, need - 1, monkeypatch)
    fewer = [planner.training_memory(trainer, batch, trainer.boxes, True) for batch in range(1, 6)]
    assert "set checkpointing to true and batch_size to 5: " in advice_of(trainer, 6, saving - 1, monkeypatch)
    assert "set checkpointing to true and batch_size to 1: " in advice_of(trainer, 6, fewer[1] - 1, monkeypatch)


def test_smaller_boxes_are_proposed_at_last(monkeypatch):
    trainer = level_trainer(boxes=(8, 2))
    one = planner.training_memory(trainer, 1, (8, 2), True)
    text = advice_of(trainer, 3, one - 1, monkeypatch)
    assert "set checkpointing to true, batch_size to 1, boxes to [7, 2]: " in text
    assert planner.training_memory(trainer, 1, [7, 2], True) <= one - 1
    assert "no smaller setting fits; free memory" in advice_of(trainer, 3, 1000, monkeypatch)


def test_a_generator_without_levels_gets_smaller_batches_and_boxes(monkeypatch):
    trainer = trainer_of(PaperGenerator(3, 3, 16), scales=(8,), boxes=(6,), edge=6, critic=lambda: SliceCritic(3, [4, 4]))
    one = planner.training_memory(trainer, 1, (6,))
    assert "set batch_size to 1: " in advice_of(trainer, 2, one, monkeypatch)
    assert "set batch_size to 1, boxes to [5]: " in advice_of(trainer, 2, one - 1, monkeypatch)


def test_processes_of_a_machine_share_its_memory(monkeypatch):
    """Three that share a batch, two of them here: both must fit."""
    trainer = patch_trainer()
    trainer.parallel = Shared()
    need = planner.training_memory(trainer, 1, trainer.boxes)
    monkeypatch.setattr(planner, "free_memory", lambda device: 2 * need)
    planner.check_training(trainer, 1, 4)
    assert " are free for each of 2 processes; set checkpointing to true: " in advice_of(trainer, 1, 2 * need - 2, monkeypatch)


def test_training_stops_before_it_writes_anything(bundle_root, tmp_path, monkeypatch):
    """By the config: planted lack of memory ends in a line that the settings of the config answer."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(planner, "free_memory", lambda device: 800 * 2**20)
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "train.yaml"))
    parser.update({"output_dir": str(tmp_path / "output"), "device": "cpu", "batch_size": 12})
    with pytest.raises(Exception) as caught:
        parser.get_parsed_content("training")
    message = str(caught.value.__cause__)
    assert "are free; set checkpointing to true and batch_size to " in message and not (tmp_path / "output").exists()


@pytest.mark.parametrize("boxes", [[6], [6, 2, 1]])
def test_one_box_a_level(boxes):
    trainer = level_trainer()
    trainer.boxes = boxes
    with pytest.raises(InputError, match="boxes: .* for 2 levels of x2"):
        planner.check_training(trainer, 1, 4)


@pytest.mark.parametrize(("boxes", "border", "words"), [
    ((4, 2), 0, "boxes: 4 LR voxels at 2x are slices of 8 pixels, smaller than a critic takes; set that edge to 6 or more"),
    ((6, 2), 0, "boxes: 2 LR voxels at 4x are slices of 8 pixels, smaller than a critic takes; set that edge to 3 or more"),
    ((8, 3), 2, "boxes: 3 LR voxels at 4x are slices of 8 pixels, smaller than a critic takes; set that edge to 4 or more"),
    ((6, 3), 0, None),
])  # fmt: skip
def test_slices_smaller_than_a_critic_takes(monkeypatch, boxes, border, words):
    """Two halvings, then a kernel of 3: twelve pixels. What critics take is asked of them."""
    monkeypatch.setattr(planner, "training_memory", lambda *args: 0)
    trainer = level_trainer(boxes=boxes, border=border)
    trainer.critics = nn.ModuleDict({f"hr_{scale}x": SliceCritic(3, [4, 4, 4]) for scale in (2, 4)})
    random = torch.get_rng_state()
    if words is None:
        planner.check_training(trainer, 1, 4)
    else:
        with pytest.raises(InputError, match=f"^{re.escape(words)}$"):
            planner.check_training(trainer, 1, 4)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_critic_that_takes_nothing_says_why(monkeypatch):
    monkeypatch.setattr(planner, "training_memory", lambda *args: 0)
    trainer = level_trainer()
    trainer.critics = nn.ModuleDict({f"hr_{scale}x": SliceCritic(7) for scale in (2, 4)})
    planner.check_training(trainer, 1, 4)  # channels that are not the phases: its first step says so


def test_a_border_that_is_no_whole_voxel_of_a_critic(monkeypatch):
    monkeypatch.setattr(planner, "training_memory", lambda *args: 0)
    trainer = level_trainer(boxes=(6, 3))  # critics at 2x and 4x, of a factor of 4
    assert len(trainer.critics) == 2 and trainer.network.scale_factor == 4
    planner.check_training(trainer, 1, 4)
    trainer.border = 2
    planner.check_training(trainer, 1, 4)
    trainer.border = 1
    with pytest.raises(InputError, match="border: 1 finest voxels are no whole voxels at 2x, where a critic looks; give a multiple of 2"):
        planner.check_training(trainer, 1, 4)
    trainer.critics = nn.ModuleDict()
    planner.check_training(trainer, 1, 4)


def test_a_generator_that_is_spread_is_not_refused(monkeypatch, caplog):
    """What each device takes is not known: the whole may be more than one of them has."""
    trainer = level_trainer(devices=["cpu", "cpu"])
    monkeypatch.setattr(planner, "free_memory", lambda device: 1000)
    planner.check_training(trainer, 1, 4)
    assert "one device has" in caplog.records[-1].getMessage()
    with pytest.raises(InputError, match="free memory"):
        planner.check_training(level_trainer(), 1, 4)
