"""The course of a training, in the figures that will judge its result, and what goes wrong in it, each provoked."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bundle.buffer import SliceBuffer
from bundle.handlers import TrainingCheckpoint
from bundle.losses.adversarial import RelativisticLoss, WassersteinLoss
from bundle.losses.feedback import StatisticsFeedback
from bundle.monitor import Alarm, CriticMonitor, FeedbackLog, GeneratorMonitor
from bundle.networks.critic import SliceCritic
from bundle.probe import Probe
from bundle.trainer import SuperResolutionTrainer
from bundle.transforms.slices import RandSliceCropsd
from tests.test_trainer import Score, Stub, trainer_of


def onehot(*labels: np.ndarray) -> torch.Tensor:
    return F.one_hot(torch.from_numpy(np.stack(labels)).long(), 2).movedim(-1, 1).float()


def run(feedback: StatisticsFeedback | None) -> Engine:
    """An engine that runs for an epoch."""
    engine = Engine(lambda *_: None)
    engine.feedback = feedback
    FeedbackLog().attach(engine)
    engine.run([0], max_epochs=1)
    return engine


def test_error_of_known_slices(caplog):
    """Shares of 1/2, 1/2 and a contact of 1/2 (columns of a pixel) against the images' 7/8, 1/8 and 1/12, the mean of two; and all as wanted."""
    stripes = np.broadcast_to(np.arange(8) % 2, (8, 8)).astype(np.uint8)
    quarter = np.zeros((4, 4), np.uint8)
    quarter[0] = 1  # 4 of 24 faces
    feedback = StatisticsFeedback({"hr_xy": [quarter, 0 * quarter], "hr_xz": [stripes], "hr_yz": [stripes]}, 2, [1.0])
    for group in ("hr_xy", "hr_xz"):  # the third has no slices yet
        feedback(group, 0.2 * onehot(stripes) + 0.4, torch.ones(1, 1))
    with caplog.at_level(logging.INFO):
        metrics = run(feedback).state.metrics
    expected = ((7 / 8 - 1 / 2) / (7 / 8) + (1 / 2 - 1 / 8) / (1 / 8) + (1 / 2 - 1 / 12) / (1 / 12)) / 3
    assert metrics == {"statistics_error_hr_xy": pytest.approx(expected, rel=1e-6), "statistics_error_hr_xz": pytest.approx(0, abs=1e-6)}
    assert "slices of hr_xy" in caplog.text and "0.5000 (0.0833)" in caplog.text


def test_statistics_that_the_images_lack_are_left_out():
    """All there is in the image is phase 0: half of it is missing."""
    feedback = StatisticsFeedback({"hr": [np.zeros((4, 4), np.uint8)]}, 2, [1.0])
    feedback("hr", onehot(np.zeros((6, 6)), np.ones((6, 6))), torch.ones(2, 1))
    assert run(feedback).state.metrics == {"statistics_error_hr": pytest.approx(0.5)}


def test_nothing_happens_without_feedback():
    assert run(None).state.metrics == {}
    assert run(StatisticsFeedback({"hr": []}, 2, [1.0])).state.metrics == {}


# --- Alarms ------------------------------------------------------------------------------------------------------------------------------


def warnings_of(caplog, words: str = "") -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == "bundle.monitor" and record.levelno >= logging.WARNING]
    return [line for line in lines if words in line]


def test_an_alarm_speaks_when_it_starts_and_when_it_is_over(caplog):
    alarm = Alarm(patience=2)
    said = []
    for seen in [0, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1]:
        caplog.clear()
        alarm.look(bool(seen), "starts", "ends")
        said.append(warnings_of(caplog))
    silent = [[]] * 4
    assert said == [*silent, ["starts"], *silent, ["over: ends"], [], [], ["starts"]]


IMAGE = {"hr": [np.random.default_rng(0).integers(0, 3, (32, 32)).astype(np.uint8)]}


class Detail(Stub):
    """The LR labels, enlarged by 2, with specks of phase 2: where the noise is high, or always at the same places; all phase 2 if `flat`."""

    driven, flat = True, False

    def forward_training(self, image: Tensor, edges) -> list:
        labels, noise = F.interpolate(image[:, :2], scale_factor=2), F.interpolate(image[:, -1:], scale_factor=2)
        field = noise if self.driven else torch.linspace(-2, 2, noise[0].numel()).view_as(noise[:1]).expand_as(noise)
        specks = (field > 1).float() if not self.flat else torch.ones_like(noise)
        probabilities = torch.cat([labels * (1 - specks), specks], 1)
        return [(2, probabilities + 0 * self.weight, ((0, 0, 0), image.shape[-1]))]


def watched(network: nn.Module, epochs: int, changes: dict[int, dict] | None = None, **options) -> tuple[SuperResolutionTrainer, GeneratorMonitor, list]:
    """A training of `epochs` of one iteration whose network gets attributes when epochs start; the metrics after each."""
    monitor = options.pop("monitor", None) or GeneratorMonitor(Probe(), IMAGE, ["pore", "quartz", "clay"])
    handlers = [monitor, *options.pop("handlers", [])]
    values = {"critics": nn.ModuleDict(), "hard_labels": False, "iterations": 4, "ema_decay": 0.0, **options}
    trainer = trainer_of(network, epochs=epochs, train_handlers=handlers, **values)

    def change():
        for name, value in (changes or {}).get(trainer.state.epoch, {}).items():
            for one in (trainer.network, trainer.ema.module):
                setattr(one, name, value)

    trainer.add_event_handler(Events.EPOCH_STARTED, change)
    seen: list[dict] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(dict(trainer.state.metrics)))
    return trainer, monitor, seen


def test_noise_that_the_generator_ignores_is_one_warning(caplog):
    trainer, _, seen = watched(Detail(None), 9, {3: {"driven": False}, 7: {"driven": True}}, consistency_weight=7.0)
    trainer.run()
    values = [metrics["noise_diversity"] for metrics in seen]
    assert all(value > 0.8 for value in values[:2] + values[6:]) and values[2:6] == [0] * 4
    warning, over = warnings_of(caplog, "between two noises")
    assert warning.startswith("mode collapse: ") and "only 0 % differs between two noises (limit 10 %)" in warning
    assert "network_def#perturbation" in warning and "consistency_weight (now 7)" in warning
    assert over.startswith("over: ") and "differs between two noises again" in over


def test_without_noise_nothing_is_said_of_it(caplog):
    trainer, _, seen = watched(Detail(None), 4, {1: {"driven": False}})
    dataset = trainer.data_loader.dataset
    silent = type("Silent", (type(dataset),), {"__getitem__": lambda self, n: self.still(super(type(self), self).__getitem__(n))})
    silent.still = staticmethod(lambda item: item | {"image": torch.cat([item["image"][:-1], 0 * item["image"][-1:]])})
    dataset.__class__ = silent
    trainer.run()
    assert not warnings_of(caplog, "noise") and all("noise_diversity" not in metrics for metrics in seen)
    assert all(metrics["agreement_pore"] > 0.5 for metrics in seen)


def test_slices_that_are_all_alike_are_one_warning(caplog):
    options = {"slices_per_plane": 1, "buffer": SliceBuffer(4), "patches": lambda *given: 0 * given[2].sum()}
    trainer, _, seen = watched(Detail(None), 8, {3: {"flat": True}}, **options)
    trainer.run()
    values = [metrics["slice_diversity_hr"] for metrics in seen]
    assert values[1] > 0.8 and values[3:] == [0] * 5
    (warning,) = warnings_of(caplog, "slices")
    assert "differ 0 times as much as crops of the HR images of hr (limit 0.4)" in warning and "consistency_weight (now 1)" in warning
    trainer, _, seen = watched(Detail(None), 2)  # without a buffer there is nothing to compare
    trainer.run()
    assert not any("slice_diversity_hr" in metrics for metrics in seen)


class Fading(Stub):
    """The LR labels, enlarged by 2, of which the pore (label 0) fades as the weight grows."""

    def forward_training(self, image: Tensor, edges) -> list:
        labels = F.interpolate(image[:, :2], scale_factor=2)
        logits = torch.cat([4 * labels[:, :1] - 4 * self.weight, 4 * labels[:, 1:], 0 * labels[:, :1]], 1)
        return [(2, logits.softmax(1), ((0, 0, 0), image.shape[-1]))]


def against_pores(group: str, scale: int, fake: Tensor, pool: Tensor) -> Tensor:
    """A teacher that wants no pore."""
    return fake[:, 0].mean()


@pytest.mark.parametrize("weight", [0.0, 20.0])
def test_pores_that_nothing_holds_drift_away(caplog, weight):
    """Trained: the teacher takes the pores away where the consistency does not hold them."""
    trainer, monitor, seen = watched(Fading(None), 8, lr=0.05, iterations=8, patches=against_pores, patch_weight=3.0, consistency_weight=weight)
    trainer.run()
    values = [metrics["agreement_pore"] for metrics in seen]
    if weight:
        assert values == [1.0] * 8 and not warnings_of(caplog, "drifts")
        return
    assert values[0] == monitor.best == 1 and values[-1] == 0
    (warning,) = warnings_of(caplog, "keep it")
    assert warning.startswith("geometry drifts: 0.0 % of the LR voxels of pore keep it (limit 90.0 %, best 100.0 %)")
    assert "consistency_weight (now 0)" in warning and "tolerance" in warning


class Losing(Stub):
    """Turns the blocks of LR voxels whose noise is lowest into phase 2: the share `lost` of them."""

    lost = 0.0

    def forward_training(self, image: Tensor, edges) -> list:
        noise = image[:, -1:].flatten(1)
        turned = (noise.argsort(1).argsort(1) < round(self.lost * noise.shape[1])).view_as(image[:, -1:]).float()
        probabilities = F.interpolate(torch.cat([image[:, :2] * (1 - turned), turned], 1), scale_factor=2)
        return [(2, probabilities + 0 * self.weight, ((0, 0, 0), image.shape[-1]))]


@pytest.mark.parametrize(("lost", "margin", "warned"), [(0.15, 0.1, True), (0.15, 0.5, False), (0.3, 0.5, True), (0.05, 0.1, False)])
def test_the_agreement_may_fall_neither_far_nor_low(caplog, lost, margin, warned):
    """Below 80 %, or by more than the margin."""
    monitor = GeneratorMonitor(Probe(), IMAGE, ["pore", "quartz", "clay"], margin=margin)
    trainer, _, seen = watched(Losing(None), 4, {2: {"lost": lost}}, monitor=monitor, edge=8, boxes=(8,))
    trainer.run()
    assert seen[-1]["agreement_pore"] == pytest.approx(1 - lost, abs=0.03)
    assert len(warnings_of(caplog, "geometry drifts")) == warned


@pytest.mark.parametrize("interval", [1, 2])
def test_a_resumed_training_remembers_the_best_and_what_it_warned_of(tmp_path, caplog, interval):
    """Broken in the middle of the drift: the warnings are those of the uninterrupted run, and the states, too."""
    changes = {3: {"lost": 0.15}, 9: {"lost": 0.0}}

    def run(folder: str, epochs: int) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        caplog.clear()
        monitor = GeneratorMonitor(Probe(), IMAGE, ["pore", "quartz", "clay"], interval=interval)
        path = tmp_path / folder / "checkpoint.pt"
        checkpoint = TrainingCheckpoint(path, lambda *_: None, {}, monitors={"generator": monitor})
        trainer, _, _ = watched(Losing(None), epochs, changes, monitor=monitor, handlers=[checkpoint], edge=8, boxes=(8,))
        checkpoint.restore(trainer, optional=True)
        for one in (trainer.network, trainer.ema.module):  # no weight, so not in the checkpoint
            one.lost = 0.15 if 3 <= trainer.state.epoch < 9 else 0.0
        trainer.run()
        said.append(torch.load(path, weights_only=True)["monitors"])
        return [line.split(":")[0] for line in warnings_of(caplog, "keep it")]

    said: list[dict] = []
    assert run("whole", 13) == ["geometry drifts", "over"]
    broken = [run("broken", epochs) for epochs in (3, 4, 6, 13)]
    assert sum(broken, []) == ["geometry drifts", "over"] and len(broken[-1]) >= 1
    assert said[-1] == said[0] and said[0]["generator"]["best"] > 0.99


def test_a_checkpoint_without_monitors_is_taken(tmp_path):
    path = tmp_path / "checkpoint.pt"
    watched(Detail(None), 1, handlers=[TrainingCheckpoint(path, lambda *_: None, {})])[0].run()
    monitor = GeneratorMonitor(Probe(), IMAGE, ["pore", "quartz", "clay"])
    checkpoint = TrainingCheckpoint(path, lambda *_: None, {}, monitors={"generator": monitor})
    trainer, _, _ = watched(Detail(None), 2, monitor=monitor, handlers=[checkpoint])
    checkpoint.restore(trainer)
    trainer.run()
    assert trainer.state.epoch == 2 and monitor.best > 0


# --- Critics -----------------------------------------------------------------------------------------------------------------------------

EDGE = 16


def texture(number: int, pores: float, seed: int, edge: int = EDGE) -> list[np.ndarray]:
    """Images of blobs two pixels wide, a share of them pore."""
    draw = np.random.default_rng(seed)
    return [np.kron(draw.random((edge // 2, edge // 2)) > pores, np.ones((2, 2))).astype(np.uint8) for _ in range(number)]


class Crops(Dataset):
    """Random crops of images, and LR patches that say nothing."""

    def __init__(self, images: list[np.ndarray], length: int):
        self.images, self.length, self.epoch = images, length, 0
        self.draw = RandSliceCropsd(["hr"], [EDGE], 8, 2, symmetries=4)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        self.draw.set_random_state(1000 * self.epoch + index)
        image = torch.zeros(3, EDGE // 2, EDGE // 2, EDGE // 2)
        image[0] = 1
        return self.draw({"hr": self.images}) | {"image": image}


class Blobs(Stub):
    """New blobs at every call, of other proportions than the images: what the critic can learn without knowing the images by heart."""

    def forward_training(self, image: Tensor, edges) -> list:
        labels = (torch.rand(len(image), EDGE // 2, EDGE // 2, EDGE // 2) > 0.42).long()
        return [(2, F.interpolate(onehot_volumes(labels), scale_factor=2) + 0 * self.weight, ((0, 0, 0), image.shape[-1]))]


def onehot_volumes(labels: Tensor) -> Tensor:
    return F.one_hot(labels, 2).movedim(-1, 1).float()


def overfitting(images: list[np.ndarray], adversarial, epochs: int = 4) -> tuple[list[float | None], CriticMonitor]:
    """r_v of a critic that is trained on images, against others of the same texture, epoch by epoch."""
    torch.manual_seed(0)
    critics = nn.ModuleDict({"hr_2x": SliceCritic(2, [16, 32])})
    monitor = CriticMonitor(Probe(candidates=1), {"hr": images}, {"hr": texture(60, 0.5, seed=99)}, [EDGE], 2, symmetries=4, number=64)
    network = Blobs(None)
    trainer = SuperResolutionTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=DataLoader(Crops(images, 30)), network=network, critics=critics,
        g_optimizer=torch.optim.SGD(network.parameters(), 0.0), d_optimizer=torch.optim.Adam(critics.parameters(), 3e-3, betas=(0.0, 0.99)),
        adversarial=adversarial, consistency=nn.MSELoss(), boxes=[EDGE // 2], planes={"hr": ["xy", "xz", "yz"]}, consistency_weight=0.0, slices_per_plane=3, n_critic=10_000, buffer=None, hard_labels=False, train_handlers=[monitor],
    )  # fmt: skip
    trainer.ema.module.make = None
    values: list[float | None] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: values.append(trainer.state.metrics.get("critic_overfitting_hr_2x")))
    trainer.run()
    return values, monitor


LOSSES = {"wasserstein": WassersteinLoss(1.0, rms=True), "relativistic": RelativisticLoss(0.05, 0.05)}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_critic_that_knows_its_image_by_heart_is_one_warning(caplog, loss):
    values, _ = overfitting(texture(1, 0.5, seed=1), LOSSES[loss])
    assert values[-1] > 0.7
    (warning,) = warnings_of(caplog)
    assert warning.startswith("overfitting: critic hr_2x scores held-out HR crops ") and "(limit 50 %)" in warning and "d_learning_rate" in warning


@pytest.mark.parametrize("loss", LOSSES)
def test_a_critic_of_many_images_does_not_overfit(caplog, loss):
    values, _ = overfitting(texture(300, 0.5, seed=2), LOSSES[loss])
    assert values[-1] < 0.3 and not warnings_of(caplog)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (5.0, 1.0), (0.0, 100.0)])
def test_the_overfitting_does_not_depend_on_offset_or_scale_of_the_scores(shift, scale):
    """A critic that likes pores: the ratio is one of porosities."""

    class Porosity(Score):
        def forward(self, slices: Tensor) -> Tensor:
            return shift + scale * slices[:, 0].mean((1, 2))

    trained, held_out = texture(4, 0.9, seed=1, edge=64), texture(4, 0.7, seed=2, edge=64)
    monitor = CriticMonitor(Probe(candidates=1), {"hr": trained}, {"hr": held_out}, [EDGE], 2, number=400)
    network = Blobs(None)
    trainer = trainer_of(
        network, phases=2, edge=EDGE // 2, boxes=(EDGE // 2,), critics=nn.ModuleDict({"hr_2x": Porosity(2)}), epochs=1, n_critic=10_000,
        slices_per_plane=None, iterations=1,
    )  # fmt: skip
    with torch.no_grad():
        found = monitor._overfitting(trainer)
    porosity = [np.mean([(image == 0).mean() for image in images]) for images in (trained, held_out)]
    assert found["hr_2x"][0] == pytest.approx((porosity[0] - porosity[1]) / (porosity[0] - 0.42), abs=0.06)
    assert found["hr_2x"][1]  # the difference is far beyond chance


def test_held_out_crops_that_differ_by_chance_are_no_overfitting(caplog, monkeypatch):
    """r_v is large where fakes score nearly as crops do; without a certain difference to held-out crops that says nothing."""
    monitor = CriticMonitor(Probe(candidates=1), {"hr": texture(4, 0.5, 1)}, {"hr": texture(4, 0.5, 2)}, [EDGE], 2)
    looks = iter([{"a": (0.9, False)}, {"a": (0.9, False)}, {"a": (0.9, True)}, {}, {"b": (0.9, True)}, {"a": (0.9, True)}, {"a": (0.8, True)}, {}, {}])
    monkeypatch.setattr(monitor, "_overfitting", lambda engine: next(looks))
    engine = SimpleNamespace(critics={"a": None, "b": None}, state=SimpleNamespace(metrics={}))
    said = []
    for _ in range(9):
        monitor._look(engine)
        said.append(len(warnings_of(caplog)))
    assert said == [0, 0, 0, 0, 0, 0, 1, 1, 2]  # two certain looks in a row at one critic; two without end it
    assert engine.state.metrics == {} and "critic a tells no HR crop from a fake" in caplog.text


def test_a_critic_that_cannot_tell_fakes_is_not_said_to_overfit():
    class Nothing(Score):
        def forward(self, slices: Tensor) -> Tensor:
            return slices[:, 0, 0, 0]  # a pixel: chance, and little of it

    monitor = CriticMonitor(Probe(candidates=1), {"hr": texture(20, 0.42, 1)}, {"hr": texture(20, 0.42, 2)}, [EDGE], 2, number=40)
    trainer = trainer_of(Blobs(None), phases=2, edge=EDGE // 2, boxes=(EDGE // 2,), critics=nn.ModuleDict({"hr_2x": Nothing(2)}))
    assert monitor._overfitting(trainer) == {}


def test_critics_without_a_held_out_part_cannot_be_watched(caplog):
    monitor = CriticMonitor(Probe(), IMAGE, {}, [8], 3)
    trainer_of(Detail(None), epochs=3, train_handlers=[monitor]).run()
    (line,) = warnings_of(caplog)
    assert "held_out is 0: overfitting of the critics cannot be watched" in line
    caplog.clear()
    trainer = trainer_of(Detail(None), epochs=2, critics=nn.ModuleDict(), train_handlers=[CriticMonitor(Probe(), IMAGE, {}, [8], 3)])
    trainer.run()
    assert not warnings_of(caplog) and trainer.state.metrics == {}
    held = CriticMonitor(Probe(), IMAGE, {"hr": texture(1, 0.5, 1)}, [8], 3)
    trainer_of(Detail(None), epochs=1, critics=nn.ModuleDict(), train_handlers=[held]).run()
    (line,) = warnings_of(caplog)
    assert "there are no critics to be watched" in line


def test_an_interval_of_0_never_looks():
    monitors = [GeneratorMonitor(Probe(), IMAGE, ["pore", "grain", "clay"], interval=0), CriticMonitor(Probe(), IMAGE, {}, [8], 3, interval=0)]
    trainer = trainer_of(Detail(None), epochs=2, train_handlers=monitors)
    trainer.run()
    assert trainer.state.metrics == {}
