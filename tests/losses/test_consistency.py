"""The consistency losses against plain loops."""

from itertools import product

import numpy as np
import pytest
import torch

from bundle.losses.absent import AbsentPhases
from bundle.losses.consistency import BlockConsistency, NearestConsistency, cost_matrix

COST = [[0, 1, 2], [0.5, 0, 0.1], [3, 0.2, 0]]


def case(phases: int = 3, lr_phases: int = 3, factor: int = 2, size=(2, 3, 4), batch: int = 2):
    torch.manual_seed(0)
    probabilities = torch.rand(batch, phases, *(factor * n for n in size), dtype=torch.float64).softmax(1)
    labels = torch.randint(lr_phases, (batch, *size))
    return probabilities, torch.nn.functional.one_hot(labels, lr_phases).movedim(-1, 1).double(), labels


def voxels(labels):
    return product(*(range(n) for n in labels.shape))


def block_loop(probabilities, labels, cost, tolerance, factor) -> float:
    """max(0, sum of cost x share - tolerance), voxel by voxel."""
    total = 0.0
    for b, z, y, x in voxels(labels):
        charge = 0.0
        for phase, price in enumerate(cost[labels[b, z, y, x]]):
            for i in range(factor):
                for j in range(factor):
                    for k in range(factor):
                        charge += price * float(probabilities[b, phase, z * factor + i, y * factor + j, x * factor + k]) / factor**3
        total += max(0.0, charge - tolerance)
    return total / labels.numel()


@pytest.mark.parametrize(("phases", "factor"), [(3, 2), (3, 4), (4, 2)])
def test_nearest_equals_a_loop(phases, factor):
    """3/2 x the MSE of the first voxel of each block over the LR phases; further phases are not compared."""
    probabilities, onehot, labels = case(phases, 3, factor)
    total = 0.0
    for b, z, y, x in voxels(labels):
        for phase in range(3):
            total += (float(probabilities[b, phase, z * factor, y * factor, x * factor]) - (phase == labels[b, z, y, x]).item()) ** 2
    expected = total / (labels.numel() * 3) * 3 / 2
    assert NearestConsistency()(probabilities, onehot).item() == pytest.approx(expected, rel=1e-12)


def test_nearest_reads_one_voxel_of_each_block():
    """The weakness of the published loss, and why it is not the default."""
    probabilities, onehot, _ = case(3, 3, 4)
    probabilities.requires_grad_(True)
    NearestConsistency()(probabilities, onehot).backward()
    read = probabilities.grad.ne(0).double().sum((0, 1))
    assert read[::4, ::4, ::4].all()
    assert read.sum() == read[::4, ::4, ::4].sum()


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(
    ("phases", "cost"),
    [(3, COST), (4, COST), (4, [[0, 1, 2, 9], [0.5, 0, 0.1, 1], [3, 0.2, 0, 4]])],
    ids=["same phases", "an extra phase, free", "an extra phase, charged"],
)
def test_block_equals_a_loop(phases, cost, tolerance):
    probabilities, onehot, labels = case(phases)
    loss = BlockConsistency(cost, tolerance).double()(probabilities, onehot).item()
    assert loss == pytest.approx(block_loop(probabilities, labels, torch.tensor(cost).double().tolist(), tolerance, 2), rel=1e-6)
    assert loss > 0


def test_no_tolerance_and_equal_costs_charge_the_share_of_wrong_phases():
    probabilities, onehot, labels = case(3, 3, 4)
    right = sum(
        probabilities[b, labels[b, z, y, x], 4 * z : 4 * z + 4, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].sum() for b, z, y, x in voxels(labels)
    )
    cost = (1 - torch.eye(3)).tolist()
    loss = BlockConsistency(cost, 0.0).double()(probabilities, onehot)
    torch.testing.assert_close(loss, 1 - right / (labels.numel() * 64))


def test_tolerance_is_a_hinge_of_each_voxel():
    """One block 1/4 wrong (tolerated), one 3/4 wrong (charged 0.75 - 0.35): the good block does not pay for the bad."""
    labels = torch.zeros(1, 1, 1, 2, dtype=torch.long)
    onehot = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).double()
    wrong = torch.zeros(1, 1, 2, 2, 4).double()
    wrong[..., 0, 0, 0:2] = 1  # 2 of 8
    wrong[..., 0, :, 2:4] = 1
    wrong[..., 1, 0, 2:4] = 1  # 6 of 8
    probabilities = torch.cat([1 - wrong, wrong], 1).requires_grad_(True)
    loss = BlockConsistency([[0, 1], [1, 0]]).double()(probabilities, onehot)
    assert loss.item() == pytest.approx((0.75 - 0.35) / 2)
    loss.backward()
    assert not probabilities.grad[..., :2].any()  # in the tolerance nothing pulls
    assert (probabilities.grad[:, 1, :, :, 2:] > 0).all()


def test_an_extra_phase_is_free():
    """A block all of a phase that the LR does not know costs nothing, whatever the label."""
    _, onehot, _ = case(4)
    probabilities = torch.zeros(2, 4, 4, 6, 8).double()
    probabilities[:, 3] = 1
    assert BlockConsistency([[0, 5, 5], [5, 0, 5], [5, 5, 0]], 0.0).double()(probabilities, onehot).item() == 0


def test_rows_are_the_lr_labels():
    """cost[LR label, SR phase]: trusted label 0 binds, doubtful label 1 may be corrected for nothing."""
    onehot = torch.zeros(1, 2, 1, 1, 1)
    wrong = torch.zeros(1, 2, 2, 2, 2)
    loss = BlockConsistency([[0, 4], [0, 0]], 0.0)
    onehot[:, 0], wrong[:, 1] = 1, 1
    assert loss(wrong, onehot).item() == 4
    assert loss(wrong.flip(1), onehot.flip(1)).item() == 0


def test_without_tolerance_an_absent_phase_is_charged_no_less():
    """All of the scan is phase 0, and 1 is nowhere around in the images: half of every block is 1."""
    image = np.zeros((64, 64), np.uint8)
    image[:, 32:] = 1
    onehot = torch.zeros(1, 2, 5, 5, 5)
    onehot[:, 0] = 1
    probabilities = torch.full((1, 2, 20, 20, 20), 0.5)
    charges = []
    for tolerance in (0.0, 0.01, 0.02):
        absent = AbsentPhases([image], ["a", "b"], 4, tolerance, ["a", "b"], [0.5, 0.5], [0.5, 0.5])
        where = torch.ones_like(onehot)
        charges.append(BlockConsistency([[0, 1], [1, 0]], tolerance, absent)(probabilities, onehot, where).item())
    assert charges == pytest.approx([0.48] * 3)  # beyond the least tolerance


def test_the_cost_moves_with_the_module():
    loss = BlockConsistency([[0, 1], [1, 0]])
    assert loss.to("meta").cost.device.type == "meta"


def test_cost_matrix_by_name():
    """Rows LR label, columns SR phase; 1 where nothing is said; other rocks' names left out; the diagonal free whatever the table says."""
    costs = {"pore": {"quartz": 4, "gypsum": 9}, "clay": {"pore": 0.1, "clay": 7}, "gypsum": {"pore": 3}}
    assert cost_matrix(["pore", "quartz", "clay"], costs) == [[0, 4, 1], [1, 0, 1], [0.1, 1, 0]]
    assert cost_matrix(["a", "b"], {}) == [[0, 1], [1, 0]]
