"""Progress, logs, pictures and checkpoints of a training."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bundle.buffer import SliceBuffer
from bundle.errors import InputError
from bundle.handlers import EpochLog, ProgressBar, TensorBoardLog, TrainingCheckpoint
from bundle.report import colour_labels
from tests.comparison import same


class Trainer(Engine):
    """A training of a line by two optimizers: what the handlers know of the real one."""

    shown = "LR, SR, HR"

    def __init__(self, handlers=(), epochs: int = 3, length: int = 4, width: int = 2, buffer: bool = True, rate: float = 0.1):
        super().__init__(Trainer.step)
        torch.manual_seed(0)
        self.network = nn.Linear(2, width)
        self.critics = nn.ModuleDict({"hr_2x": nn.Linear(width, 1)})
        self.ema = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        self.g_optimizer = torch.optim.Adam(self.network.parameters(), rate)
        self.buffer = SliceBuffer(2) if buffer else None
        self.slices = [np.full((2, 2), 1, np.uint8), np.full((8, 8), 2, np.uint8), np.full((8, 8), 3, np.uint8)]
        self.state.max_epochs, self.state.epoch_length = epochs, length
        self.fail_at = self.spoil_at = 0
        for handler in handlers:
            handler.attach(self)

    def step(self, _) -> dict[str, float]:
        iteration = self.state.iteration
        torch.manual_seed(iteration)
        if iteration == self.fail_at:
            raise InputError(f"stopped at {iteration}")
        self.g_optimizer.zero_grad()
        loss = (self.critics["hr_2x"](self.network(torch.randn(5, 2))) - 1).square().mean()
        loss.backward()
        self.g_optimizer.step()
        self.ema.update_parameters(self.network)
        if self.buffer:
            self.buffer.push("hr_2x", torch.randn(2, 3, 4, 4), torch.rand(2))
        if iteration == self.spoil_at:
            self.network.weight.data[0, 0] = float("nan")
        return {"loss": float(loss.detach()), "generator": float(loss.detach()), "critic_hr_2x": float(iteration)}

    def parts(self):
        parts = {"network": self.network, "ema": self.ema, "critics": self.critics, "g_optimizer": self.g_optimizer}
        return parts | ({"buffer": self.buffer} if self.buffer else {})

    def example_slices(self):
        return self.slices

    def start(self) -> Trainer:
        self.run(range(self.state.epoch_length), max_epochs=self.state.max_epochs)
        return self


NAMES = {"phases": ["pore", "quartz"], "lr_phases": ["pore"]}


def checkpoint_of(folder: Path, **options) -> TrainingCheckpoint:
    names = options.pop("names", NAMES)
    return TrainingCheckpoint(folder / "checkpoint.pt", lambda network, path: torch.save(network.state_dict(), path), names, **options)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_progress_bar_ends_at_the_count_of_iterations(capsys):
    bar = ProgressBar()
    Trainer([bar]).start()
    assert bar.bar.n == bar.bar.total == 12
    assert "training: 100%" in capsys.readouterr().err


def test_progress_bar_of_a_resumed_run_starts_where_it_was(tmp_path):
    first = checkpoint_of(tmp_path)
    Trainer([first], epochs=2).start()
    bar, again = ProgressBar(), checkpoint_of(tmp_path)
    trainer = Trainer([bar, again])
    again.restore(trainer)
    trainer.start()
    assert bar.bar.initial == 8 and bar.bar.n == bar.bar.total == 12


def test_progress_bar_lets_an_error_through():
    bar = ProgressBar()
    trainer = Trainer([bar])
    trainer.fail_at = 6
    with pytest.raises(InputError, match="stopped at 6"):
        trainer.start()
    assert bar.bar.n == 5 and bar.bar.disable  # closed


def test_epoch_log_says_the_mean_of_every_loss(caplog):
    with caplog.at_level(logging.INFO, "bundle.handlers"):
        Trainer([EpochLog()], epochs=2).start()
    lines = [record.getMessage() for record in caplog.records if record.name == "bundle.handlers"]
    assert len(lines) == 2
    assert re.fullmatch(r"epoch 2/2, \d+ s: generator [\d.e-]+, critic_hr_2x 6.5", lines[1])  # mean of 5, 6, 7, 8


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_tensorboard_holds_scalars_and_a_picture(tmp_path):
    trainer = Trainer([TensorBoardLog(str(tmp_path), interval=2, picture_interval=2)], epochs=4)
    trainer.start()
    log = events(tmp_path)
    assert set(log.Tags()["scalars"]) == {"loss/loss", "loss/generator", "loss/critic_hr_2x"}
    assert [(event.step, event.value) for event in log.Scalars("loss/critic_hr_2x")] == [(i, float(i)) for i in range(2, 17, 2)]
    assert [event.step for event in log.Images("LR, SR, HR")] == [8, 16]
    from io import BytesIO

    from PIL import Image

    picture = np.asarray(Image.open(BytesIO(log.Images("LR, SR, HR")[-1].encoded_image_string)))
    gap = np.full((8, 4, 3), 255, np.uint8)
    lr, sr, hr = (colour_labels(np.full((8, 8), label, np.uint8)) for label in (1, 2, 3))
    np.testing.assert_array_equal(picture, np.concatenate([lr, gap, sr, gap, hr], axis=1))


def test_tensorboard_holds_what_the_monitors_see(tmp_path):
    """Whatever is in the metrics when an epoch ends."""
    trainer = Trainer(epochs=3)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: trainer.state.metrics.update(agreement_pore=trainer.state.epoch / 4))
    TensorBoardLog(str(tmp_path)).attach(trainer)
    trainer.start()
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("watch/agreement_pore")] == [(4, 0.25), (8, 0.5), (12, 0.75)]


def test_tensorboard_keeps_the_place_of_every_lr_voxel_in_the_picture(tmp_path):
    lr = np.array([[0, 1], [2, 3]], np.uint8)
    picture = TensorBoardLog(str(tmp_path))._colour([lr, np.zeros((6, 6), np.uint8)])
    np.testing.assert_array_equal(picture[:, :6], colour_labels(lr.repeat(3, 0).repeat(3, 1)))


def test_tensorboard_shows_an_iteration_once_after_a_crash_and_a_resume(tmp_path):
    def handlers():
        return [TensorBoardLog(str(tmp_path / "log"), interval=1), checkpoint_of(tmp_path)]

    crashed = Trainer(handlers(), epochs=3)
    crashed.fail_at = 11
    with pytest.raises(InputError):
        crashed.start()
    log = events(tmp_path / "log")
    assert [event.step for event in log.Scalars("loss/loss")][:8] == list(range(1, 9))  # whole epochs are there already
    again = handlers()
    resumed = Trainer(again, epochs=3)
    again[1].restore(resumed)
    resumed.start()
    assert [event.step for event in events(tmp_path / "log").Scalars("loss/loss")] == list(range(1, 13))


def test_a_log_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/log: cannot be written.*output_dir"):
        Trainer([TensorBoardLog(str(tmp_path / "file" / "log"))]).start()


def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    Trainer([checkpoint_of(whole)]).start()
    first = Trainer([checkpoint_of(broken)])
    first.fail_at = 6
    with pytest.raises(InputError):
        first.start()
    assert load(broken / "checkpoint.pt")["position"]["iteration"] == 4
    again = checkpoint_of(broken)
    trainer = Trainer([again])
    again.restore(trainer)
    trainer.start()
    for name in ("checkpoint.pt", "model.pt"):
        assert same(load(broken / name), load(whole / name)), name
    content = load(whole / "checkpoint.pt")
    assert list(content) == ["position", "names", "network", "ema", "critics", "g_optimizer", "buffer"]
    assert (content["position"]["epoch"], content["position"]["iteration"]) == (3, 12)
    average = {name.removeprefix("module."): value for name, value in content["ema"].items() if name != "n_averaged"}
    assert same(load(whole / "model.pt"), average)


def test_seconds_add_up_over_a_resume(tmp_path):
    first = checkpoint_of(tmp_path)
    Trainer([first], epochs=1).start()
    content = load(tmp_path / "checkpoint.pt")
    assert content["position"]["seconds"] == first.seconds > 0
    content["position"]["seconds"] = 1000.0
    torch.save(content, tmp_path / "checkpoint.pt")
    again = checkpoint_of(tmp_path)
    trainer = Trainer([again], epochs=2)
    again.restore(trainer)
    trainer.start()
    assert 1000 < load(tmp_path / "checkpoint.pt")["position"]["seconds"] < 1060


@pytest.mark.parametrize(("interval", "saved"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_saves_every_few_epochs_and_the_last(tmp_path, interval, saved):
    seen: list[int] = []
    handler = TrainingCheckpoint(tmp_path / "checkpoint.pt", lambda *_: seen.append(trainer.state.epoch), NAMES, interval)
    trainer = Trainer([handler], epochs=5)
    trainer.start()
    assert seen == saved and load(tmp_path / "checkpoint.pt")["position"]["epoch"] == 5


def test_weights_are_never_older_than_the_checkpoint(tmp_path):
    """Killed between the two files, a resume repeats the epoch and writes both."""

    def save_weights(network, written):
        assert network is trainer.ema.module and written == tmp_path / "model.pt"
        path = tmp_path / "checkpoint.pt"
        assert (load(path)["position"]["epoch"] if path.exists() else 0) == trainer.state.epoch - 1

    trainer = Trainer([TrainingCheckpoint(tmp_path / "checkpoint.pt", save_weights, NAMES)])
    trainer.start()
    assert trainer.state.epoch == 3


def snapshots(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("model_*"))


@pytest.mark.parametrize(("every", "kept"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (9, [])])
def test_keeps_a_model_every_few_epochs(tmp_path, every, kept):
    """Each holds the averaged weights of its own epoch, as a training that ends there has them."""
    Trainer([checkpoint_of(tmp_path, snapshots=every)], epochs=5).start()
    assert snapshots(tmp_path) == [f"model_{epoch:04d}.pt" for epoch in kept]
    for epoch in kept:
        ended = Trainer(epochs=epoch).start()
        assert same(load(tmp_path / f"model_{epoch:04d}.pt"), ended.ema.module.state_dict())
        assert not same(ended.ema.module.state_dict(), ended.network.state_dict())


def test_a_resumed_training_goes_on_keeping_models(tmp_path):
    """Counted in epochs of the whole training; those of the first part stay as they are."""
    Trainer([checkpoint_of(tmp_path, snapshots=2)], epochs=3).start()
    assert snapshots(tmp_path) == ["model_0002.pt"]
    first = (tmp_path / "model_0002.pt").read_bytes()
    again = checkpoint_of(tmp_path, snapshots=2)
    trainer = Trainer([again], epochs=6)
    again.restore(trainer)
    trainer.start()
    assert snapshots(tmp_path) == ["model_0002.pt", "model_0004.pt", "model_0006.pt"]
    assert (tmp_path / "model_0002.pt").read_bytes() == first
    assert same(load(tmp_path / "model_0006.pt"), load(tmp_path / "model.pt"))
    assert same(load(tmp_path / "model_0004.pt"), Trainer(epochs=4).start().ema.module.state_dict())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = Trainer([checkpoint_of(tmp_path, snapshots=2)])
    trainer.spoil_at = 8  # the last step of the second epoch: its loss was a number still
    with pytest.raises(InputError, match="iteration 8: weight of the network became NaN.*last checkpoint is kept"):
        trainer.start()
    assert load(tmp_path / "checkpoint.pt")["position"]["epoch"] == 1
    assert all(value.isfinite().all() for value in load(tmp_path / "model.pt").values())
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "model.pt"]


def test_the_learning_rate_of_the_config_holds_after_a_resume(tmp_path):
    Trainer([checkpoint_of(tmp_path)], epochs=1, rate=0.1).start()
    trainer = Trainer(rate=0.001)
    checkpoint_of(tmp_path).restore(trainer)
    assert trainer.g_optimizer.param_groups[0]["lr"] == 0.001
    assert float(trainer.g_optimizer.state[trainer.network.weight]["step"]) == 4  # its moments are those of the checkpoint


def test_optional_restore_without_a_checkpoint(tmp_path, caplog):
    trainer = Trainer()
    with caplog.at_level("INFO"):
        checkpoint_of(tmp_path).restore(trainer, optional=True)
    assert trainer.state.iteration == 0 and caplog.messages == [f"no checkpoint.pt in {tmp_path}: begins with the first epoch"]
    with pytest.raises(InputError, match="checkpoint.pt: no such file"):
        checkpoint_of(tmp_path).restore(trainer)


def change(**entries):
    return lambda path: torch.save(load(path) | entries, path)


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), {}, "damaged"),
        (lambda path: path.write_text("text"), {}, "not a checkpoint"),
        (lambda path: torch.save([1, 2], path), {}, r"no trained model \(a list\)"),
        (lambda path: torch.save({}, path), {}, "lacks network, ema, critics, g_optimizer, buffer, position, names"),
        (lambda path: torch.save({"model": {}, "phases": []}, path), {}, "lacks network"),
        (change(network={"weight": torch.zeros(2, 2)}), {}, "another configuration.*Missing key"),
        (change(g_optimizer={"state": {}, "param_groups": []}), {}, "another configuration"),
        (change(critics=None), {}, "another configuration"),
        (None, {"width": 3}, "another configuration.*size mismatch for weight"),
        (None, {"length": 5}, "had epochs of 4 iterations, now 5"),
        (None, {"epochs": 2}, "trained for 2 epochs already; raise max_epochs .now 2."),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, spoil, options, words):
    Trainer([checkpoint_of(tmp_path)], epochs=2).start()
    path = tmp_path / "checkpoint.pt"
    if spoil:
        spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        checkpoint_of(tmp_path).restore(Trainer(**options), optional=True)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("key", ["phases", "lr_phases"])
def test_a_checkpoint_of_other_phases_does_not_fit(tmp_path, key):
    """As many as before, so the networks alone would not notice."""
    Trainer([checkpoint_of(tmp_path)], epochs=2).start()
    trainer = Trainer()
    with pytest.raises(InputError, match=f"checkpoint.pt: was trained with {key} .*, now ..*grain"):
        checkpoint_of(tmp_path, names=NAMES | {key: ["grain"]}).restore(trainer)
    assert trainer.state.iteration == 0


def test_a_checkpoint_without_the_buffer_does_not_fit(tmp_path):
    Trainer([checkpoint_of(tmp_path)], epochs=2, buffer=False).start()
    with pytest.raises(InputError, match="lacks buffer"):
        checkpoint_of(tmp_path).restore(Trainer())
