"""The statistics loss against plain counting and the derivative that it stands for."""

import pytest
import torch

from bundle.losses.statistics import StatisticsLoss

PAIRS = [(0, 1), (0, 2), (1, 2)]


def onehot(labels: torch.Tensor, n: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, n).movedim(-1, 1).double()


def count(labels: torch.Tensor) -> list[float]:
    """Fractions, then faces of each pair / all interior faces, voxel by voxel."""
    faces, total = dict.fromkeys(PAIRS, 0), 0
    batch, *size = labels.shape
    for b in range(batch):
        for z in range(size[0]):
            for y in range(size[1]):
                for x in range(size[2]):
                    for dz, dy, dx in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
                        if z + dz < size[0] and y + dy < size[1] and x + dx < size[2]:
                            pair = tuple(sorted((int(labels[b, z, y, x]), int(labels[b, z + dz, y + dy, x + dx]))))
                            total += 1
                            if pair in faces:
                                faces[pair] += 1
    return [float((labels == p).double().mean()) for p in range(3)] + [faces[pair] / total for pair in PAIRS]


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(3, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))


def test_statistics_equal_a_count(labels):
    found = StatisticsLoss([0.1] * 6, 3).statistics(onehot(labels))
    assert found.tolist() == pytest.approx(count(labels))


def test_the_mean_runs_in_training_only(labels):
    target = [0.5, 0.3, 0.2, 0.1, 0.2, 0.3]
    loss = StatisticsLoss(target, 3, decay=0.75)
    assert loss.mean.tolist() == pytest.approx(target)  # starts without a push
    loss.eval()
    assert loss(onehot(labels).float()).item() == 0
    loss.train()
    expected = target
    for _ in range(2):
        loss(onehot(labels).float())
        expected = [0.75 * m + 0.25 * s for m, s in zip(expected, count(labels))]
        assert loss.mean.tolist() == pytest.approx(expected, rel=1e-5)
    assert loss.target.tolist() == pytest.approx(target)
    assert set(loss.state_dict()) == {"target", "mean"}  # a resumed run goes on with the same mean


def test_gradient_is_that_of_the_deviation_of_the_mean(labels):
    """Half the squared relative deviation of the mean, if the mean moved one to one with the patch's statistics."""
    target = torch.tensor([0.5, 0.3, 0.2, 0.1, 0.2, 0.3]).double()
    mean = target * torch.tensor([1.2, 0.7, 1.0, 0.5, 1.4, 0.9]).double()
    loss = StatisticsLoss(target, 3).double().eval()
    loss.mean.copy_(mean)
    loss.target.copy_(target)
    x = onehot(labels).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(x), x)
    found = loss.statistics(x)
    deviation = (mean + found - found.detach() - target) / target
    (expected,) = torch.autograd.grad(0.5 * deviation.square().mean(), x)
    torch.testing.assert_close(gradient, expected)


def test_the_push_is_bounded():
    """A mean ten times too high pulls no harder than one twice too high."""
    target = [0.5, 0.5, 0.01]  # two phases, one pair
    x = onehot(torch.tensor([[[[0, 1]], [[1, 0]]]]), 2).float()
    values = []
    for factor in (2.0, 10.0):
        loss = StatisticsLoss(target, 2).eval()
        loss.mean[2] = factor * target[2]
        values.append(loss(x).item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] == pytest.approx(1.0 / 0.01 / 3)  # every face of the patch is a surface


def test_statistics_that_the_images_lack_are_left_out(labels):
    target = [0.5, 0.5, 0.0, 0.1, 0.0, 0.0]  # the third phase does not occur in the HR images
    loss = StatisticsLoss(target, 3).eval()
    loss.mean.fill_(0.75)
    found = count(labels)
    expected = (0.5 * found[0] / 0.5 + 0.5 * found[1] / 0.5 + 1.0 * found[3] / 0.1) / 3
    assert loss(onehot(labels).float()).item() == pytest.approx(expected, rel=1e-5)
