"""What is measured of the averaged generator and of its slices, against loops over voxels and pixels."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bundle.buffer import SliceBuffer
from bundle.networks.generator import LevelGenerator
from bundle.probe import Made, Probe, agreement, noise_diversity, slice_diversity
from tests.test_trainer import Stub, trainer_of


def onehot(labels: Tensor, n: int) -> Tensor:
    return nn.functional.one_hot(labels.long(), n).movedim(-1, 1).float()


def made_of(lr: Tensor, sr: Tensor, phases: int = 3, start: tuple[int, int, int] = (0, 0, 0)) -> Made:
    """Of LR labels (noises, N, N, N) and SR labels (noises, 2 m, 2 m, 2 m) of the box at `start`."""
    return Made(onehot(lr, 2), [(2, onehot(sr, phases), (start, sr.shape[-1] // 2))])


def random_made(seed: int) -> Made:
    """LR that differs here and there between three noises; SR that is the LR in half of its voxels or so."""
    draw = np.random.default_rng(seed)
    lr = np.broadcast_to(draw.integers(0, 2, (5, 5, 5)), (3, 5, 5, 5)).copy()
    lr[draw.random(lr.shape) < 0.1] = 1
    box = lr[:, 1:4, 2:5, 1:4]
    sr = np.where(draw.random((3, 6, 6, 6)) < 0.3, np.kron(box, np.ones((1, 2, 2, 2), int)), draw.integers(0, 3, (3, 6, 6, 6)))
    return made_of(torch.from_numpy(lr), torch.from_numpy(sr), start=(1, 2, 1))


def test_noise_diversity_is_that_of_a_loop():
    made = [random_made(seed) for seed in range(2)]
    differing = detail = 0
    for one in made:
        labels, sr = one.labels.argmax(1), one.volumes[0][1].argmax(1)
        for a, b in combinations(range(3), 2):
            for z, y, x in product(range(6), repeat=3):
                place = (z // 2 + 1, y // 2 + 2, x // 2 + 1)
                says = int(labels[(a, *place)])
                if says != int(labels[(b, *place)]):
                    continue
                first, second = int(sr[a, z, y, x]), int(sr[b, z, y, x])
                detail += first != says or second != says
                differing += first != second
    assert 0 < differing < detail
    assert noise_diversity(made) == pytest.approx(differing / detail)


def test_noise_diversity_at_its_ends():
    lr = torch.zeros(2, 2, 2, 2)
    sr = torch.zeros(2, 4, 4, 4)
    assert noise_diversity([made_of(lr, sr)]) == 0  # no detail at all
    sr[:, 0] = 1
    assert noise_diversity([made_of(lr, sr)]) == 0  # the same with both
    sr[1, 0], sr[1, 3] = 0, 1
    assert noise_diversity([made_of(lr, sr)]) == 1  # nothing in common
    assert noise_diversity([made_of(torch.stack([lr[0], lr[1] + 1]), sr)]) is None  # all of it came out of hiding


@pytest.mark.parametrize("label", [0, 1])
def test_agreement_is_that_of_a_loop(label):
    made = [random_made(seed) for seed in range(3)]
    kept = all_ = 0
    for one in made:
        labels, sr = one.labels.argmax(1), one.volumes[0][1].argmax(1)
        for n, z, y, x in product(range(3), repeat=4):
            if int(labels[n, z + 1, y + 2, x + 1]) != label:
                continue
            block = sr[n, 2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten().tolist()
            kept += max(range(3), key=lambda phase: (block.count(phase), phase == block[0], -phase)) == label
            all_ += 1
    assert 0 < kept < all_
    assert agreement(made, label, 3) == pytest.approx(kept / all_)


def test_agreement_of_a_label_that_is_not_there():
    assert agreement([made_of(torch.zeros(1, 2, 2, 2), torch.zeros(1, 4, 4, 4))], 1, 3) is None


def test_slice_diversity_is_that_of_all_pairs():
    """Slices of different steps, over all pairs of all crops of an image that is its own torus."""
    draw = np.random.default_rng(0)
    slices = draw.integers(0, 3, (3, 4, 6, 6))
    slices[1] = slices[0]
    buffer = SliceBuffer(3)
    for step in slices:
        buffer.push("hr_2x", 0.1 + 0.5 * onehot(torch.from_numpy(step), 3), torch.zeros(4))
    pairs = [np.mean(a != b) for i, j in combinations(range(3), 2) for a in slices[i] for b in slices[j]]
    image = draw.choice(3, (8, 7), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    crops = [np.roll(image, (y, x), (0, 1)) for y in range(8) for x in range(7)]
    expected = np.mean([np.mean(a != b) for a in crops for b in crops])  # independent places may be the same
    assert slice_diversity(buffer, "hr_2x", [image], 3) == pytest.approx(np.mean(pairs) / expected)


def test_slice_diversity_of_slices_that_are_all_alike():
    buffer, image = SliceBuffer(4), np.array([[0, 1], [1, 0]], np.uint8)
    assert slice_diversity(buffer, "hr_2x", [image], 2) is None
    for _ in range(2):
        buffer.push("hr_2x", onehot(torch.eye(4)[None], 2), torch.zeros(1))
    assert slice_diversity(buffer, "hr_2x", [image], 2) == 0
    assert slice_diversity(buffer, "hr_2x", [0 * image], 2) is None  # nothing to compare with


def level_network(**options) -> LevelGenerator:
    torch.manual_seed(0)
    return LevelGenerator(3, 3, channels=[8, 8, 8], blocks=1, grain_radius=1, **options)


def probed(network: nn.Module, probe: Probe, **options) -> tuple:
    trainer = trainer_of(network, **({"edge": network.patch_edge((4, 2)), "boxes": (4, 2), "critics": nn.ModuleDict()} | options))
    return trainer, probe(trainer)


def test_a_network_that_ignores_the_noise_has_no_diversity():
    """What the noise does to the logits and to the features is taken away; nothing else."""
    assert noise_diversity(probed(level_network(), Probe(patches=4))[1]) > 0.3
    network = level_network(perturbation=0.0, grain_perturbation=0.0)
    with torch.no_grad():
        network.trunk[0].weight[:, [2, 6, 7, 8]] = 0  # two labels, noise, three phases, three smooth noises
        for level in network.levels:
            level.noise_gain.zero_()
    assert noise_diversity(probed(network, Probe(patches=4))[1]) == 0


def test_every_look_is_at_the_same_places_with_the_same_noise():
    trainer, first = probed(level_network(), Probe())
    state = torch.get_rng_state()
    trainer.state.iteration = 5
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    again = Probe()(trainer)
    assert torch.equal(torch.get_rng_state(), drawn) and not torch.equal(drawn, state)  # the training's numbers are left alone
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.labels, b.labels)
        for (_, one, box), (_, other, same_box) in zip(a.volumes, b.volumes, strict=True):
            assert box == same_box and torch.equal(one, other) and not torch.equal(one[0], one[1])
    assert not torch.equal(first[0].labels, first[1].labels)
    assert trainer.data_loader.dataset.epochs == [0, 0, 0, 0]  # patches of epoch 0, then back to where the training is
    assert not torch.equal(Probe(seed=1)(trainer)[0].volumes[-1][1], first[0].volumes[-1][1])


def test_the_largest_seed_is_one_of_a_probe():
    _, made = probed(level_network(), Probe(seed=2**64 - 1))
    assert len(made) == 2 and not torch.equal(made[0].labels, made[1].labels)


def test_the_average_is_looked_at_once_a_look():
    trainer, _ = probed(level_network(), probe := Probe())
    trainer.state.iteration = 3
    before = probe(trainer)
    assert probe(trainer) is before
    trainer.state.iteration = 4
    with torch.no_grad():
        for level in trainer.ema.module.levels:
            level.head.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    after = probe(trainer)
    assert all((one.finest()[1] == 2).all() for one in after) and not (before[0].finest()[1] == 2).all()


def test_patches_with_the_watched_label_are_chosen():
    """Of four, one is half of it."""
    trainer = trainer_of(Echo2(None), critics=nn.ModuleDict(), edge=4)
    patches = [torch.zeros(4, 4, 4, dtype=torch.long) for _ in range(4)]
    patches[0][:] = 1
    patches[2][:2] = 1
    items = [{"image": torch.cat([onehot(p[None], 2)[0], torch.zeros(1, 4, 4, 4)])} for p in patches]
    trainer.data_loader.dataset.__class__ = type("Given", (type(trainer.data_loader.dataset),), {"__getitem__": lambda self, n: items[n]})
    probe = Probe(label=1, patches=1)
    (made,) = probe(trainer)
    assert torch.equal(made.labels[0].argmax(0), patches[2]) and not probe.noisy


class Echo2(Stub):
    """The LR labels, enlarged by 2."""

    def forward_training(self, image: Tensor, edges) -> list:
        labels = nn.functional.interpolate(image[:, :2], scale_factor=2)
        return [(2, torch.cat([labels, 0 * labels[:, :1]], 1) + 0 * self.weight, ((0, 0, 0), image.shape[-1]))]
