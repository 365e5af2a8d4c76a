"""The patch distance against brute force and closed forms, in float64."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.losses.patches import SlicedWasserstein, transport


def onehot(labels, number: int = 3) -> Tensor:
    """(N, y, x) labels -> (N, number, y, x) float64."""
    return F.one_hot(torch.as_tensor(np.ascontiguousarray(labels)).long(), number).movedim(-1, 1).double()


def constant(phases: list[int], edge: int = 20) -> Tensor:
    """One-hot slices, each of a single phase: (len(phases), 3, edge, edge)."""
    return onehot(flat(phases, edge))


def flat(phases: list[int], *shape: int) -> np.ndarray:
    """Label images, each of a single phase: (len(phases), y, x)."""
    shape = shape * 2 if len(shape) == 1 else shape
    return np.tile(np.array(phases, np.uint8)[:, None, None], (1, *shape))


def teacher(images, **options) -> SlicedWasserstein:
    values = {"n_phases": 3, "scale_factor": 4, "patch": 5, "projections": 400, "pyramid": [1], "samples": 600}
    return SlicedWasserstein(images if isinstance(images, dict) else {"hr": images}, **{**values, **options})


def distance(images, fake: Tensor, pool: Tensor | None = None, scale: int = 4, **options) -> float:
    torch.manual_seed(0)
    return teacher(images, **options)("hr", scale, fake, fake.detach() if pool is None else pool).item()


def test_transport_is_the_cheapest_assignment():
    """Of the pool to as many targets; the values are those of the pool, a hair below so that they do not tie with themselves."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        pool, target = (torch.randn(1, 6, generator=draw, dtype=torch.float64) for _ in range(2))
        costs = {order: (pool[0] - target[0, list(order)]).square().mean().item() for order in permutations(range(6))}
        best = min(costs, key=costs.get)
        goals, far = transport(pool - 1e-4, pool, target)
        assert torch.equal(goals[0], target[0, list(best)])
        assert far.item() == pytest.approx(costs[best] ** 0.5, abs=1e-4)


@pytest.mark.parametrize("targets", [3, 8, 21])
def test_transport_goes_by_the_rank_in_the_pool(targets):
    """A value above a share u of the pool takes the u-quantile of the target, in every row for itself; the way of the pool is over all rows."""
    draw = torch.Generator().manual_seed(2)
    values, pool, target = (torch.randn(4, n, generator=draw, dtype=torch.float64) for n in (40, 8, targets))
    goals, far = transport(values, pool, target)
    squares = []
    for row in range(4):
        ordered, known = sorted(target[row].tolist()), sorted(pool[row].tolist())
        for value, goal in zip(values[row].tolist(), goals[row].tolist()):
            share = Fraction(sum(other < value for other in known), 8)
            assert goal == ordered[min(int(share * targets), targets - 1)]
        squares += [(one - ordered[int(Fraction(2 * i + 1, 16) * targets)]) ** 2 for i, one in enumerate(known)]
    assert float(values.max()) > float(pool.max())  # something lies above all of the pool
    assert far.item() == pytest.approx((sum(squares) / len(squares)) ** 0.5, abs=1e-4)


def test_transport_spreads_ties_over_the_target():
    """Equal values are not told to go to one place: a uniform region is split as the target is."""
    torch.manual_seed(0)
    ties = torch.zeros(1, 8000, dtype=torch.float64)
    (found,) = transport(ties, ties, torch.tensor([[3.0, 1.0, 2.0, 2.0]], dtype=torch.float64))[0]
    shares = [float((found == value).double().mean()) for value in (1.0, 2.0, 3.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_distance_of_two_phases():
    """A direction w of unit length sees k^2 pixels change from one phase to another: E (sum w0 - w1)^2 = 2 k^2 / (P k^2) = 2 / P."""
    one = (2 / 3) ** 0.5
    assert distance(flat([1] * 4, 40), constant([0] * 4)) == pytest.approx(one, rel=0.1)
    assert distance(flat([1] * 4, 40), constant([1] * 4)) == pytest.approx(0.0, abs=1e-3)
    # the block mean of uniform slices is uniform: the same once more
    assert distance(flat([1] * 4, 40), constant([0] * 4), pyramid=[1, 2]) == pytest.approx(2 * one, rel=0.1)
    # scales with too few pixels for a patch are left out
    assert distance(flat([1] * 4, 40), constant([0] * 4), pyramid=[1, 5]) == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize(("left", "expected"), [(1.0, 1.0), (0.5, 0.625), (0.0, 0.5)])
def test_the_newest_count_in_units_of_the_way_of_the_pool(left, expected):
    """The pool is d = sqrt(2 / P) away. Fakes that have a share `left` of it before them: (left^2 d^2 / d + d) / 2."""
    fake = left * constant([0, 0]) + (1 - left) * constant([1, 1])
    assert distance(flat([1], 20), fake, constant([0, 0])) == pytest.approx(expected * (2 / 3) ** 0.5, rel=0.1)


def board(square: int, *shape: int) -> np.ndarray:
    """A chequerboard of phases 0 and 1: a label image with squares of that many pixels."""
    return (np.add(*np.indices(shape) // square) % 2).astype(np.uint8)


def test_the_pool_holds_what_the_images_hold_in_place_of_the_newest():
    """At 2x of 4x half of the images is grey, half black and white: k^2 pixels half of w0 - w1 away. The fakes are grey, the pool is both."""
    images, grey = [board(1, 40, 40), board(2, 40, 40)], 0.5 * (constant([0, 0]) + constant([1, 1]))
    options = {"scale": 2, "samples": 4000, "patch": 6}
    alone = (1 / 2 / 6) ** 0.5
    assert distance(images, grey, **options) == pytest.approx(alone, rel=0.1)
    assert distance(images, grey, torch.cat([grey, onehot(np.stack([board(1, 20, 20)] * 2))]), **options) < 0.3 * alone


@pytest.mark.parametrize("number", [1, 3])
def test_how_much_there_is_of_each_phase_does_not_count(number):
    """The images are taken in the proportions of the pool: a place that is all quartz is not asked to hold feldspar."""
    images = flat([0] + [1] * number, 20)
    for phases in ([0], [1], [0, 0, 0, 1], [0, 1, 1]):
        assert distance(images, constant(phases), samples=4000) < 0.15
    # what is never there in the images is, and so are shapes: halves of a slice are not halves of the slices
    assert distance(images, constant([2])) > 0.5
    assert distance(images, onehot(board(1, 20, 20)[None])) > 0.3


def test_only_as_much_turns_as_there_is_and_the_nearest_first():
    """An eighth of the pool is phase 1, spread over 8 slices; the images hold it in whole slices. Where there is most it grows, else it goes."""
    share = torch.tensor([0.08, 0.14, 0.10, 0.24, 0.12, 0.06, 0.16, 0.10], dtype=torch.float64)
    fake = torch.stack([1 - share, share, 0 * share], 1)[:, :, None, None].repeat(1, 1, 20, 20).requires_grad_(True)
    torch.manual_seed(0)
    teacher(flat([0, 1], 20), samples=4000)("hr", 4, fake, fake.detach()).backward()
    push = (fake.grad[:, 0] - fake.grad[:, 1]).sum((1, 2))  # > 0: a step turns phase 0 into phase 1
    goal = (share == 0.24).double()
    assert (push / push[3] * 0.76).tolist() == pytest.approx((goal - share).tolist(), abs=0.08)


def stripes(pattern: list[int], *shape: int) -> np.ndarray:
    """A label image whose columns repeat `pattern`."""
    return np.ascontiguousarray(np.broadcast_to(np.resize(np.array(pattern, np.uint8), shape[1]), shape))


def test_the_gradient_goes_to_the_newest_alone():
    fake, pool = (constant([0] * 2).requires_grad_(True) for _ in range(2))
    teacher(flat([1], 20))("hr", 4, fake, pool).backward()
    assert fake.grad.abs().sum() > 0 and pool.grad is None


@pytest.mark.parametrize("symmetries", [4, 8])
def test_patches_of_the_images_are_turned_by_the_symmetries_of_the_plane(symmetries):
    """Columns 0, 1, 2, 0, … may be mirrored: 2, 1, 0, …; rows of them are the same material only where the plane is isotropic."""
    image = stripes([0, 1, 2], 12, 32)  # not square: rows and columns cannot be mixed up
    square = stripes([0, 1, 2], 23, 23)  # like the image a multiple of three patches wide
    columns = [square, square[:, ::-1]]
    materials = {"as they are": columns[:1], "mirrored": columns, "turned": [*columns, *(one.T for one in columns)]}
    options = {"symmetries": symmetries, "samples": 4000, "projections": 100, "patch": 6}
    found = {name: distance([image], onehot(np.stack(slices)), **options) for name, slices in materials.items()}
    same = {4: "mirrored", 8: "turned"}[symmetries]
    assert all(found[name] > 2 * found[same] for name in found if name != same), found


def test_a_coarser_scale_sees_block_means_of_the_images():
    """Of a chequerboard: half of each phase, not the label of the majority."""
    fine, coarse = [board(1, 60, 60)], [board(4, 80, 80)]
    grey = 0.5 * (constant([0, 0]) + constant([1, 1]))
    # at 2x of 4x a pixel is a block of 2; phase 0 differs by half of w0 - w1
    assert distance(fine, grey, scale=2) == pytest.approx(0.0, abs=1e-3)
    assert distance(fine, constant([0, 0]), scale=2) == pytest.approx((2 / 3 / 4) ** 0.5, rel=0.1)
    # at the finest scale a pixel is a pixel, and the pyramid's block mean a block of both
    assert distance(fine, grey, scale=4) > 0.3
    assert distance(fine, onehot(fine[0][None, :20, :20]), scale=4, samples=4000) < 0.15
    assert distance(fine, grey, scale=4, pyramid=[2]) == pytest.approx(0.0, abs=1e-3)
    # there the pyramid's blocks of 2 and 4 are of 4 and 8 pixels of the images
    assert distance(coarse, grey, scale=2, pyramid=[2]) > 0.3
    assert distance(coarse, grey, scale=2, pyramid=[4]) == pytest.approx(0.0, abs=1e-3)


def test_groups_and_scales_have_their_own_images():
    """One object serves all of them, one after the other."""
    swap = teacher({"a": flat([0], 40), "b": flat([1], 40)})
    for group, phase, scale in [("a", 0, 4), ("b", 1, 4), ("a", 0, 2), ("b", 1, 2), ("a", 0, 4)]:
        torch.manual_seed(0)
        assert swap(group, scale, constant([phase]), constant([phase])).item() == pytest.approx(0.0, abs=1e-3)
        assert swap(group, scale, constant([1 - phase]), constant([1 - phase])).item() == pytest.approx((2 / 3) ** 0.5, rel=0.1)


def test_images_count_by_the_patches_that_they_hold():
    """At 2x of 4x 15 x 15 are grey, as the fakes are, and 7 x 115 black and white: (2 / 3) / 4 away; none is of the image that is too narrow."""
    images = [board(1, 40, 40), board(2, 24, 240), flat([2], 8, 400)[0]]
    grey = 0.5 * (constant([0, 0]) + constant([1, 1]))
    expected = (7 * 115 / (7 * 115 + 15 * 15) / 6) ** 0.5
    assert distance(images, grey, scale=2, patch=6, samples=4000) == pytest.approx(expected, rel=0.1)


def test_slices_and_images_smaller_than_a_patch():
    with pytest.raises(ValueError, match="slices of .* are smaller than a patch of 5"):
        distance(flat([0], 20), constant([0], edge=4))
    with pytest.raises(ValueError, match="HR images of block means of 2 pixels are smaller than a patch of 5"):
        distance(flat([0], 9), constant([0]), scale=2)
