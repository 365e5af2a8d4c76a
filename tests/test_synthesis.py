"""Training of the generator of HR images: what each step does, that a resume changes nothing, and when augmentation sets in."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.transforms import Compose
from scipy import ndimage
from torch.utils.data import DataLoader

from bundle.checkpoint import save_weights
from bundle.data import RandomPatches
from bundle.handlers import TrainingCheckpoint
from bundle.losses.adversarial import LogisticLoss
from bundle.losses.feedback import StatisticsFeedback
from bundle.networks.style_critic import StyleCritic
from bundle.networks.stylegan2 import StyleGenerator
from bundle.synthesis import SynthesisTrainer
from bundle.synthesis_monitor import SynthesisMonitor
from bundle.transforms.adaptive import AdaptiveAugmentation, LabelAugmentation
from bundle.transforms.slices import RandSliceCropsd
from tests.comparison import same

EDGE = 16


def texture(number: int, edge: int = 32, seed: int = 0) -> list[np.ndarray]:
    """Images of two phases: smooth noise, cut at its median."""
    rng = np.random.default_rng(seed)
    return [(ndimage.gaussian_filter(rng.normal(size=(edge, edge)), 2, mode="wrap") > 0).astype(np.uint8) for _ in range(number)]


def trainer_of(images: list[np.ndarray], iterations: int = 4, epochs: int = 1, batch: int = 4, rate: float = 2e-3, ada=True, resolution: int = EDGE,
               channels: int = 4, **options) -> SynthesisTrainer:  # fmt: skip
    torch.manual_seed(0)
    network = StyleGenerator(2, resolution, channels=channels, most_channels=2 * channels, latent=8, mapping_layers=2)
    critics = torch.nn.ModuleDict({"hr": StyleCritic(2, resolution, channels=channels, most_channels=2 * channels)})
    crops = Compose([RandSliceCropsd("hr", [resolution], batch, 2)])
    data = RandomPatches({"hr": images}, lambda item: item, crops, iterations, seed=0)
    augmentation = AdaptiveAugmentation(LabelAugmentation(), images=200, zero=True) if ada is True else ada
    values = {"r1_interval": 2, "path_interval": 2, "ema_decay": 0.9, "augmentation": augmentation or None, **options}
    return SynthesisTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=DataLoader(data, 1), network=network, critics=critics,
        g_optimizer=torch.optim.Adam(network.parameters(), rate, betas=(0.0, 0.99)),
        d_optimizer=torch.optim.Adam(critics.parameters(), rate, betas=(0.0, 0.99)), adversarial=LogisticLoss(), **values,
    )  # fmt: skip


def outputs(trainer: SynthesisTrainer) -> list[dict]:
    found: list[dict] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: found.append(dict(trainer.state.output)))
    trainer.run()
    return found


def test_regularisers_come_at_their_iterations():
    found = outputs(trainer_of(texture(2), iterations=6, r1_interval=3, path_interval=2))
    assert [("r1" in one, "path" in one) for one in found] == [(i % 3 == 0, i % 2 == 0) for i in range(1, 7)]
    assert not any(key in one for one in outputs(trainer_of(texture(2), r1_interval=0, path_interval=0)) for key in ("r1", "path"))


@pytest.mark.parametrize(("interval", "weight"), [(2, 0.7), (3, 0.3)])
def test_lazy_regularisers_weigh_as_much_as_the_steps_between_them(monkeypatch, interval, weight):
    seen = {}
    trainer = trainer_of(texture(2), iterations=interval, ada=False, r1=weight, r1_interval=interval, path_weight=weight, path_interval=interval)
    step = trainer._step

    def record(optimizer, loss, module):
        seen["critic" if optimizer is trainer.d_optimizer else "generator"] = float(loss.detach())
        step(optimizer, loss, module)

    monkeypatch.setattr(trainer, "_step", record)
    last = outputs(trainer)[-1]
    assert seen["critic"] == pytest.approx(last["critic"] + 0.5 * weight * interval * last["r1"], rel=1e-5)
    assert seen["generator"] == pytest.approx(last["adversarial"] + last["beyond"] + weight * interval * last["path"], rel=1e-5)


def test_each_step_changes_its_own_network(monkeypatch):
    trainer = trainer_of(texture(2), iterations=1)
    step, changed = trainer._step, []

    def record(optimizer, loss, module):
        before = [copy.deepcopy(m.state_dict()) for m in (trainer.network, trainer.critics)]
        step(optimizer, loss, module)
        parameters = [dict(m.named_parameters()) for m in (trainer.network, trainer.critics)]
        changed.append([any(not torch.equal(old[name], new[name]) for name in new) for old, new in zip(before, parameters)])

    monkeypatch.setattr(trainer, "_step", record)
    trainer.run()
    assert changed == [[False, True], [True, False]]
    assert all(parameter.requires_grad for parameter in trainer.critics.parameters())


class Spy:
    """An augmentation that notes what passes it."""

    def __init__(self):
        self.p, self.r, self.interval, self.seen = {}, {}, 2, []

    def __call__(self, name, maps):
        self.seen.append(maps.detach().clone())
        return maps

    def follow(self, name, real, fake):
        self.seen.append("follow")


def test_the_critic_sees_labels_augmented_real_and_fake_alike():
    spy = Spy()
    trainer_of(texture(2), iterations=2, ada=spy).run()
    kinds = [one if isinstance(one, str) else "maps" for one in spy.seen]
    assert kinds == ["maps"] * 3 + ["maps"] * 2 + ["follow"] + ["maps"]  # real, fake, and the generator's; it follows at the second step
    for maps in (one for one in spy.seen if not isinstance(one, str)):
        assert maps.shape == (4, 2, EDGE, EDGE) and set(maps.round(decimals=5).unique().tolist()) <= {0.0, 1.0}


def test_the_feedback_teaches_the_generator():
    images = texture(2)
    feedback = StatisticsFeedback({"hr": images}, 2, [1.0])
    found = outputs(trainer_of(images, feedback=feedback, feedback_weight=0.5, path_interval=0))
    for one in found:
        assert one["generator"] == pytest.approx(one["adversarial"] + one["beyond"] + 0.5 * one["feedback"], rel=1e-5)
    assert len(feedback.rings["hr"]) == 4


def checkpointed(folder, epochs: int, stop: int | None = None) -> SynthesisTrainer:
    images = texture(3)
    feedback = StatisticsFeedback({"hr": images}, 2, [1.0])
    ada = AdaptiveAugmentation(LabelAugmentation(), target=-2.0, images=200, zero=True)  # p rises from the first step
    trainer = trainer_of(images, epochs=epochs, feedback=feedback, ada=ada)
    monitor = SynthesisMonitor(images)
    monitor.attach(trainer)
    handler = TrainingCheckpoint(
        folder / "checkpoint.pt", lambda network, path: save_weights(path, network, {"phases": ["a", "b"]}), {"phases": ["a", "b"]},
        monitors={"images": monitor},
    )  # fmt: skip
    handler.attach(trainer)
    handler.restore(trainer, optional=True)
    trainer.run()
    return trainer


def test_resumed_equals_uninterrupted(tmp_path):
    for name, runs in (("whole", [4]), ("broken", [2, 4])):
        (tmp_path / name).mkdir()
        for epochs in runs:
            checkpointed(tmp_path / name, epochs)
    whole, broken = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "broken"))
    assert broken["augmentation"]["p"]["hr"] > 0 and broken["path_length"]["mean"] > 0
    assert same(whole, broken)
    assert same(*(torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "broken")))


def test_p_rises_on_four_images_and_stays_low_on_a_thousand():
    """The same generator, which does not learn, and critic: only on few images can it know its crops."""

    def last(number: int) -> tuple[float, float]:
        ada = AdaptiveAugmentation(LabelAugmentation(), images=1500, zero=True)
        # whole images: few are few crops. The fakes are real images of another thousand, so that nothing but memory tells them apart
        trainer = trainer_of(texture(number, EDGE, seed=1), iterations=120, batch=16, ada=ada, r1_interval=0, path_interval=0, channels=8, rate=4e-3)
        others = torch.from_numpy(np.stack(texture(1000, EDGE, seed=2)))
        one_hot = torch.nn.functional.one_hot(others.long(), 2).movedim(-1, 1).float()

        def make(count: int, exact: bool = False):
            maps = 4 * one_hot[torch.randint(len(one_hot), (count,))]
            return maps + 0 * sum(p.sum() for p in trainer.network.parameters()), None

        trainer._make = make
        values = [(one["augmented_hr"], one["r_t_hr"]) for one in outputs(trainer) if "augmented_hr" in one]
        return float(np.mean([p for p, _ in values[-40:]])), float(np.mean([r for _, r in values[-40:]]))

    (few, r_few), (many, r_many) = last(4), last(1000)
    assert few > 0.15 and many < 0.05 and r_few > r_many  # four seeds of the networks: .19 to .29, and .004 to .02


class Images(torch.nn.Module):
    """A generator that shows what it is given."""

    edges, latent, n_phases = [EDGE], 8, 2

    def __init__(self, maps: list[np.ndarray]):
        super().__init__()
        self.maps = maps

    def draw(self, number, generator=None, device="cpu"):
        return torch.zeros(number, 8), []

    def map(self, z):
        return z

    def styles(self, w):
        return w

    def forward(self, ws, noises):
        labels = torch.from_numpy(np.stack([self.maps[i % len(self.maps)] for i in range(len(ws))])).long()
        return torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()


class State:
    """What the monitor knows of a trainer."""

    def __init__(self):
        self.seed, self.augmentation = 0, AdaptiveAugmentation(LabelAugmentation())
        self.state = type("S", (), {"metrics": {}, "device": torch.device("cpu")})()
        self.ema = type("E", (), {})()


def test_a_collapse_is_one_warning_and_its_end_another(caplog):
    images, engine = texture(4), State()
    monitor = SynthesisMonitor(images)
    collapsed, various = [texture(1, EDGE)[0]], texture(16, EDGE, seed=9)
    with caplog.at_level(logging.WARNING):
        for shown in (collapsed, collapsed, collapsed, various, various, various):
            engine.ema.module = Images(shown)
            monitor._look(engine)
            if shown is collapsed:
                assert engine.state.metrics["image_diversity"] == 0.0
    assert 0.8 < engine.state.metrics["image_diversity"] < 1.2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and messages[0].startswith("mode collapse") and messages[1].startswith("over")


def test_overfitting_that_no_augmentation_stops_is_one_warning(caplog):
    images, engine = texture(4), State()
    engine.ema.module = Images(texture(16, EDGE, seed=9))
    monitor = SynthesisMonitor(images)
    with caplog.at_level(logging.WARNING):
        for r, p in ((0.9, 0.5), (0.9, 0.8), (0.9, 0.8), (0.9, 0.8)):
            engine.augmentation.p["hr"], engine.augmentation.r["hr"] = p, r
            monitor._look(engine)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("overfitting: the critic knows its crops by heart (r_t 0.90)")
