"""One iteration of training: which steps are taken, what each critic sees, what the losses add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bundle.buffer import SliceBuffer
from bundle.engine import straight_through
from bundle.errors import InputError
from bundle.losses.absent import AbsentPhases
from bundle.losses.adversarial import WassersteinLoss
from bundle.losses.confusion import ConfusionConsistency
from bundle.losses.consistency import BlockConsistency, NearestConsistency
from bundle.losses.patches import SlicedWasserstein
from bundle.networks.critic import SliceCritic, make_critics
from bundle.networks.generator import LevelGenerator
from bundle.networks.paper import PaperGenerator
from bundle.trainer import SuperResolutionTrainer
from bundle.transforms.adaptive import AdaptiveAugmentation, LabelAugmentation

PLANES = {"hr": ["xy", "xz", "yz"]}
APART = {"hr_xy": ["xy"], "hr_xz": ["xz"], "hr_yz": ["yz"]}
COST = [[0.0, 0.5], [0.7, 0.0]]


class Items(Dataset):
    """Random one-hot LR patches + noise, and random one-hot HR crops of `sizes` for every group."""

    def __init__(self, length: int, edge: int, lr_phases: int, phases: int, sizes: list[int], groups: dict, crops: int, fill: dict | None):
        self.length, self.edge, self.lr_phases, self.phases = length, edge, lr_phases, phases
        self.sizes, self.groups, self.crops, self.fill = sizes, groups, crops, fill or {}
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        draw = torch.Generator().manual_seed(index)
        labels = torch.randint(self.lr_phases, [self.edge] * 3, generator=draw)
        onehot = nn.functional.one_hot(labels, self.lr_phases).movedim(-1, 0).float()
        item: dict = {"image": torch.cat([onehot, torch.randn(1, *labels.shape, generator=draw)])}
        for group, planes in self.groups.items():
            item[group] = []
            for size in self.sizes:
                shape = (self.crops * len(planes), size, size)
                crops = torch.randint(self.phases, shape, generator=draw) if group not in self.fill else torch.full(shape, self.fill[group])
                item[group].append(nn.functional.one_hot(crops, self.phases).movedim(-1, 1).float())
        return item


class Stub(nn.Module):
    """A generator of known volumes: `make(call)` gives the (P, s, s, s) probabilities of the n-th call."""

    scale_factor = 2

    def __init__(self, make):
        super().__init__()
        self.weight, self.make, self.calls = nn.Parameter(torch.zeros(())), make, 0

    def corrected(self, image: Tensor) -> Tensor:
        return image[:, :-1]

    def forward_training(self, image: Tensor, edges) -> list:
        self.calls += 1
        edge = image.shape[-1]
        return [(2, self.make(self.calls)[None].expand(len(image), -1, -1, -1, -1) + 0 * self.weight, ((0, 0, 0), edge))]


class Spy:
    """An adversarial loss that remembers what it was given."""

    def __init__(self):
        self.seen: dict[str, list] = {"critic": [], "generator": []}

    def critic_loss(self, critic, real, fake):
        self.seen["critic"].append((critic, real.clone(), fake.detach().clone()))
        return critic(fake).mean() - critic(real).mean()

    def generator_loss(self, critic, real, fake):
        self.seen["generator"].append((critic, real.clone(), fake.detach().clone()))
        return -critic(fake).mean()


class Score(nn.Module):
    """The smallest critic: a weight a phase."""

    def __init__(self, phases: int):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, phases))

    def forward(self, slices: Tensor) -> Tensor:
        return slices.mean((2, 3)) @ self.weight


def trainer_of(network: nn.Module, iterations: int = 6, epochs: int = 1, lr: float = 1e-3, edge: int = 4, lr_phases: int = 2,
               phases: int = 3, boxes=(4,), scales=(2,), critic=None, crops: int = 2, fill=None, batch_size: int = 1,
               **options) -> SuperResolutionTrainer:  # fmt: skip
    planes = options.pop("planes", PLANES)
    critics = options.pop("critics", None)
    if critics is None:
        critics = make_critics(planes, scales, critic or (lambda: Score(phases)))
    sizes = [network.scale_factor * box - 2 * options.get("border", 0) for box in boxes]
    parallel = options.get("parallel")
    items = Items(iterations * batch_size * (parallel.shares if parallel else 1), edge, lr_phases, phases, sizes, planes, crops, fill)
    loader = DataLoader(items, batch_size, sampler=parallel.sampler(items, batch_size) if parallel else None)
    values = {
        "adversarial": WassersteinLoss(), "consistency": BlockConsistency(COST, 0.1), "slices_per_plane": 2, **options,
    }  # fmt: skip
    return SuperResolutionTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=loader, network=network, critics=critics,
        g_optimizer=torch.optim.SGD(network.parameters(), lr), d_optimizer=torch.optim.SGD(critics.parameters(), lr) if critics else None,
        boxes=boxes, planes=planes, **values,
    )  # fmt: skip


def level_trainer(**options) -> SuperResolutionTrainer:
    """The default networks, tiny: 4x, levels of 4 and 2 LR voxels. The first weights are always the same."""
    torch.manual_seed(0)
    network = LevelGenerator(3, 3, channels=[8, 8, 8], blocks=1, grain_radius=1)
    with torch.no_grad():
        for level in network.levels:  # zero heads would hide the weights behind them
            level.head.weight.normal_(std=0.05)
    settings = {"boxes": (4, 2), "scales": (2, 4), "critic": lambda: SliceCritic(3, [4, 4])} | options
    return trainer_of(network, **{"edge": network.patch_edge(settings["boxes"])} | settings)


def steps_of(trainer: SuperResolutionTrainer) -> dict[str, list[int]]:
    """Iterations at which each optimizer stepped: filled while the trainer runs."""
    steps: dict[str, list[int]] = {"g_optimizer": [], "d_optimizer": []}
    for name, taken in steps.items():
        getattr(trainer, name).register_step_post_hook(lambda *_, taken=taken: taken.append(trainer.state.iteration))
    return steps


def constant(call: int) -> Tensor:
    """A volume that says the number of the call."""
    return torch.full((3, 8, 8, 8), call / 64)


def coordinates(_: int) -> Tensor:
    """Channels z, y and x of each voxel: a slice of a plane is constant in the channel of its normal."""
    return torch.stack(torch.meshgrid(*[torch.arange(8.0) / 8] * 3, indexing="ij"))


def constant_channels(slices: Tensor) -> set[tuple[bool, ...]]:
    return {tuple(bool((channel == channel[0, 0]).all()) for channel in image) for image in slices}


NORMAL = {"xy": (True, False, False), "xz": (False, True, False), "yz": (False, False, True)}


def test_straight_through_is_one_hot_with_the_gradient_of_the_softmax():
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4, 4)
    soft = torch.softmax(logits, 1)
    hard = straight_through(soft)
    expected = nn.functional.one_hot(soft.argmax(1), 3).movedim(-1, 1).float()
    torch.testing.assert_close(hard.detach(), expected, rtol=0, atol=1e-6)
    gradients = [torch.autograd.grad((x * weight).sum(), logits, retain_graph=True)[0] for x in (hard, soft)]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize(
    ("n_critic", "warmup", "generator", "critic"),
    [(1, 0, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]), (3, 0, [3, 6], [1, 2, 3, 4, 5, 6]), (2, 3, [2, 4, 6], [1, 2, 3, 4, 5, 6])],
)
@pytest.mark.parametrize("buffered", [True, False])
def test_steps_of_critic_and_generator(n_critic, warmup, generator, critic, buffered):
    network = Stub(constant)
    trainer = trainer_of(network, n_critic=n_critic, warmup_iterations=warmup, buffer=SliceBuffer(2) if buffered else None)
    steps = steps_of(trainer)
    trainer.run()
    assert steps == {"g_optimizer": generator, "d_optimizer": critic}
    # with a buffer a volume is generated for a generator step only (and the first time), else for every critic step
    assert network.calls == (len(set(generator) | {1}) if buffered else 6)


def test_in_the_warmup_critics_learn_and_the_generator_sees_the_consistency_alone():
    spy = Spy()
    trainer = level_trainer(iterations=3, warmup_iterations=2, consistency_weight=7.0, adversarial=spy)
    outputs: list[dict] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: outputs.append(trainer.state.output))
    trainer.run()
    assert len(spy.seen["critic"]) == 3 * 2 and len(spy.seen["generator"]) == 2  # two scales
    for n, output in enumerate(outputs, start=1):
        assert ("adversarial_hr_2x" in output) == (n > 2) and "critic_hr_2x" in output
        assert (output["generator"] == pytest.approx(7 * output["consistency"])) == (n <= 2)


@pytest.mark.parametrize("volumes", [3, None])
def test_a_critic_sees_slices_of_earlier_volumes_only_with_a_buffer(volumes):
    spy, network = Spy(), Stub(constant)
    trainer = trainer_of(
        network, iterations=24, n_critic=2, adversarial=spy, hard_labels=False, buffer=volumes and SliceBuffer(volumes), slices_per_plane=4
    )
    newest: list[int] = []
    trainer.d_optimizer.register_step_post_hook(lambda *_: newest.append(network.calls))
    trainer.run()
    seen = [{round(float(image[0, 0, 0]) * 64) for image in fake} for _, _, fake in spy.seen["critic"]]
    ages = {now - call for now, calls in zip(newest, seen, strict=True) for call in calls}
    assert ages == ({0, 1, 2} if volumes else {0})
    assert all(now in calls for now, calls in zip(newest, seen)) or volumes
    # the generator is judged by its own volume, never by the memory
    assert all(len({float(v) for v in fake.unique()}) == 1 for _, _, fake in spy.seen["generator"])


def test_separate_planes_update_a_critic_once_a_plane():
    spy = Spy()
    trainer = trainer_of(
        Stub(coordinates), iterations=1, adversarial=spy, hard_labels=False, separate_planes=True, slices_per_plane=None, crops=4
    )
    steps = steps_of(trainer)
    trainer.run()
    assert steps == {"g_optimizer": [1], "d_optimizer": [1, 1, 1]}
    for kind in ("critic", "generator"):
        assert [constant_channels(fake) for _, _, fake in spy.seen[kind]] == [{NORMAL[plane]} for plane in PLANES["hr"]]
        assert [tuple(fake.shape) for _, _, fake in spy.seen[kind]] == [(8, 3, 8, 8)] * 3
    reals = torch.cat([real for _, real, _ in spy.seen["critic"]])
    assert torch.equal(reals, trainer.state.batch["hr"][0][0])  # 4 crops a plane, none twice
    assert [len(real) for _, real, _ in spy.seen["critic"]] == [4, 4, 4]


def test_all_planes_in_one_update():
    spy = Spy()
    trainer = trainer_of(Stub(coordinates), iterations=1, adversarial=spy, hard_labels=False)
    steps = steps_of(trainer)
    trainer.run()
    assert steps["d_optimizer"] == [1]
    ((_, real, fake),) = spy.seen["critic"]
    assert constant_channels(fake) == set(NORMAL.values()) and len(fake) == len(real) == 6


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("label", [0, 1])
def test_reals_hold_as_much_of_the_matched_label_as_the_fakes(buffered, label):
    """Label 0 below, 1 above: xy slices are of one label, the others half and half. Each fake finds a real crop of its kind."""
    spy = Spy()
    trainer = trainer_of(
        Stub(coordinates), iterations=4, n_critic=2, adversarial=spy, hard_labels=False, match_label=label, crops=12,
        buffer=SliceBuffer(2) if buffered else None,
    )  # fmt: skip
    lr = torch.zeros(4, 4, 4, dtype=torch.long)
    lr[2:] = 1
    image = torch.cat([nn.functional.one_hot(lr, 2).movedim(-1, 0).float(), torch.zeros(1, 4, 4, 4)])
    kinds = torch.zeros(3, 8, 8, dtype=torch.long)
    kinds[1, 4:], kinds[2] = 1, 1
    kinds[1, 0, 0] = 1  # a pixel less than the LR can see
    pool = nn.functional.one_hot(kinds.repeat(12, 1, 1), 3).movedim(-1, 1).float()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: trainer.state.batch.update(image=image[None], hr=[pool[None]]))
    trainer.run()
    assert len(spy.seen["critic"]) == 4 and len(spy.seen["generator"]) == 2
    for _, real, fake in spy.seen["critic"] + spy.seen["generator"]:
        assert len(real) == len(fake) == 6
        for crop, image in zip(real, fake):
            flat = bool((image[0] == image[0, 0, 0]).all())  # an xy slice: z is constant
            expected = float(image[0, 0, 0] >= 0.5) if flat else 0.5
            assert crop[1].mean() == pytest.approx(expected, abs=0.02)


def test_no_real_crop_is_matched_twice():
    """Where many crops hold as much of the label, each fake gets its own."""
    spy = Spy()
    trainer = trainer_of(Stub(coordinates), iterations=1, adversarial=spy, hard_labels=False, match_label=0, crops=6)
    pool = torch.zeros(18, 3, 8, 8)
    pool[:, 1] = torch.arange(18.0).view(-1, 1, 1)  # told apart by value; none holds label 0
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: trainer.state.batch.update(hr=[pool[None]]))
    trainer.run()
    ((_, real, _),) = spy.seen["critic"]
    assert len({float(crop.max()) for crop in real}) == len(real) == 6


def test_the_critic_s_loss_is_the_mean_over_its_separate_planes():
    spy = Spy()
    trainer = trainer_of(Stub(coordinates), iterations=1, adversarial=spy, hard_labels=False, separate_planes=True, lr=0.0)
    trainer.run()
    (critic,) = trainer.critics.values()
    expected = [float((critic(fake).mean() - critic(real).mean()).detach()) for _, real, fake in spy.seen["critic"]]
    assert len(set(expected)) == 3
    assert trainer.state.output["critic_hr_2x"] == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_without_a_matched_label_the_first_reals_are_taken():
    spy = Spy()
    trainer = trainer_of(Stub(coordinates), iterations=1, adversarial=spy, hard_labels=False, crops=6)
    trainer.run()
    ((_, real, _),) = spy.seen["critic"]
    assert torch.equal(real, trainer.state.batch["hr"][0][0][:6])


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("buffer", [SliceBuffer(2), None])
def test_anisotropic_critics_judge_their_own_plane_and_images(separate, buffer):
    spy = Spy()
    fill = {"hr_xy": 0, "hr_xz": 1, "hr_yz": 2}
    trainer = trainer_of(
        Stub(coordinates), iterations=3, adversarial=spy, hard_labels=False, planes=APART, fill=fill,
        separate_planes=separate, buffer=buffer,
    )  # fmt: skip
    names = {id(critic): name for name, critic in trainer.critics.items()}
    trainer.run()
    for kind in ("critic", "generator"):
        assert [names[id(critic)] for critic, _, _ in spy.seen[kind]] == ["hr_xy_2x", "hr_xz_2x", "hr_yz_2x"] * 3
        for critic, real, fake in spy.seen[kind]:
            group = names[id(critic)].removesuffix("_2x")
            assert constant_channels(fake) == {NORMAL[group.removeprefix("hr_")]}
            assert (real.argmax(1) == fill[group]).all()


@pytest.mark.parametrize("hard", [True, False])
def test_reals_are_brought_to_the_scale_of_their_critic(hard):
    """Block means, or the labels of the majority."""
    spy = Spy()
    trainer = level_trainer(iterations=1, adversarial=spy, hard_labels=hard)
    trainer.run()
    names = {id(critic): name for name, critic in trainer.critics.items()}
    reals = {names[id(critic)]: real.numpy() for critic, real, _ in spy.seen["critic"]}
    coarse, fine = (crops[0].numpy() for crops in trainer.state.batch["hr"])
    expected = np.empty((6, 3, 8, 8), dtype=np.float32)
    for y in range(8):
        for x in range(8):
            expected[:, :, y, x] = coarse[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((2, 3))
    assert 0 < (expected == 0.25).sum()
    if hard:  # of equals the label of the first pixel: no label is preferred
        expected = np.eye(3)[(expected + 0.1 * coarse[:, :, ::2, ::2]).argmax(1)].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(reals["hr_2x"], expected, atol=1e-6)
    np.testing.assert_array_equal(reals["hr_4x"], fine)


@pytest.mark.parametrize("hard", [True, False])
def test_critics_see_labels_or_probabilities(hard):
    spy = Spy()
    trainer = level_trainer(iterations=1, adversarial=spy, hard_labels=hard)
    trainer.run()
    names = {id(critic): name for name, critic in trainer.critics.items()}
    for critic, _, fake in spy.seen["critic"] + spy.seen["generator"]:
        assert torch.allclose(fake, fake.round(), atol=1e-6) == hard, names[id(critic)]


def test_border_is_cut_in_finest_voxels_at_every_level():
    spy = Spy()
    trainer = level_trainer(iterations=1, adversarial=spy, border=2, critic=lambda: Score(3))
    trainer.run()
    shapes = {(tuple(real.shape[2:]), tuple(fake.shape[2:])) for _, real, fake in spy.seen["critic"]}
    assert shapes == {((6, 6), (6, 6)), ((4, 4), (4, 4))}  # 2x: 8 - 2 x 1; 4x: 8 - 2 x 2


def test_border_leaves_the_middle():
    spy = Spy()
    trainer = trainer_of(Stub(coordinates), iterations=1, adversarial=spy, hard_labels=False, border=3, slices_per_plane=None)
    trainer.run()
    ((_, _, fake),) = spy.seen["critic"]
    assert fake.shape == (6, 3, 2, 2) and set(fake.unique().tolist()) == {3 / 8, 4 / 8}


def consistency_by_loops(probabilities: np.ndarray, labels: np.ndarray, tolerance: float) -> float:
    """The documented formula, voxel by voxel."""
    s = probabilities.shape[-1] // labels.shape[-1]
    charges = []
    for z, y, x in np.ndindex(labels.shape):
        block = probabilities[:, s * z : s * z + s, s * y : s * y + s, s * x : s * x + s].mean((1, 2, 3))
        charges.append(max(0.0, sum(COST[labels[z, y, x]][p] * block[p] for p in range(2)) - tolerance))
    return float(np.mean(charges))


@pytest.mark.parametrize(
    ("separate", "planes", "hard"), [(False, PLANES, True), (False, PLANES, False), (True, PLANES, True), (False, APART, True)]
)
def test_generator_loss_is_the_weighted_sum_of_its_parts(separate, planes, hard):
    spy = Spy()
    trainer = level_trainer(
        iterations=1, lr=0.0, edge=24, boxes=(7, 2), adversarial=spy, planes=planes, separate_planes=separate, hard_labels=hard,
        adversarial_weight=0.7, consistency_weight=30.0,
    )  # fmt: skip
    made: list = []
    forward = trainer.network.forward_training
    trainer.network.forward_training = lambda *args: made.extend(forward(*args)) or list(made)
    trainer.run()
    output = trainer.state.output
    labels = trainer.state.batch["image"][0, :-1].argmax(0).numpy()
    assert [scale for scale, _, _ in made] == [2, 4]
    assert all(len(set(start)) > 1 for _, _, (start, _) in made)  # so that axes that are mixed up show
    volumes = [probabilities[0].detach().numpy() for _, probabilities, _ in made]
    if hard:
        volumes = [np.eye(3)[volume.argmax(0)].transpose(3, 0, 1, 2) for volume in volumes]
    by_level = []
    for volume, (_, _, (start, edge)) in zip(volumes, made):
        z, y, x = (slice(s, s + edge) for s in start)
        by_level.append(consistency_by_loops(volume, labels[z, y, x], 0.1))
    assert output["consistency"] == pytest.approx(np.mean(by_level), rel=1e-4) and np.mean(by_level) > 0
    scores: dict[str, list[float]] = {}
    names = {id(critic): name for name, critic in trainer.critics.items()}
    for critic, _, fake in spy.seen["generator"]:
        scores.setdefault(names[id(critic)], []).append(-float(critic(fake).detach().mean()))
    assert {name: len(values) for name, values in scores.items()} == {name: 3 if separate else 1 for name in trainer.critics}
    for name, values in scores.items():
        assert output[f"adversarial_{name}"] == pytest.approx(np.mean(values), rel=1e-4)
    adversarial = np.mean([np.mean(values) for values in scores.values()])
    expected = 30 * np.mean(by_level) + 0.7 * adversarial
    assert output["generator"] == output["loss"] == pytest.approx(expected, rel=1e-4)
    assert set(output) == {"loss", "generator", "critic", "consistency"} | {
        f"{kind}_{name}" for kind in ("critic", "adversarial") for name in trainer.critics
    }


def test_a_phase_that_the_lr_does_not_know_is_free():
    volumes = {0: torch.eye(3)[2], 1: torch.eye(3)[1]}  # all of the third phase; all of the second
    losses = {}
    for known, volume in volumes.items():
        for loss in (BlockConsistency(COST, 0.0), NearestConsistency()):
            stub = Stub(lambda _, v=volume: v[:, None, None, None].expand(3, 8, 8, 8).clone())
            trainer = trainer_of(stub, iterations=1, critics=nn.ModuleDict(), consistency=loss)
            trainer.run()
            losses[known, type(loss).__name__] = trainer.state.output["consistency"]
    assert losses[0, "BlockConsistency"] == 0 < losses[1, "BlockConsistency"]
    # the paper's: charged for the LR phase that is absent, not for the phase that is there
    assert losses[0, "NearestConsistency"] == pytest.approx(0.5)


def test_without_critics_it_trains_on_consistency():
    trainer = level_trainer(iterations=3, critics=nn.ModuleDict(), n_critic=2, buffer=SliceBuffer(2), lr=0.1)
    before = trainer.network.trunk[0].weight.clone()
    steps: list[int] = []
    trainer.g_optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer.run()
    assert steps == [1, 2, 3] and "d_optimizer" not in trainer.parts()
    assert trainer.generator_steps == trainer.ema.n_averaged == 3
    assert set(trainer.state.output) == {"loss", "consistency", "generator"}
    assert not torch.equal(trainer.network.trunk[0].weight, before)


def test_gradients_are_clipped_to_the_norm():
    def gradients(limit):
        trainer = level_trainer(iterations=1, max_grad_norm=limit, adversarial_weight=1000.0, lr=1e-6)  # one critic for both
        trainer.run()
        return [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (trainer.network, trainer.critics)]

    for clipped, free in zip(gradients(0.01), gradients(None), strict=True):
        assert free.norm() > 0.02
        assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)
        assert float(nn.functional.cosine_similarity(clipped, free, dim=0)) > 0.999


@pytest.mark.parametrize(("iterations", "n_critic"), [(7, 3), (4, 1), (2, 3)])
def test_generator_steps_are_those_taken(iterations, n_critic):
    trainer = level_trainer(iterations=iterations, n_critic=n_critic)
    steps: list[int] = []
    trainer.g_optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer.run()
    assert trainer.generator_steps == len(steps) == iterations // n_critic


def test_average_is_that_of_a_loop():
    """It keeps 2/11 of one step before, 3/12 of two and .3 from then on."""
    trainer = level_trainer(iterations=10, n_critic=2, ema_decay=0.3, lr=0.05)
    steps: list[dict[str, Tensor]] = []
    trainer.g_optimizer.register_step_post_hook(
        lambda *_: steps.append({name: value.clone() for name, value in trainer.network.named_parameters()})
    )
    trainer.run()
    assert len(steps) == 5
    for name, value in trainer.ema.module.named_parameters():
        expected = steps[0][name].double()  # the first step is where the average starts
        for step, kept in zip(steps[1:], (2 / 11, 3 / 12, 0.3, 0.3), strict=True):
            expected = kept * expected + (1 - kept) * step[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(trainer.ema.module.trunk[0].weight, trainer.network.trunk[0].weight)


def test_the_seed_decides_the_weights():
    def weights(seed: int, before: int = 0) -> Tensor:
        trainer = level_trainer(iterations=3, n_critic=2, warmup_iterations=1, buffer=SliceBuffer(2), seed=seed)
        torch.manual_seed(before)
        trainer.run()
        return torch.cat([p.detach().flatten() for p in (*trainer.network.parameters(), *trainer.critics.parameters())])

    assert torch.equal(weights(3), weights(3, before=99))  # what was drawn before must not matter
    assert not torch.equal(weights(3), weights(4))


def test_every_epoch_draws_other_patches():
    trainer = level_trainer(iterations=2, epochs=3)
    trainer.run()
    assert trainer.data_loader.dataset.epochs == [1, 2, 3]


class Broken:
    """Fails at an iteration, in the critic's or the generator's turn."""

    def __init__(self, turn: str, iteration: int):
        self.turn, self.iteration, self.loss = turn, iteration, WassersteinLoss()

    def __getattr__(self, name):
        def call(critic, real, fake):
            value = getattr(self.loss, name)(critic, real, fake)
            return value * float("nan") if name == self.turn and self.trainer.state.iteration == self.iteration else value

        return call


@pytest.mark.parametrize(
    ("turn", "name"), [("critic_loss", "critic_hr_2x"), ("generator_loss", "adversarial_hr_2x"), ("consistency", "consistency")]
)
def test_stops_at_the_first_loss_that_is_no_number(turn, name):
    trainer = level_trainer(iterations=8)
    if turn == "consistency":
        inner = trainer.consistency
        trainer.consistency = lambda p, lr: inner(p, lr) * (float("inf") if trainer.state.iteration == 5 else 1.0)
    else:
        trainer.adversarial = Broken(turn, 5)
        trainer.adversarial.trainer = trainer
    with pytest.raises(InputError, match=rf"iteration 5: the loss '{name}' became (nan|inf).*last checkpoint is kept") as caught:
        trainer.run()
    assert "\n" not in str(caught.value) and trainer.state.iteration == 5


@pytest.mark.parametrize("border", [0, 2])
@pytest.mark.parametrize(("boxes", "kept"), [((6, 4), True), ((7, 4), False), ((6, 3), False)])
def test_slices_of_other_boxes_are_forgotten(boxes, kept, border):
    """A training that is resumed with smaller boxes, since its memory was too little, starts its buffer anew, also where no volume is made first."""
    first = level_trainer(iterations=4, n_critic=2, border=border, buffer=SliceBuffer(4), boxes=(6, 4))
    first.run()
    seen: dict[str, set] = {}
    second = level_trainer(iterations=3, epochs=2, n_critic=2, border=border, buffer=SliceBuffer(4), boxes=boxes)
    second.buffer.load_state_dict(first.buffer.state_dict())
    second.add_event_handler(Events.STARTED, lambda: seen.update({name: len(ring) for name, ring in second.buffer.rings.items()}))
    second.run()
    assert seen == ({"hr_2x": 3, "hr_4x": 3} if kept else {})
    sizes = {name: {slices.shape[-1] for slices, _ in ring} for name, ring in second.buffer.rings.items()}
    assert sizes == {"hr_2x": {2 * boxes[0] - border}, "hr_4x": {4 * boxes[1] - 2 * border}}


@pytest.mark.parametrize("teacher", ["absent", "patches"])
def test_weights_that_are_no_numbers_are_told_as_a_loss_is(teacher):
    """What is counted or drawn by probabilities would end in an index out of bounds."""
    images = [np.random.default_rng(0).integers(0, 3, (24, 24)).astype(np.uint8)]
    settings: dict = {"critics": nn.ModuleDict(), "lr": float("inf"), "hard_labels": False}
    if teacher == "absent":
        absent = AbsentPhases(images, ["a", "b"], 4, 0.1, ["a", "b"], [0.5, 0.5], [0.5, 0.3])
        settings["consistency"] = BlockConsistency(COST, 0.1, absent)
    else:
        settings["patches"] = SlicedWasserstein({"hr": images}, 3, 4, patch=3, samples=8)
    trainer = level_trainer(iterations=3, **settings)
    with pytest.raises(InputError, match="iteration 2: the loss 'consistency' became nan.*last checkpoint is kept"):
        trainer.run()


def test_example_slices_are_label_images_of_lr_sr_and_hr():
    trainer = level_trainer(iterations=1, fill={"hr": 2})
    trainer.run()
    lr, sr, hr = trainer.example_slices()
    assert (lr.shape, sr.shape, hr.shape) == ((2, 2), (8, 8), (8, 8))
    assert set(np.unique(lr)) <= {0, 1} and set(np.unique(sr)) <= {0, 1, 2} and set(np.unique(hr)) == {2}


def test_looking_at_the_average_does_not_change_it():
    torch.manual_seed(0)
    trainer = trainer_of(
        PaperGenerator(3, 3, width=16), iterations=1, edge=2, boxes=(2,), scales=(8,), batch_size=2, ema_decay=0.0, hard_labels=False
    )
    trainer.run()
    before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    assert torch.equal(before["module.stem.1.running_mean"], trainer.network.stem[1].running_mean)
    trainer.example_slices()
    for name, value in trainer.ema.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("network", ["level", "paper"])
def test_bfloat16_autocast_trains(network):
    options = {"iterations": 2, "amp": True}
    if network == "level":
        trainer = level_trainer(**options)
    else:
        trainer = trainer_of(PaperGenerator(3, 3, width=16), edge=4, boxes=(4,), scales=(8,), batch_size=2, hard_labels=False, **options)
    trainer.run()
    assert np.isfinite(list(trainer.state.output.values())).all()
    assert all(p.dtype == torch.float32 for p in trainer.network.parameters())


class Teacher:
    """A patch distance or a feedback that remembers what it was given: where, the newest slices, and the pool or their LR shares."""

    def __init__(self):
        self.seen: list[tuple] = []

    def __call__(self, *given) -> Tensor:
        *where, fake, other = given
        self.seen.append((*where, fake.detach().clone(), other.clone()))
        return fake.square().mean()


@pytest.mark.parametrize("volumes", [0, 2])
def test_the_patch_distance_teaches_without_critics(volumes):
    patches = Teacher()
    trainer = level_trainer(
        iterations=3, critics=nn.ModuleDict(), hard_labels=False, patches=patches, patch_weight=6.0, consistency_weight=0.0,
        buffer=SliceBuffer(volumes) if volumes else None,
    )  # fmt: skip
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: trainer.state.batch.pop("hr"))  # real crops are for critics
    trainer.run()
    output = trainer.state.output
    assert output["generator"] == pytest.approx(6.0 * (output["patches_hr_2x"] + output["patches_hr_4x"]) / 2)
    assert [(group, scale) for group, scale, _, _ in patches.seen] == [("hr", 2), ("hr", 4)] * 3
    for step in range(3):
        for level in range(2):
            _, _, fake, pool = patches.seen[2 * step + level]
            assert fake.shape == (6, 3, 8, 8) and not torch.equal(fake, fake.round())  # 4 LR voxels at 2x, 2 at 4x
            if not volumes:
                assert torch.equal(pool, fake)
                continue
            assert pool.shape == (24, 3, 8, 8)
            known = [patches.seen[2 * k + level][2] for k in range(max(0, step - 1), step + 1)]  # of the last two steps
            apart = torch.stack([(torch.cat(known) - one).abs().amax((1, 2, 3)) for one in pool])
            assert apart.amin(1).max() < 1e-3  # half precision
            assert apart[:, -6:].amin(1).min() < 1e-3 and (step == 0 or apart[:, -6:].amin(1).max() > 1e-3)  # the newest among others


def test_the_patch_distance_works_beside_critics():
    patches = Teacher()
    trainer = level_trainer(iterations=2, n_critic=2, patches=patches)
    trainer.run()
    assert len(patches.seen) == 2  # a generator step, two scales
    assert {"critic_hr_2x", "adversarial_hr_4x", "patches_hr_4x"} <= set(trainer.state.output)


@pytest.mark.parametrize("planes", [PLANES, APART])
@pytest.mark.parametrize("beside", [True, False])
def test_the_feedback_prices_the_finest_slices_alone(planes, beside):
    """Mean over the groups, beside the mean of the patch distances over groups and scales, of the same slices."""
    feedback, patches = Teacher(), Teacher() if beside else None
    trainer = level_trainer(
        iterations=2, critics=nn.ModuleDict(), hard_labels=False, planes=planes, patches=patches, patch_weight=6.0,
        feedback=feedback, feedback_weight=5.0, consistency_weight=2.0, buffer=SliceBuffer(2),
    )  # fmt: skip
    trainer.run()
    output = trainer.state.output
    names = [f"patches_{group}_{scale}x" for group in planes for scale in (2, 4)] if beside else []
    assert set(output) == {"loss", "generator", "consistency", *names} | {f"feedback_{group}" for group in planes}
    expected = 2 * output["consistency"] + 5 * np.mean([output[f"feedback_{group}"] for group in planes])
    expected += 6 * np.mean([output[name] for name in names]) if beside else 0
    assert output["generator"] == pytest.approx(expected, rel=1e-5) and output["feedback_hr" if planes is PLANES else "feedback_hr_xy"] > 0
    assert [group for group, _, _ in feedback.seen] == list(planes) * 2
    for group, fake, shares in feedback.seen:
        assert fake.shape == (2 * len(planes[group]), 3, 8, 8) and shares.shape == (len(fake), 2)
    assert ("feedback" in trainer.parts()) and "feedback" not in level_trainer().parts()


class Echo(Stub):
    """Phases 0 and 1 are the LR labels, enlarged: each slice says what the LR says of it."""

    def forward_training(self, image: Tensor, edges) -> list:
        labels = nn.functional.interpolate(image[:, :2], scale_factor=2)
        return [(2, torch.cat([labels, 0 * labels[:, :1]], 1) + 0 * self.weight, ((0, 0, 0), image.shape[-1]))]


@pytest.mark.parametrize("separate", [True, False])
def test_the_feedback_gets_the_lr_shares_of_each_slice(separate):
    feedback = Teacher()
    trainer = trainer_of(
        Echo(None), iterations=3, critics=nn.ModuleDict(), hard_labels=False, feedback=feedback, slices_per_plane=None,
        separate_planes=separate, batch_size=2,
    )  # fmt: skip
    trainer.run()
    assert len(feedback.seen) == 3
    for _, fake, shares in feedback.seen:
        assert len(fake) == 2 * 3 * 8 and len(shares.unique()) > 2  # of two patches, in three planes
        torch.testing.assert_close(shares, fake[:, :2].mean((2, 3)))


class Corrected(Echo):
    """Says that the LR labels are swapped, while the result is as they came."""

    def corrected(self, image: Tensor) -> Tensor:
        return image[:, :-1].flip(1)


def test_the_losses_see_the_corrected_labels():
    """The consistency, and the LR shares of slices that the feedback and a matched label go by."""
    feedback, seen = Teacher(), []

    class Consistency(BlockConsistency):
        def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
            seen.append(labels)
            return super().forward(probabilities, labels)

    trainer = trainer_of(
        Corrected(None), iterations=2, critics=nn.ModuleDict(), hard_labels=False, feedback=feedback, consistency=Consistency(COST, 0.1),
        slices_per_plane=None,
    )  # fmt: skip
    trainer.run()
    came = trainer.state.batch["image"][:, :2]
    assert torch.equal(seen[-1], came.flip(1))
    wrong = 0.4 * came[:, 1].mean() + 0.6 * came[:, 0].mean()  # all of it: COST less the tolerance
    assert trainer.state.output["consistency"] == pytest.approx(wrong.item(), rel=1e-5)
    for _, fake, shares in feedback.seen:
        torch.testing.assert_close(shares, fake[:, :2].flip(1).mean((2, 3)))


def test_a_learned_confusion_is_that_of_the_scan_as_it_came():
    """The result is as the labels came, so they are explained; corrected ones, swapped, would not be. What was learned goes into the checkpoint."""
    consistency = ConfusionConsistency([0.45, 0.45, 0.1], [0.5, 0.5], 2, prior=1e-3)
    consistency.table.fill_(0.5)
    trainer = trainer_of(
        Corrected(None), iterations=30, critics=nn.ModuleDict(), hard_labels=False, consistency=consistency, slices_per_plane=None
    )  # fmt: skip
    trainer.run()
    assert consistency.confusion().diagonal()[:2].min() > 0.9
    torch.testing.assert_close(trainer.parts()["consistency"].state_dict()["table"], consistency.table)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_learning_rates_fall_over_the_last_share_of_the_training(decay):
    """Linearly, to a twentieth at the last of 20 iterations; a resumed run has the same, whatever rates its optimizers come with."""

    def rates(resumed: bool) -> dict[int, tuple[float, float]]:
        trainer = trainer_of(Stub(constant), iterations=10, epochs=2, lr=0.4, decay=decay)
        if resumed:
            trainer.state.epoch, trainer.state.iteration = 1, 10
            trainer.g_optimizer.param_groups[0]["lr"] = trainer.d_optimizer.param_groups[0]["lr"] = 9.0
        found = {}
        optimizers = (trainer.g_optimizer, trainer.d_optimizer)
        trainer.g_optimizer.register_step_post_hook(
            lambda *_: found.update({trainer.state.iteration: tuple(o.param_groups[0]["lr"] for o in optimizers)})
        )
        trainer.run()
        return found

    whole = rates(resumed=False)
    assert list(whole) == list(range(1, 21))
    for iteration, found in whole.items():
        passed = max(0.0, (iteration - 20 * (1 - decay)) / (20 * decay)) if decay else 0.0  # of the decay
        assert found == pytest.approx((0.4 * (1 - 0.95 * passed),) * 2)
    assert rates(resumed=True) == {iteration: found for iteration, found in whole.items() if iteration > 10}


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_memory_that_a_step_lacks_is_one_line(batch_size, amp):
    """An allocation that really fails."""
    stub = Stub(lambda _: torch.empty(2**50))
    trainer = trainer_of(stub, iterations=3, batch_size=batch_size, slices_per_plane=5, amp=amp)
    with pytest.raises(InputError) as caught:
        trainer.run()
    message = str(caught.value)
    assert message.startswith("training, a step (iteration 1): the memory is too little (4,194,304 GiB more asked for, ")
    batch = f"batch_size (now {batch_size}) or " if batch_size > 1 else ""
    assert message.endswith(f"lower {batch}boxes (now [4]) or slices_per_plane (now 5){'' if amp else ', or set amp to true'}") and "\n" not in message


def test_memory_that_a_handler_lacks_is_one_line():
    trainer = level_trainer(iterations=1)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: bytearray(2**60))
    with pytest.raises(InputError, match=r"^training, beside the steps \(patches, pictures, monitors, checkpoint\): the memory is too little"):
        trainer.run()


def test_labels_are_corrected_where_a_volume_is_made_alone(monkeypatch):
    """In the first iteration, to begin the buffer, and with each generator step; a critic's turn takes what the buffer holds."""
    trainer, corrected = level_trainer(iterations=5, n_critic=2, buffer=SliceBuffer(3)), []
    once = trainer.network.corrected
    monkeypatch.setattr(trainer.network, "corrected", lambda image: corrected.append(trainer.state.iteration) or once(image))
    trainer.run()
    assert corrected == [1, 2, 4]


class Turned(AdaptiveAugmentation):
    """An augmentation that marks what it saw: each phase becomes the next."""

    def __init__(self):
        super().__init__(LabelAugmentation(), interval=1)
        self.followed: list[str] = []

    def __call__(self, name: str, maps: Tensor) -> Tensor:
        return maps.roll(1, dims=1)

    def follow(self, name: str, real: Tensor, fake: Tensor) -> None:
        self.followed.append(name)


def test_critics_see_what_the_augmentation_makes_of_reals_and_fakes_alike():
    seen = {}
    for name, augmentation in (("plain", None), ("turned", Turned())):
        spy = Spy()
        trainer = level_trainer(iterations=2, n_critic=1, adversarial=spy, augmentation=augmentation, fill={"hr": 0})
        trainer.run()
        seen[name] = spy.seen
    for kind in ("critic", "generator"):
        (_, real, fake), (_, turned_real, turned_fake) = seen["plain"][kind][0], seen["turned"][kind][0]
        assert torch.equal(turned_real, real.roll(1, 1)) and real[:, 0].mean() == 1 and turned_real[:, 1].mean() == 1
        if kind == "critic":  # its first step: the weights are the same yet
            assert torch.equal(turned_fake, fake.roll(1, 1))
    assert augmentation.followed == ["hr_2x", "hr_4x"] * 2


def test_the_fakes_that_the_generator_learns_from_are_augmented_with_their_gradient():
    trainer = level_trainer(iterations=1, n_critic=1, augmentation=Turned(), consistency_weight=0.0, critic=lambda: Score(3), lr=0.0)
    gradients = {}
    trainer.g_optimizer.register_step_pre_hook(lambda *_: gradients.update({n: p.grad.clone() for n, p in trainer.network.named_parameters()}))
    weights = torch.tensor([1.0, 0.0, -1.0])
    for critic in trainer.critics.values():
        critic.weight.data.copy_(weights.roll(1))  # a critic of the turned phases is one of the phases themselves
    trainer.run()
    turned, gradients = gradients, {}
    plain = level_trainer(iterations=1, n_critic=1, consistency_weight=0.0, critic=lambda: Score(3), lr=0.0)
    for critic in plain.critics.values():
        critic.weight.data.copy_(weights)
    plain.g_optimizer.register_step_pre_hook(lambda *_: gradients.update({n: p.grad.clone() for n, p in plain.network.named_parameters()}))
    plain.run()
    assert max(value.abs().max() for value in gradients.values()) > 0
    for name, value in gradients.items():
        torch.testing.assert_close(turned[name], value, rtol=1e-4, atol=1e-7)
