"""Phases that are nowhere around, against plain loops over blocks, neighbours, planes and ranks."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bundle.losses.absent import AbsentPhases, absent, images_shares, plane_shares
from bundle.losses.consistency import BlockConsistency

COST = [[0, 1, 0.8], [0.5, 0, 0.1], [0.9, 0.2, 0]]
AMPLE = {"seen": ["a", "b", "c"], "lr_fractions": [1.0, 1.0, 1.0], "hr_fractions": [0.4, 0.3, 0.3]}  # the scan sees all
PORE_AND_CLAY = np.zeros((96, 96), np.uint8)  # 24 x 24 blocks of 4 pixels, all of them pore: row i holds i / 2 of 16 pixels of clay, 7 at most
for row in range(24):
    for pixel in range(min(row // 2, 7)):
        PORE_AND_CLAY[4 * row + pixel // 4, pixel % 4 :: 4] = 1
ONE_IN_FIVE = np.zeros((132, 132), np.uint8)  # of 33 x 33 blocks of pore one in five holds a quarter of clay
for y, x in product(range(33), range(33)):
    if (y + 2 * x) % 5 == 0:
        ONE_IN_FIVE[4 * y, 4 * x : 4 * x + 4] = 1


def onehot_of(labels: torch.Tensor, number: int) -> torch.Tensor:
    return F.one_hot(labels, number).movedim(-1, 1).double()


def neighbours(labels: np.ndarray, voxel: tuple[int, ...]) -> set[int] | None:
    """Labels in and around a pixel or voxel; None at the border."""
    if not all(0 < i < n - 1 for i, n in zip(voxel, labels.shape)):
        return None
    return set(labels[tuple(slice(i - 1, i + 2) for i in voxel)].ravel().tolist())


def is_absent(around: set[int] | None, phase: int, known: list[bool]) -> bool:
    return around is not None and phase not in around and (known[phase] or len(around) == 1)


def planes_of(block: np.ndarray) -> list[float]:
    """Means of the planes of a cubic block, along z, y and x."""
    return [float(block.take(i, axis).mean()) for axis in range(3) for i in range(block.shape[0])]


@pytest.mark.parametrize("known", [[True, True, True], [True, False, True], [False, False, False]])
@pytest.mark.parametrize("shape", [(9, 12), (6, 5, 7)])
def test_absent_equals_a_loop_over_the_neighbours(known, shape):
    labels = np.zeros(shape, int)
    labels[-4:], labels[0, :4] = 1, 2
    found = absent(onehot_of(torch.from_numpy(labels)[None], 3), known)[0]
    assert found.sum() > 5
    for phase, *voxel in product(range(3), *map(range, shape)):
        assert found[(phase, *voxel)] == is_absent(neighbours(labels, tuple(voxel)), phase, known), (phase, voxel)
    assert not absent(torch.zeros(1, 3, 2, 9, 9), known).any()


def test_shares_of_the_planes_of_a_block():
    torch.manual_seed(0)
    volume = torch.rand(2, 3, 8, 12, 16, dtype=torch.float64)
    found = plane_shares(volume, 4)
    assert found.shape == (2, 3, 2, 3, 4, 12)
    for b, p, z, y, x in product(range(2), range(3), range(2), range(3), range(4)):
        block = volume[b, p, 4 * z : 4 * z + 4, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].numpy()
        assert found[b, p, z, y, x].tolist() == pytest.approx(planes_of(block), rel=1e-12)


@pytest.mark.parametrize("known", [[True, True, True], [True, False, True]])
def test_the_images_are_counted_block_by_block(known):
    """Majority, eight neighbours, the middles of a thousand ranks. What is absent around fewer than 50 blocks of a label keeps the tolerance; a phase
    that the LR does not know (3) is no label, but where it lies around, neighbours are not alike."""
    rng = np.random.default_rng(0)
    image = np.zeros((96, 96), np.uint8)
    image[:, 62:] = 1
    image[:20, :20], image[40:48, 20:28] = 2, 3
    image[rng.random(image.shape) < 0.1] = 1
    image[rng.random(image.shape) < 0.05] = 3
    blocks = image.reshape(24, 4, 24, 4).swapaxes(1, 2).reshape(24, 24, 16)
    shares = np.stack([(blocks == p).mean(2) for p in range(4)], -1)
    label = shares.argmax(-1)
    held = {pair: [] for pair in product(range(3), range(3))}
    for y, x in product(range(24), range(24)):
        for phase in range(3):
            if label[y, x] < 3 and is_absent(neighbours(label, (y, x)), phase, known):
                held[label[y, x], phase].append(shares[y, x, phase])
    found = images_shares([image, image], known, 4, 0.35)
    assert found.shape == (3, 3, 1000)
    for pair, values in held.items():
        ordered = sorted(values * 2)
        if len(ordered) < 50:
            assert (found[pair] == 0.35).all()
        else:
            assert found[pair].tolist() == pytest.approx([ordered[math.ceil((k + 0.5) / 1000 * len(ordered)) - 1] for k in range(1000)], abs=1e-7)
    counted = {pair for pair, values in held.items() if len(values) >= 25}
    assert counted == {(0, 1), (0, 2), (1, 0), (1, 2)} and 0 < len(held[2, 0]) < 25


@pytest.mark.parametrize("factor", [2, 4])
def test_what_a_phase_may_hold_does_not_depend_on_its_number(factor):
    """At borders many blocks hold two phases alike."""
    rng = np.random.default_rng(2)
    image = np.kron(rng.integers(0, 2, (40, 40)), np.ones((6, 6))).astype(np.uint8)
    image ^= rng.random(image.shape) < 0.02
    found, swapped = (images_shares([one], [True, True], factor, 0.35) for one in (image, 1 - image))
    assert (found != 0.35).any() and np.array_equal(found, swapped[::-1, ::-1])


def charge_by_loops(steps: list[tuple[np.ndarray, np.ndarray]], allowed_of: AbsentPhases, tolerance: float) -> float:
    """The consistency of the last step, (probabilities, labels) each."""
    images, pool = allowed_of.allowed.numpy(), {pair: [] for pair in product(range(3), range(3))}

    def voxels(volume: np.ndarray, labels: np.ndarray):
        factor = volume.shape[-1] // labels.shape[-1]
        for b, *voxel in product(*map(range, labels.shape)):
            cut = tuple(slice(factor * i, factor * i + factor) for i in voxel)
            around = neighbours(labels[b], tuple(voxel))
            yield labels[(b, *voxel)], volume[(b, slice(None), *cut)], [is_absent(around, p, allowed_of.known) for p in range(3)]

    for volume, labels in steps:
        for label, block, missing in voxels(volume, labels):
            for p in range(3):
                if missing[p]:
                    pool[label, p] += [round(64 * share) for share in planes_of(block[p])]
    total = 0.0
    for label, block, missing in voxels(volume, labels):
        total += max(0.0, sum(COST[label][p] * block[p].mean() for p in range(3) if not missing[p]) - tolerance)
        for p in range(3):
            planes = planes_of(block[p]) if missing[p] else []
            for share in planes:
                among, own = pool[label, p], round(64 * share)
                rank = (sum(other < own for other in among) + 0.5 * among.count(own)) / len(among)
                allowed = max(0.02, images[label, p, min(999, int(rank * 1000))])
                total += max(0.0, COST[label][p] * share - allowed) * tolerance / allowed / len(planes)
    return total / labels.size


@pytest.mark.parametrize("lost", [None, 1])
def test_the_charge_equals_a_loop_over_the_last_steps(lost):
    """Three steps, of which two are remembered; borders and an inside of all three labels; one phase beyond the LR's. The scan has lost none, or label 1."""
    rng = np.random.default_rng(1)
    fractions = AMPLE | {"lr_fractions": [0.26 if label == lost else 1.0 for label in range(3)]}
    loss = BlockConsistency(COST, 0.4, AbsentPhases([PORE_AND_CLAY], ["a", "b", "c"], 4, 0.4, **fractions, steps=2)).double()
    assert loss.absent.known == [label != lost for label in range(3)]
    assert (loss.absent.allowed[1:] == 0.4).all() and len(np.unique(loss.absent.allowed[0, 1])) > 5
    loss.absent.allowed[1:] = torch.from_numpy(np.sort(rng.random((2, 3, 1000)) ** 4, -1))
    steps, found = [], []
    for _ in range(3):
        labels = np.full((2, 5, 6, 4), 1)
        labels[0, :, :5], labels[1, :, :4] = 2, 0
        labels[rng.random(labels.shape) < 0.03] = 1
        noise = rng.random((2, 4, 5, 6, 4, 1, 1, 1)) ** 3 * rng.random((2, 4, 5, 6, 4, 2, 2, 2))
        volume = noise.transpose(0, 1, 2, 5, 3, 6, 4, 7).reshape(2, 4, 10, 12, 8)
        volume /= volume.sum(1, keepdims=True)
        steps.append((volume, labels))
        found.append(loss(torch.from_numpy(volume), onehot_of(torch.from_numpy(labels), 3)).item())
    for n, value in enumerate(found):  # costs are kept in single precision
        assert value == pytest.approx(charge_by_loops(steps[max(0, n - 1) : n + 1], loss.absent, 0.4), rel=1e-6)
    assert found[2] != pytest.approx(charge_by_loops(steps, loss.absent, 0.4), rel=1e-4)
    assert found[2] != pytest.approx(charge_by_loops(steps[2:], loss.absent, 0.4), rel=1e-4)


def test_what_lies_around_a_box_tells_what_is_absent_at_its_border():
    """The charge of a box, with what was found from the labels around it, is that of the same voxels within the whole, whose border is free."""
    torch.manual_seed(0)
    labels = torch.zeros(1, 6, 6, 6, dtype=torch.long)
    labels[..., 4:] = 1
    onehot, inside = onehot_of(labels, 3), (slice(None), slice(None), *[slice(1, 5)] * 3)
    whole = onehot.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    fine = (slice(None), slice(None), *[slice(2, 10)] * 3)
    whole[fine] = (3 * torch.rand(1, 3, 8, 8, 8, dtype=torch.double)).softmax(1)

    def loss() -> BlockConsistency:
        return BlockConsistency(COST, 0.4, AbsentPhases([PORE_AND_CLAY], ["a", "b", "c"], 4, 0.4, **AMPLE)).double()

    wanted = loss()(whole, onehot).item() * 6**3  # what is absent at its border is not known, but there the result is the scan
    known = loss()
    assert known(whole[fine], onehot[inside], known.absent.where(onehot)[inside]).item() * 4**3 == pytest.approx(wanted, rel=1e-9)
    assert loss()(whole[fine], onehot[inside]).item() * 4**3 < 0.9 * wanted  # the box alone: its border is free


def scattered(share: float, of_blocks: float, edge: int = 12) -> torch.Tensor:
    """(1, 2, 2 edge, …): pore whose every 1 / of_blocks-th block holds as much clay, all the same in every plane."""
    clay = torch.zeros(edge**3, dtype=torch.double)
    clay[:: round(1 / of_blocks)] = share
    clay = clay.reshape(1, 1, edge, edge, edge).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    return torch.cat([1 - clay, clay], 1)


def two_phases(image: np.ndarray, **options) -> BlockConsistency:
    return BlockConsistency([[0, 1], [1, 0]], 0.4, AbsentPhases([image], ["pore", "clay"], 4, 0.4, ["clay"], [1, 1], [0.5, 0.5], **options))


def test_much_in_few_places_is_free_and_little_everywhere_is_not():
    """As much clay as the images' blocks hold in one block of seven costs nothing; a fifth of it in every block, the amount of the images, costs
    (0.05 - 0.02) x 0.4 / 0.02; and more than they hold costs, too."""
    labels = onehot_of(torch.zeros(1, 12, 12, 12, dtype=torch.long), 2)

    def charge(volume: torch.Tensor) -> float:
        return two_phases(ONE_IN_FIVE).double()(volume, labels).item()

    assert two_phases(ONE_IN_FIVE).absent.allowed[0, 1].mean() == pytest.approx(0.05, abs=2e-3)
    inside = 10**3 / 12**3
    assert charge(scattered(0.25, 1 / 7)) == 0
    assert charge(scattered(0.05, 1)) == pytest.approx(0.03 * 0.4 / 0.02 * inside, rel=1e-6)
    assert charge(scattered(0.35, 1 / 7)) == pytest.approx(0.1 * 0.4 / 0.25 / 7 * inside, rel=0.02)
    assert charge(scattered(0.02, 1)) == 0  # probabilities are never sure


def test_specks_everywhere_gather_in_as_few_places_as_in_the_images():
    """Descent on the charge alone, from a tenth of clay in every block, more or less: as many blocks keep some as in the images, no less than they hold."""
    torch.manual_seed(0)
    loss = two_phases(ONE_IN_FIVE, steps=4)
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


def test_no_sliver_of_feldspar_where_the_scan_has_none_around():
    """The images have feldspar in its grains alone. A third of a block at the border of pore and quartz may be the other of the two; feldspar may not be
    there, but beside a grain of it; and if the scan lost feldspar, or its bodies may be too small to be seen, it may."""
    image = np.zeros((120, 120), np.uint8)
    image[60:], image[:, 92:] = 1, 2
    labels = torch.zeros(1, 3, 12, 12, dtype=torch.long)
    labels[:, :, 6:], labels[..., 10:] = 1, 2
    beside, alone = (1, 5, 9), (1, 5, 5)

    def charge(voxel: tuple[int, int, int], phase: int, **lost) -> float:
        loss = BlockConsistency([[0, 1, 1], [1, 0, 1], [1, 1, 0]], 0.45, AbsentPhases([image], ["a", "b", "c"], 4, 0.45, **AMPLE | lost)).double()
        volume = onehot_of(labels.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3), 3)
        block = tuple(slice(2 * i, 2 * i + 2) for i in voxel)
        volume[(0, 0, *block)], volume[(0, phase, *block)] = 2 / 3, 1 / 3
        return loss(volume, onehot_of(labels, 3)).item() * labels.numel()

    assert charge(alone, 1) == charge(beside, 2) == 0
    assert charge(alone, 2) == pytest.approx((1 / 3 - 0.02) * 0.45 / 0.02)
    assert charge(alone, 2, lr_fractions=[1.0, 1.0, 0.26]) == charge(alone, 2, seen=["a", "b"]) == 0


@pytest.mark.parametrize("differ", [False, True])
def test_a_lost_phase_may_be_anywhere_where_planes_differ(differ):
    """Of two phases the scan lost the second, fibres in the first, which no image block shows where it is alone. Where one set of images teaches all
    planes they may not come between them, and in both cases not be where neither is lost."""
    labels = onehot_of(torch.zeros(1, 6, 6, 6, dtype=torch.long), 3)
    for fraction, free in ((0.8, differ), (1.0, False)):
        fractions = {"lr_fractions": [1.0, fraction, 1.0], "hr_fractions": [1.0, 1.0, 1.0], "seen": []}
        phases = AbsentPhases([np.zeros((48, 48), np.uint8)], ["a", "b", "c"], 4, 0.45, **fractions, planes_differ=differ)
        volume = onehot_of(torch.zeros(1, 12, 12, 12, dtype=torch.long), 3)
        volume[0, 0, 4:6, 4:6, 4:6], volume[0, 1, 4:6, 4:6, 4:6] = 2 / 3, 1 / 3
        assert phases.where(labels)[0, :, 2, 2, 2].tolist() == [0, not free, 1]
        charged = BlockConsistency([[0, 1, 1], [1, 0, 1], [1, 1, 0]], 0.45, phases).double()(volume, labels).item()
        assert (charged == 0) == free


def test_of_mixed_labels_the_images_say_nothing():
    """Clay voxels may be mixed of pore and another: of pore they may hold what they may elsewhere, of quartz what the images say. Other names are left out."""
    turned = np.where(PORE_AND_CLAY == 0, 2, 0).astype(np.uint8)  # clay with pore in it
    mixed = {"clay": "pore", "quartz": "micrite", "gypsum": "pore"}
    plain, known = (AbsentPhases([turned], ["pore", "quartz", "clay"], 4, 0.45, **AMPLE, mixed=rims).allowed for rims in (None, mixed))
    assert (known[2, 0] == 0.45).all() and (plain[2, 0] != 0.45).all()
    plain[2, 0] = 0.45
    assert torch.equal(plain, known) and not known[2, 1].any()


def test_what_is_remembered_is_of_the_scale_and_survives_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    first, second = (two_phases(PORE_AND_CLAY, steps=3).absent for _ in range(2))
    labels = onehot_of(torch.zeros(1, 5, 5, 5, dtype=torch.long), 2)
    for factor in (2, 4, 2):
        first(torch.rand(1, 2, *[5 * factor] * 3, dtype=torch.double).softmax(1), labels, first.where(labels))
    assert {name: len(ring) for name, ring in first.rings.items()} == {"2x": 2, "4x": 1}
    assert first.rings["4x"][0][0].sum() == 3**3 * 12  # planes, of one phase that is not there
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    volume = torch.rand(1, 2, 10, 10, 10, dtype=torch.double).softmax(1)
    for one, other in zip(*(memory(volume, labels, memory.where(labels)) for memory in (first, second))):
        assert torch.equal(one, other)
