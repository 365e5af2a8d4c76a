"""The consistency that learns how the scan labels, against plain loops, a linear program and scanners whose errors are known."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch.nn import functional as F

from bundle.losses.confusion import FLOOR, ConfusionConsistency, least_confusion


def onehot(labels: torch.Tensor, number: int) -> torch.Tensor:
    return F.one_hot(labels, number).movedim(-1, 1).float()


@pytest.mark.parametrize(("hr", "lr"), [((0.19, 0.68, 0.1, 0.03), (0.165, 0.758, 0.026, 0.051)), ((0.2, 0.5, 0.3), (0.25, 0.75)), ((0.4, 0.6), (0.4, 0.6))])
def test_least_confusion_keeps_as_much_as_a_linear_program(hr, lr):
    """It turns the fractions of the images into the scan's, and no other table that does so has fewer wrong labels."""
    rows = np.array(least_confusion(hr, lr))
    np.testing.assert_allclose(rows.sum(1), 1)
    np.testing.assert_allclose(np.array(hr) @ rows, lr)
    kept = sum(hr[i] * rows[i, i] for i in range(len(lr)))
    p, n = len(hr), len(lr)
    gain = -np.eye(p, n).ravel()
    sums = np.concatenate([np.kron(np.eye(p), np.ones(n)), np.kron(np.ones(p), np.eye(n))])
    best = linprog(gain, A_eq=sums, b_eq=[*hr, *lr], bounds=(0, None))
    assert kept == pytest.approx(-best.fun)


def test_a_phase_that_the_images_lack_is_labelled_as_itself():
    np.testing.assert_allclose(least_confusion((0.5, 0.5, 0.0), (0.4, 0.4, 0.2))[2], (0, 0, 1))


@pytest.mark.parametrize(("phases", "labels", "factor"), [(3, 3, 2), (4, 3, 4)])
def test_charge_equals_a_loop(phases, labels, factor):
    torch.manual_seed(0)
    loss = ConfusionConsistency([1 / phases] * phases, [1 / labels] * labels, factor, tolerance=0.65)
    loss.table.copy_(torch.rand(loss.table.shape).softmax(1))
    probabilities = (3 * torch.randn(2, phases, 2 * factor, 3 * factor, 2 * factor)).softmax(1)
    lr = torch.randint(labels, (2, 2, 3, 2))
    row = {pair: i for i, pair in enumerate((a, b) for a in range(phases) for b in range(a, phases))}
    total, charged = 0.0, 0
    for b, z, y, x in product(range(2), range(2), range(3), range(2)):
        block = probabilities[b, :, z * factor : (z + 1) * factor, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        share = [float(block[p].mean()) for p in range(phases)]
        likely = sum(  # of two voxels drawn one after the other
            share[p] * share[q] * float(loss.table[row[min(p, q), max(p, q)], lr[b, z, y, x]]) for p in range(phases) for q in range(phases)
        )
        total += max(0.0, log(0.35 / likely))
        charged += likely < 0.35
    assert 0 < charged < lr.numel()  # both sides of the tolerance
    assert loss(probabilities, onehot(lr, labels)).item() == pytest.approx(total / lr.numel(), rel=1e-4)


def test_what_cannot_be_told_apart_is_free_and_the_impossible_is_not():
    """A scan that labels most feldspar quartz: quartz may be feldspar. It never labels pore so: that is charged by the floor alone."""
    loss = ConfusionConsistency([0.2, 0.6, 0.2], [0.2, 0.78, 0.02], 2)
    loss.table.copy_(loss._rows(torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0.7, 0.3]])))
    volume = torch.zeros(1, 3, 2, 2, 2)
    charges = []
    for phase in range(3):
        volume.zero_()[:, phase] = 1
        charges.append(loss(volume, onehot(torch.ones(1, 1, 1, 1, dtype=torch.long), 3)).item())
    assert charges[1] == charges[2] == 0
    assert charges[0] == pytest.approx(log(0.65 / (FLOOR / 3)), rel=1e-4)


@pytest.mark.parametrize("labels", [3, 4])
def test_phases_and_labels_stay_as_frequent_as_is_known(labels):
    """At the start, and after a generator that made everything quartz and one that made what the labels say; the start is the least confusion."""
    hr, lr = [0.19, 0.68, 0.1, 0.03], [0.165, 0.758, 0.026, 0.051][:labels]
    lr = [share / sum(lr) for share in lr]
    loss = ConfusionConsistency(hr, lr, 2)
    for volume in (None, onehot(torch.ones(1, 8, 8, 8, dtype=torch.long), 4), "as labelled"):
        if volume is not None:
            drawn = torch.multinomial(torch.tensor(lr), 4**3, True).view(1, 4, 4, 4)
            fine = drawn.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
            for _ in range(50):
                loss.learn(F.avg_pool3d(onehot(fine, 4) if isinstance(volume, str) else volume, 2), onehot(drawn, labels))
        joint = loss._scaled(loss.counts / loss.weight.clamp(min=1) + loss.prior * loss.start)
        torch.testing.assert_close(joint.sum(0), torch.tensor(lr), atol=1e-3, rtol=0)
        torch.testing.assert_close((loss.share * joint.sum(1, keepdim=True)).sum(0), torch.tensor(hr), atol=3e-3, rtol=0)
        assert loss.confusion()[2, 1] > 0.5  # most of the feldspar passes for quartz: there is no other label for it
    start = ConfusionConsistency(hr, lr, 2).confusion()
    torch.testing.assert_close(start, torch.tensor(least_confusion(hr, lr)).float(), atol=0.12, rtol=0)


def scanned(confusion: torch.Tensor, rim: float, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A volume of blocks, some of one phase and some half pore and half quartz, and the labels of a scanner.

    Of the blocks of one phase `confusion` says the labels. A mixed one is labelled clay with probability `rim`, else pore or quartz.
    """
    first = torch.multinomial(torch.tensor([0.3, 0.5, 0.15, 0.05]), size**3, True, generator=draw).view([size] * 3)
    mixed = (first < 2) & (torch.rand([size] * 3, generator=draw) < 0.4)
    blocks = F.one_hot(first, 4).float()
    blocks[mixed] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    chance = blocks @ confusion
    chance[mixed] = torch.tensor([(1 - rim) / 2, (1 - rim) / 2, 0.0, rim])
    labels = torch.multinomial(chance.view(-1, 4), 1, generator=draw).view(1, *[size] * 3)
    volume, halved = (x.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2) for x in (first, mixed))
    volume[1::2] = torch.where(halved, 1 - volume, volume)[1::2]
    return onehot(volume[None], 4), onehot(labels, 4)


def test_it_learns_the_errors_of_a_scanner():
    """Confusion of pure voxels, and that voxels half of pore and half of quartz pass for clay, from volume fractions and joint examples alone."""
    confusion = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0.8, 0.2, 0], [0.1, 0, 0, 0.9]])
    draw = torch.Generator().manual_seed(1)
    examples = [scanned(confusion, 0.6, 16, draw) for _ in range(12)]
    hr = torch.stack([volume.mean((0, 2, 3, 4)) for volume, _ in examples]).mean(0)
    lr = torch.stack([labels.mean((0, 2, 3, 4)) for _, labels in examples]).mean(0)
    loss = ConfusionConsistency(hr.tolist(), lr.tolist(), 2, prior=1e-3)
    for step in range(300):
        volume, labels = examples[step % len(examples)]
        loss((0.98 * volume + 0.005).requires_grad_(True), labels)
    found = loss.confusion()
    # a block half of each is the pure pair in half of the draws, so what pure blocks are is told by those of one phase
    torch.testing.assert_close(found[2:], confusion[2:], atol=0.06, rtol=0)
    assert found.diagonal()[:2].min() > 0.9
    mixed = loss.table[1]  # pore with quartz
    assert mixed[3] > 0.9  # a half-half block is such a pair in half of the draws: labelled clay in .6, it takes all that it can


def test_only_training_at_the_finest_level_teaches():
    loss = ConfusionConsistency([0.4, 0.6], [0.5, 0.5], 4)
    lr = onehot(torch.randint(2, (1, 2, 2, 2)), 2)
    before = loss.table.clone()
    loss(torch.rand(1, 2, 8, 8, 8).softmax(1), lr)
    loss(torch.rand(1, 2, 4, 4, 4).softmax(1).requires_grad_(True), lr)
    assert torch.equal(loss.table, before)
    loss(torch.rand(1, 2, 8, 8, 8).softmax(1).requires_grad_(True), lr)
    assert not torch.equal(loss.table, before)
    torch.testing.assert_close(loss.table.sum(1), torch.ones(3))


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(3)
    loss = ConfusionConsistency([0.4, 0.6], [0.5, 0.5], 8, tolerance=0.0).double()
    lr = onehot(torch.randint(2, (1, 2, 2, 2)), 2).double()
    probabilities = torch.rand(1, 2, 4, 4, 4, dtype=torch.float64).softmax(1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda p: loss(p, lr), probabilities)


def test_where_all_is_tolerated_nothing_is_charged_and_the_gradient_is_a_number():
    loss = ConfusionConsistency([0.4, 0.6], [0.5, 0.5], 8, tolerance=1.0)
    probabilities = torch.rand(1, 2, 4, 4, 4).softmax(1).requires_grad_(True)
    charge = loss(probabilities, onehot(torch.randint(2, (1, 2, 2, 2)), 2))
    charge.backward()
    assert charge.item() == 0 and not probabilities.grad.any()
