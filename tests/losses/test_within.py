"""What lies within a phase, against plain loops over blocks, planes and ranks."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bundle.losses.consistency import BlockConsistency
from bundle.losses.within import WithinPhase, images_shares, plane_shares, within

COST = [[0, 1, 0.8], [0.5, 0, 0.1], [0.9, 0.2, 0]]
PORE_AND_CLAY = np.zeros((96, 96), np.uint8)  # 24 x 24 blocks of 4 pixels, 22 x 22 of them within pore: row i holds i / 2 of 16 pixels of clay
for row in range(24):
    PORE_AND_CLAY[4 * row, 0 : 4 * 24 : 4] = 1 if row > 1 else 0
    for pixel in range(min(row // 2, 7)):
        PORE_AND_CLAY[4 * row + pixel // 4, pixel % 4 :: 4] = 1


def onehot_of(labels: torch.Tensor, number: int) -> torch.Tensor:
    return F.one_hot(labels, number).movedim(-1, 1).double()


def inside_of(labels: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels (batch, …) whose neighbours are all there and have their label."""
    found = []
    for b, *voxel in product(*map(range, labels.shape)):
        if all(0 < i < n - 1 for i, n in zip(voxel, labels.shape[1:])):
            around = labels[(b, *(slice(i - 1, i + 2) for i in voxel))]
            if (around == labels[(b, *voxel)]).all():
                found.append((b, *voxel))
    return found


def planes_of(block: np.ndarray) -> list[float]:
    """Means of the planes of a cubic block, along z, y and x."""
    return [float(block.take(i, axis).mean()) for axis in range(3) for i in range(block.shape[0])]


def test_within_in_two_dimensions_and_where_there_is_no_inside():
    labels = torch.zeros(1, 5, 6, dtype=torch.long)
    labels[0, 4, 5] = 1
    inside = within(F.one_hot(labels, 2).movedim(-1, 1).float())
    expected = torch.zeros(1, 2, 5, 6)
    expected[0, 0, 1:4, 1:5] = 1
    expected[0, 0, 3, 4] = 0  # touches the other at a corner
    assert torch.equal(inside, expected)
    assert not within(torch.ones(1, 1, 2, 9, 9)).any()


def test_shares_of_the_planes_of_a_block():
    torch.manual_seed(0)
    volume = torch.rand(2, 3, 8, 12, 16, dtype=torch.float64)
    found = plane_shares(volume, 4)
    assert found.shape == (2, 3, 2, 3, 4, 12)
    for b, p, z, y, x in product(range(2), range(3), range(2), range(3), range(4)):
        block = volume[b, p, 4 * z : 4 * z + 4, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].numpy()
        assert found[b, p, z, y, x].tolist() == pytest.approx(planes_of(block), rel=1e-12)


def test_the_images_are_counted_block_by_block():
    """Majority, eight neighbours alike; the middles of a thousand ranks. A label without an inside keeps the tolerance, and a phase that the LR does
    not know (3) does not count."""
    rng = np.random.default_rng(0)
    image = np.zeros((96, 96), np.uint8)
    image[:, 62:] = 1  # through the middle of blocks, which lie within neither
    image[:20, :20] = 2
    image[rng.random(image.shape) < 0.1] = 1
    image[rng.random(image.shape) < 0.05] = 3
    blocks = image.reshape(24, 4, 24, 4).swapaxes(1, 2).reshape(24, 24, 16)
    shares = np.stack([(blocks == p).mean(2) for p in range(4)], -1)
    label = shares.argmax(-1)
    held = {0: [], 1: [], 2: []}
    for _, y, x in inside_of(label[None]):
        held[label[y, x]].append(shares[y, x, :3])
    assert len(held[0]) > 50 and len(held[1]) > 50 and 0 < 2 * len(held[2]) < 50
    found = images_shares([image, image], 3, 4, 0.35)
    assert found.shape == (3, 3, 1000)
    for a, p in product((0, 1), range(3)):
        ordered = sorted(share[p] for share in held[a] * 2)
        assert found[a, p].tolist() == pytest.approx([ordered[math.ceil((k + 0.5) / 1000 * len(ordered)) - 1] for k in range(1000)], abs=1e-7)
    assert (found[2] == 0.35).all()


def charge_by_loops(steps: list[tuple[np.ndarray, np.ndarray]], images: np.ndarray, tolerance: float) -> float:
    """The consistency of the last step, (probabilities, labels) each; `images`: ordered shares as `images_shares` gives them."""
    pool = {(a, p): [] for a, p in product(range(3), range(3))}
    for volume, labels in steps:
        factor = volume.shape[-1] // labels.shape[-1]
        for b, *voxel in inside_of(labels):
            cut = tuple(slice(factor * i, factor * i + factor) for i in voxel)
            for p in range(3):
                pool[labels[(b, *voxel)], p] += [round(64 * share) for share in planes_of(volume[(b, p, *cut)])]
    total, inside = 0.0, inside_of(labels)
    for b, *voxel in product(*map(range, labels.shape)):
        label, cut = labels[(b, *voxel)], tuple(slice(factor * i, factor * i + factor) for i in voxel)
        if (b, *voxel) not in inside:
            total += max(0.0, sum(COST[label][p] * volume[(b, p, *cut)].mean() for p in range(3)) - tolerance)
            continue
        for p in range(3):
            among = pool[label, p]
            for share in planes_of(volume[(b, p, *cut)]):
                rank = (sum(other < round(64 * share) for other in among) + 0.5 * among.count(round(64 * share))) / len(among)
                allowed = max(0.02, images[label, p, min(999, int(rank * 1000))])
                total += max(0.0, COST[label][p] * share - allowed) * tolerance / allowed / (3 * factor)
    return total / labels.size


def test_the_charge_equals_a_loop_over_the_last_steps():
    """Three steps, of which two are remembered; two labels with an inside of twelve voxels each, a third without; one phase beyond the LR's."""
    rng = np.random.default_rng(1)
    loss = BlockConsistency(COST, 0.4, WithinPhase([PORE_AND_CLAY], ["a", "b", "c"], 4, 0.4, steps=2)).double()
    assert (loss.inner.allowed[1:] == 0.4).all() and len(np.unique(loss.inner.allowed[0, 1])) > 5
    loss.inner.allowed[2] = torch.from_numpy(np.sort(rng.random((3, 1000)) ** 4, 1))
    steps, found = [], []
    for number in range(3):
        labels = np.full((2, 5, 6, 4), 1)
        labels[0, :, :5], labels[1, :, :5] = 2, 0
        labels[rng.random(labels.shape) < 0.03] = 1
        assert len(inside_of(labels)) > 8
        noise = rng.random((2, 4, 5, 6, 4, 1, 1, 1)) ** 3 * rng.random((2, 4, 5, 6, 4, 2, 2, 2))
        volume = noise.transpose(0, 1, 2, 5, 3, 6, 4, 7).reshape(2, 4, 10, 12, 8)
        volume /= volume.sum(1, keepdims=True)
        steps.append((volume, labels))
        found.append(loss(torch.from_numpy(volume), onehot_of(torch.from_numpy(labels), 3)).item())
    for n, value in enumerate(found):
        assert value == pytest.approx(charge_by_loops(steps[max(0, n - 1) : n + 1], loss.inner.allowed.numpy(), 0.4), rel=1e-6)  # costs are kept in single precision
    assert found[2] != pytest.approx(charge_by_loops(steps, loss.inner.allowed.numpy(), 0.4), rel=1e-4)
    assert found[2] != pytest.approx(charge_by_loops(steps[2:], loss.inner.allowed.numpy(), 0.4), rel=1e-4)


def scattered(share: float, of_blocks: float, edge: int = 12) -> torch.Tensor:
    """(1, 2, 2 edge, …): pore whose every 1 / of_blocks-th block holds as much clay, all the same in every plane."""
    clay = torch.zeros(edge**3, dtype=torch.double)
    clay[:: round(1 / of_blocks)] = share
    clay = clay.reshape(1, 1, edge, edge, edge).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    return torch.cat([1 - clay, clay], 1)


def test_much_in_few_places_is_free_and_little_everywhere_is_not():
    """Of the images' blocks within pore one in five holds a quarter of clay. As much in one block of seven costs nothing, a fifth of it in every block,
    which is the same amount, does: (0.05 - 0.02) x 0.4 / 0.02 in four of five ranks; and so does more than a quarter."""
    image = np.zeros((132, 132), np.uint8)
    for y, x in product(range(33), range(33)):
        if (y + 2 * x) % 5 == 0:
            image[4 * y, 4 * x : 4 * x + 4] = 1
    labels = onehot_of(torch.zeros(1, 12, 12, 12, dtype=torch.long), 2)

    def charge(volume: torch.Tensor) -> float:
        inner = WithinPhase([image], ["pore", "clay"], 4, 0.4)
        assert inner.allowed[0, 1].mean() == pytest.approx(0.05, abs=2e-3)
        return BlockConsistency([[0, 1], [1, 0]], 0.4, inner).double()(volume, labels).item()

    inside = 10**3 / 12**3
    assert charge(scattered(0.25, 1 / 7)) == 0
    assert charge(scattered(0.05, 1)) == pytest.approx(0.03 * 0.4 / 0.02 * inside, rel=1e-6)
    assert charge(scattered(0.35, 1 / 7)) == pytest.approx(0.1 * 0.4 / 0.25 / 7 * inside, rel=0.02)
    assert charge(scattered(0.02, 1)) == 0  # probabilities are never sure


def test_specks_everywhere_gather_in_as_few_places_as_in_the_images():
    """Descent on the charge alone, from a tenth of clay in every block, more or less: as many blocks keep some as in the images, no less than they hold."""
    torch.manual_seed(0)
    image = np.zeros((132, 132), np.uint8)
    for y, x in product(range(33), range(33)):
        if (y + 2 * x) % 5 == 0:
            image[4 * y, 4 * x : 4 * x + 4] = 1
    loss = BlockConsistency([[0, 1], [1, 0]], 0.4, WithinPhase([image], ["pore", "clay"], 4, 0.4, steps=4))
    labels = onehot_of(torch.zeros(1, 12, 12, 12, dtype=torch.long), 2).float()
    amount = (0.1 + 0.05 * torch.randn(1, 1, 12, 12, 12)).requires_grad_(True)
    for _ in range(200):
        clay = amount.clamp(0, 1).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        loss(torch.cat([1 - clay, clay], 1), labels).backward()
        with torch.no_grad():
            amount -= amount.grad.sign() * 0.001 * (amount.grad != 0)
        amount.grad = None
    left = amount[:, :, 1:-1, 1:-1, 1:-1].detach()
    assert ((left > 0.03).double().mean()).item() == pytest.approx(0.2, abs=0.02)
    assert left[left > 0.03].mean() > 0.13  # the fifth that held most from the start


def test_of_mixed_labels_the_images_say_nothing():
    """Clay voxels may be mixed of pore and another: of pore they may hold what they may elsewhere, of quartz what the images say. Other names are left out."""
    turned = np.where(PORE_AND_CLAY == 0, 2, 0).astype(np.uint8)  # clay with pore in it
    mixed = {"clay": "pore", "quartz": "micrite", "gypsum": "pore"}
    plain, known = (WithinPhase([turned], ["pore", "quartz", "clay"], 4, 0.45, rims).allowed for rims in (None, mixed))
    assert (known[2, 0] == 0.45).all() and (plain[2, 0] != 0.45).all()
    plain[2, 0] = 0.45
    assert torch.equal(plain, known) and not known[2, 1].any()


def test_what_is_remembered_is_of_the_scale_and_survives_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    first, second = (WithinPhase([PORE_AND_CLAY], ["pore", "clay"], 4, 0.4, steps=3) for _ in range(2))
    labels = onehot_of(torch.zeros(1, 5, 5, 5, dtype=torch.long), 2)
    for factor in (2, 4, 2):
        first(torch.rand(1, 2, *[5 * factor] * 3, dtype=torch.double).softmax(1), labels)
    assert {name: len(ring) for name, ring in first.rings.items()} == {"2x": 2, "4x": 1}
    assert first.rings["4x"][0][0].sum() == 3**3 * 12 * 2  # planes, of two phases
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    volume = torch.rand(1, 2, 10, 10, 10, dtype=torch.double).softmax(1)
    for one, other in zip(first(volume, labels), second(volume, labels)):
        assert torch.equal(one, other)
