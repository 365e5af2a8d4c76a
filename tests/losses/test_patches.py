"""The patch distance against brute force and closed forms, in float64."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bundle.losses import patches
from bundle.losses.patches import Sheets, SlicedWasserstein, transport


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


def mixture(*shares: float, edge: int = 12) -> Tensor:
    """A slice that is everywhere as much of each phase: (1, phases, edge, edge)."""
    return torch.tensor(shares, dtype=torch.float64)[None, :, None, None].repeat(1, 1, edge, edge)


GREY = mixture(0.5, 0.5, 0.0, edge=20)


def board(square: int, *shape: int) -> np.ndarray:
    """A chequerboard of phases 0 and 1: a label image with squares of that many pixels."""
    return (np.add(*np.indices(shape) // square) % 2).astype(np.uint8)


def stripes(pattern: list[int], *shape: int) -> np.ndarray:
    """A label image whose columns repeat `pattern`."""
    return np.ascontiguousarray(np.broadcast_to(np.resize(np.array(pattern, np.uint8), shape[1]), shape))


def teacher(images, **options) -> SlicedWasserstein:
    values = {"n_phases": 3, "scale_factor": 4, "patch": 5, "projections": 400, "pyramid": [1], "samples": 200}
    return SlicedWasserstein(images if isinstance(images, dict) else {"hr": images}, **{**values, **options})


def distance(images, fake: Tensor, pool: Tensor | None = None, scale: int = 4, **options) -> float:
    torch.manual_seed(0)
    return teacher(images, **options)("hr", scale, fake, fake.detach() if pool is None else pool).item()


def alike(images: list[np.ndarray], pool: np.ndarray, patch: int, projections: int = 100, number: int = 3) -> float:
    """Brute force: the distance of all patches of as many images as slices, whatever is at their centre."""
    direction = np.random.default_rng(0).standard_normal((projections, number * patch**2))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    projected = []
    for labels in (np.stack(images), pool):
        onehots = np.eye(number)[labels]  # (N, y, x, phases)
        patches = np.lib.stride_tricks.sliding_window_view(onehots, (patch, patch), (1, 2))
        projected.append(np.sort(patches.reshape(-1, number * patch**2) @ direction.T, axis=0))
    return float(np.sqrt(np.square(projected[0] - projected[1]).mean()))


def closed_form(wanted: list[int], newest: Tensor, pool: Tensor, borders: float = 0.0) -> float:
    """Images of a single phase each, slices that are everywhere a mixture.

    A direction w of unit length sees all k^2 pixels of a patch change by d: E (sum w d)^2 = |d|^2 / P. Mixtures p are drawn for phase i in
    proportion to p_i^2, whose root weighs: (sum of p_i (|q - e_i|^2 / |p - e_i| min(q_i^2 / p_i^2, 10) + |p - e_i|) / 2) / (sum of p_i) / sqrt(P).
    Where a share of them lies at borders, of which there is p_i^2 (1 - p_i)^2, the newest count that much by theirs.
    """
    q, p = (x[0, :, 0, 0].numpy() for x in (newest, pool))
    total = weight = 0.0
    for i in set(wanted):
        if min(q[i], p[i]) > 0:
            near, far = (float(np.linalg.norm(x - np.eye(len(x))[i])) for x in (q, p))
            amount = (1 - borders) * min((q[i] / p[i]) ** 2, 10) + borders * min((q[i] * (1 - q[i]) / (p[i] * (1 - p[i]))) ** 2, 10)
            total, weight = total + p[i] * 0.5 * (near**2 / far * amount + far), weight + p[i]
    return total / weight / len(q) ** 0.5


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


@pytest.mark.parametrize(
    ("wanted", "newest", "pool"),
    [
        ([0], (0.5, 0.5, 0.0), (0.5, 0.5, 0.0)),
        ([0, 1], (0.9, 0.1, 0.0), (0.9, 0.1, 0.0)),  # 0.18; by the shares and not their roots 0.11, all alike 0.5 times sqrt(2 / 3)
        ([0, 1, 1, 1], (0.9, 0.1, 0.0), (0.9, 0.1, 0.0)),  # how much there is of each phase in the images does not count
        ([2, 1, 0], (0.2, 0.3, 0.5), (0.2, 0.3, 0.5)),
        ([0], (0.2, 0.8, 0.0), (0.5, 0.5, 0.0)),  # the newest have less of a phase than the pool,
        ([0], (0.8, 0.2, 0.0), (0.5, 0.5, 0.0)),  # or more
        ([0, 1, 2], (0.7, 0.1, 0.2), (0.3, 0.6, 0.1)),
        ([0], (0.7, 0.3, 0.0), (0.1, 0.9, 0.0)),  # 49 times what the pool happened to draw, but it does not count without bound
    ],
)
@pytest.mark.parametrize("borders", [0.0, 0.6])
def test_phases_by_the_root_of_their_share_and_the_newest_by_theirs(wanted, newest, pool, borders):
    """Where all distances are known: rare phases are heard, and a place with little of a phase, or of its borders, counts as little as it has."""
    newest, pool = mixture(*newest), mixture(*pool)
    found = distance(flat(wanted, 12), newest, pool, borders=borders)
    assert found == pytest.approx(closed_form(wanted, newest, pool, borders), rel=0.1)


@pytest.mark.parametrize(
    ("wanted", "newest", "pool"),
    [
        ([0, 2], (0.5, 0.5, 0.0), (0.6, 0.3, 0.1)),  # the images lack 1, the newest 2
        ([0, 1], (0.5, 0.5, 0.0), (0.6, 0.0, 0.4)),  # the pool lacks 1
    ],
)
def test_a_phase_that_one_of_them_lacks_is_left_out(wanted, newest, pool):
    """It adds neither a distance nor a weight that would dilute the others, and leaves no NaN behind."""
    newest, pool = mixture(*newest).requires_grad_(True), mixture(*pool)
    torch.manual_seed(0)
    found = teacher(flat(wanted, 12))("hr", 4, newest, pool)
    assert found.item() == pytest.approx(closed_form(wanted, newest.detach(), pool), rel=0.1)
    found.backward()
    assert newest.grad.isfinite().all() and newest.grad.abs().sum() > 0


def test_without_a_phase_in_common_there_is_nothing_to_compare():
    fake = constant([2], edge=12).requires_grad_(True)
    loss = teacher(flat([0, 1], 12))("hr", 4, fake, fake.detach())
    loss.backward()  # may be the only loss
    assert loss.item() == 0.0 and not fake.grad.any()


def test_every_block_mean_of_the_pyramid_counts_once():
    """The block mean of uniform slices is uniform: the same once more. Those with too few pixels for a patch are left out."""
    images, one = flat([0] * 2, 24), (1 / 6) ** 0.5
    for pyramid, times in [([1], 1), ([1, 2], 2), ([2], 1), ([1, 5], 1)]:
        assert distance(images, GREY, pyramid=pyramid) == pytest.approx(times * one, rel=0.1)


def test_the_pool_holds_what_the_images_hold_in_place_of_the_newest():
    """At 2x of 4x half of the images is grey, half black and white. The fakes are grey, the pool is both: nothing to learn for a grey place."""
    images = [board(1, 40, 40), board(2, 40, 40)]
    # For either phase the squared weights are 0.25 in the grey half, and in the other 1 in half of the places: two of three patches are of
    # the latter, and |d|^2 / P = 0.5 / 3 away
    alone = (2 / 3 / 6) ** 0.5
    options = {"scale": 2, "samples": 400}
    assert distance(images, GREY, **options) == pytest.approx(alone, rel=0.1)
    assert distance(images, GREY, torch.cat([GREY, onehot(board(1, 20, 20)[None])]), **options) < 0.4 * alone


@pytest.mark.parametrize("phases", [[0], [1], [0, 0, 0, 1]])
def test_how_much_there_is_of_each_phase_does_not_count(phases):
    """A place that is all quartz is not asked to hold feldspar."""
    assert distance(flat([0, 1, 1], 12), constant(phases, 12)) == pytest.approx(0.0, abs=2e-3)


def test_shapes_count_and_not_how_much_there_is_of_them():
    """Chequerboards of phases 0 and 1 and stripes of 2 and 3: what surrounds a phase is everywhere the same, whatever their proportions."""
    checks, lines, wrong = board(1, 14, 14), stripes([2, 3], 14, 14), stripes([0, 1], 14, 14)
    images, pool = [checks, lines, lines, lines], np.stack([checks, checks, checks, lines])
    options = {"symmetries": 4, "n_phases": 4, "projections": 100}
    assert distance(images, onehot(pool, 4), **options) == pytest.approx(0.0, abs=2e-3)
    assert alike(images, pool, 5, number=4) > 0.1  # all patches alike, they would count
    # the same proportions in another shape: two rows of five differ, |d|^2 = 20 in 100 coordinates
    assert distance([checks], onehot(wrong[None], 4), **options) == pytest.approx(0.2**0.5, rel=0.1)


def test_rare_phases_do_not_drown():
    """One slice of 25 holds columns of phase 2, 2 % of all, where the images hold a chequerboard of it; the others are the same noise."""
    noise = np.random.default_rng(0).integers(0, 2, (24, 12, 12)).astype(np.uint8)
    images, wrong = [*noise, 2 * board(1, 12, 12)], np.stack([*noise, stripes([0, 2], 12, 12)])
    options = {"samples": 2000, "projections": 100}
    found = distance(images, onehot(wrong), **options)
    assert found > 2 * alike(images, wrong, 5)
    assert found > 2 * distance(images, onehot(np.stack(images)), **options)  # and it is no noise of the samples


def test_little_of_a_phase_everywhere_is_no_piece_of_it():
    """Half of the slices are p = 0.05 of phase 1 all over, half hold as much of it in single columns: the latter are 95 % of what is drawn."""
    haze = mixture(0.95, 0.05, edge=24)
    pieces = onehot(stripes([1] + 19 * [0], 24, 24)[None], 2)
    torch.manual_seed(0)
    first, weights = Sheets.of(torch.cat([haze, pieces])).places(40000, 5)
    drawn = np.array([float(weights[(first // 24**2) == n, 1].sum()) for n in range(2)])
    # 20 columns of centres, one of which is of phase 1: 0.05 (the square of 1 in a 20th) against 0.05^2
    assert drawn[0] / drawn.sum() == pytest.approx(0.05**2 / (0.05**2 + 0.05), rel=0.1)
    assert drawn[1] / 40000 == pytest.approx(0.05 / 2, rel=0.1)


@pytest.mark.parametrize("borders", [0.0, 0.75, 1.0])
def test_a_share_of_the_patches_lies_at_borders(borders):
    """Stripes 10 pixels wide: two of ten columns of a phase are at its border, where chance puts a fifth of what is not drawn there."""
    torch.manual_seed(0)
    slices = Sheets.of(onehot(stripes([0] * 10 + [1] * 10, 64, 84)[None], 2))
    first, amounts = slices.places(20000, 5)
    edges = slices.at_borders(first, 5)
    for phase in (0, 1):
        column = (first[teacher([], samples=20000, borders=borders).draw(amounts[:, phase], edges[:, phase])] % 84 + 2).numpy()
        assert (column // 10 % 2 == phase).all()
        assert np.isin(column % 10, (0, 9)).mean() == pytest.approx(borders + 0.2 * (1 - borders), abs=0.02)


@pytest.mark.parametrize("borders", [0.75, 1.0])
def test_a_phase_without_borders_is_compared_all_the_same(borders):
    """A slice of one phase has none: nothing is divided by zero, and its patches are drawn wherever they are."""
    half = stripes([0] * 6 + [1] * 6, 12, 12)[None]
    images, one = flat([0], 12), constant([0], 12)
    assert distance(images, one, borders=borders) == pytest.approx(0.0, abs=2e-3)
    assert distance(images, one, onehot(half), borders=borders) > 0.01  # the pool has borders, the images have none
    fake = one.clone().requires_grad_(True)
    teacher(half, borders=borders)("hr", 4, fake, fake.detach()).backward()
    assert fake.grad.isfinite().all()


def test_the_texture_of_a_wide_phase_does_not_drown():
    """A phase 40 pixels wide that is full of holes in the images, one pixel of 49, and sound in the slices; what is beside it is the same."""
    sound = stripes([1] * 20 + [0] * 40 + [1] * 20, 80, 80)  # mirrored it is the same
    eaten = sound.copy()
    eaten[3::7, 24:56:7] = 1
    options = {"n_phases": 2, "symmetries": 4, "samples": 2000, "projections": 50}
    found = [distance([eaten], onehot(sound[None], 2), borders=borders, **options) for borders in (0.0, 0.75)]
    same = distance([eaten], onehot(eaten[None], 2), borders=0.75, **options)
    assert found[1] > 2 * found[0] and found[1] > 4 * same


def test_a_place_turns_to_what_it_is_nearest_to():
    """Slices that are s of phase 1 all over, images of either phase: each draw pulls a slice to the phase that it is drawn for, as often as it is.

    For phase i slice n is drawn in proportion f to the square of its probability; d/ds |q - e_0|^2 = 4 s, d/ds |q - e_1|^2 = -4 (1 - s).
    """
    share = np.array([0.05, 0.2, 0.6, 0.9])
    fake = torch.cat([mixture(1 - s, s, 0.0) for s in share]).requires_grad_(True)
    torch.manual_seed(0)
    teacher(flat([0, 1], 12), samples=8000, projections=5)("hr", 4, fake, fake.detach()).backward()
    push = (fake.grad[:, 0] - fake.grad[:, 1]).sum((1, 2)).numpy()  # > 0: a step turns phase 0 into phase 1
    pull = np.zeros(4)
    for probability, way, slope in [(1 - share, share, -4 * share), (share, 1 - share, 4 * (1 - share))]:
        drawn = probability**2 / (probability**2).sum()
        far = np.sqrt((drawn * 2 * way**2).sum() / 3)
        pull += np.sqrt((probability**2).mean()) / far * drawn * slope
    assert (np.sign(pull) == [-1, -1, 1, 1]).all()
    assert (push / np.abs(push).sum()).tolist() == pytest.approx((pull / np.abs(pull).sum()).tolist(), abs=0.03)


def test_the_gradient_goes_to_the_newest_alone():
    fake, pool = (mixture(0.5, 0.5, 0.0).requires_grad_(True) for _ in range(2))
    teacher(flat([1], 12))("hr", 4, fake, pool).backward()
    assert fake.grad.abs().sum() > 0 and pool.grad is None


def test_the_gradient_leads_to_the_shapes_of_the_images():
    """Free logits of a tiny volume, noise at first, become the stripes of period 4 of the images: by the distance and by the rule of stripes."""
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 4, 10, 10, dtype=torch.float64).requires_grad_(True)
    loss = teacher([stripes([0, 0, 1, 1], 24, 24)], n_phases=2, symmetries=4, projections=32, samples=100)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    found = []
    for _ in range(40):
        slices = logits.softmax(1).movedim(2, 1).flatten(0, 1)
        value = loss("hr", 4, slices, slices.detach())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    labels = logits.detach()[0].argmax(0).numpy()
    opposite = (labels[..., 2:] != labels[..., :-2]).mean()  # two columns on is the other phase, half of the time in noise
    assert np.mean(found[-5:]) < 0.5 * found[0] and opposite > 0.8


def test_the_same_seed_gives_the_same_value():
    """A run can be repeated, and no call sees the directions and the patches of another."""
    noise = np.random.default_rng(0).integers(0, 2, (2, 12, 12)).astype(np.uint8)
    loss, fake = teacher([noise[0]], projections=10, samples=20), onehot(noise[1:])
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss("hr", 4, fake, fake).item())
    values.append(loss("hr", 4, fake, fake).item())
    assert values[0] == values[1] and len({*values[1:]}) == 3


@pytest.mark.parametrize("symmetries", [4, 8])
def test_patches_of_the_images_are_turned_by_the_symmetries_of_the_plane(symmetries):
    """Columns 0, 1, 2, 0, … may be mirrored: 2, 1, 0, …; rows of them are the same material only where the plane is isotropic."""
    image = stripes([0, 1, 2], 12, 32)  # not square: rows and columns cannot be mixed up
    square = stripes([0, 1, 2], 16, 16)
    columns = [square, square[:, ::-1]]
    materials = {"as they are": columns[:1], "mirrored": columns, "turned": [*columns, *(one.T for one in columns)]}
    options = {"symmetries": symmetries, "samples": 500, "projections": 50}
    found = {name: distance([image], onehot(np.stack(slices)), **options) for name, slices in materials.items()}
    same = {4: "mirrored", 8: "turned"}[symmetries]
    assert all(found[name] > 2 * found[same] for name in found if name != same), found


def test_a_coarser_scale_sees_block_means_of_the_images():
    """Of a chequerboard: half of each phase, not the label of the majority. From a phase to grey is |d|^2 / P = 0.5 / 3."""
    fine, coarse, apart = [board(1, 40, 40)], [board(4, 80, 80)], pytest.approx((1 / 6) ** 0.5, rel=0.1)
    # at 2x of 4x a pixel is a block of 2
    assert distance(fine, GREY, scale=2) == pytest.approx(0.0, abs=2e-3)
    assert distance(fine, constant([0]), scale=2) == apart
    # at the finest scale a pixel is a pixel, and the pyramid's block mean a block of both
    assert distance(fine, GREY) == apart
    assert distance(fine, onehot(fine[0][None, :20, :20])) == pytest.approx(0.0, abs=2e-3)
    assert distance(fine, GREY, pyramid=[2]) == pytest.approx(0.0, abs=2e-3)
    # there the pyramid's blocks of 2 and 4 are of 4 and 8 pixels of the images
    assert distance(coarse, GREY, scale=2, pyramid=[2]) == apart
    assert distance(coarse, GREY, scale=2, pyramid=[4]) == pytest.approx(0.0, abs=2e-3)


def test_groups_and_scales_have_their_own_images():
    """One object serves all of them, one after the other."""
    swap, fake = teacher({"a": flat([0], 24), "b": board(1, 24, 24)[None]}), mixture(0.75, 0.25, 0.0)
    # a quarter of e_0 - e_1 to phase 0, and to the block means of the board; on the board 13 of the 25 pixels are of the phase at the centre,
    # those of phase 0 a quarter and those of phase 1 three quarters away, and phase 1 weighs a third of phase 0
    fine = 0.75 * ((13 * 1 + 12 * 9) / 25) ** 0.5 + 0.25 * ((12 * 1 + 13 * 9) / 25) ** 0.5
    for group, scale, expected in [("a", 4, 1), ("b", 4, fine), ("a", 2, 1), ("b", 2, 1), ("a", 4, 1)]:
        torch.manual_seed(0)
        assert swap(group, scale, fake, fake).item() == pytest.approx(expected / 4 * (2 / 3) ** 0.5, rel=0.1), (group, scale)


def test_images_count_by_the_patches_that_they_hold():
    """At 2x of 4x 16 x 16 are grey, as the fakes are, and 56 black and white; none is of the image that is too narrow.

    Squared weights: 0.25 of each phase in every grey patch, 1 in half of the others, which are 0.5 / 3 away.
    """
    images = [board(1, 40, 40), board(2, 10, 120), board(2, 6, 400)]
    expected = (28 / (28 + 64) / 6) ** 0.5  # by pixels it were 1.4 times as much, image by image 1.5 times
    assert distance(images, GREY, scale=2, samples=1000, projections=200) == pytest.approx(expected, rel=0.1)


def test_slices_and_images_smaller_than_a_patch():
    with pytest.raises(ValueError, match="slices of .* are smaller than a patch of 5"):
        distance(flat([0], 20), constant([0], edge=4))
    with pytest.raises(ValueError, match="HR images of block means of 2 pixels are smaller than a patch of 5"):
        distance(flat([0], 9), constant([0]), scale=2)


def test_a_patch_has_a_pixel_at_its_centre():
    """Turned, a patch of even edge would have another one there."""
    with pytest.raises(ValueError, match="patches#patch: 4 pixels have none at their centre"):
        teacher(flat([0], 20), patch=4)
    with pytest.raises(ValueError, match="patches#patch: 1 pixel has nothing beside its centre"):
        teacher(flat([0], 20), patch=1)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_the_share_at_borders_is_a_share(share):
    with pytest.raises(ValueError, match=f"patches#borders: {share}; .* 0 to 1"):
        teacher(flat([0], 20), borders=share)


def random_images(sizes: list[tuple[int, int]]) -> list[Tensor]:
    """(2, h, w) each; no two pixels are the same."""
    draw = torch.Generator().manual_seed(3)
    return [torch.rand(2, *size, generator=draw, dtype=torch.float64) for size in sizes]


SIZES = {"of any size": [(5, 9), (7, 5), (5, 5), (6, 8)], "a batch": [(6, 7)] * 3}


def sheets(sizes: str) -> tuple[Sheets, list[np.ndarray], list[tuple[int, int, int]]]:
    """The sheets, their images, and of every pixel in turn: its image, row and column."""
    images = random_images(SIZES[sizes])
    pixels = [(n, y, x) for n, (height, width) in enumerate(SIZES[sizes]) for y in range(height) for x in range(width)]
    return Sheets.of(torch.stack(images) if sizes == "a batch" else images), [image.numpy() for image in images], pixels


@pytest.mark.parametrize("sizes", SIZES)
def test_a_pixel_is_on_its_image(sizes):
    """The first pixel of an image is no longer on the one before, and the last not yet on the next."""
    found, images, pixels = sheets(sizes)
    assert found.sheet(torch.arange(len(pixels))).tolist() == [n for n, _, _ in pixels]
    assert found.values.tolist() == [images[n][:, y, x].tolist() for n, y, x in pixels]


@pytest.mark.parametrize("patch", [3, 5])
@pytest.mark.parametrize("sizes", SIZES)
def test_patches_start_wherever_they_fit_and_all_as_often(sizes, patch):
    """None reaches over a border or into the next image; with the square of what is at their centre, and at borders of what is missing beside."""
    found, images, pixels = sheets(sizes)
    torch.manual_seed(0)
    first, weights = found.places(8000, patch)
    borders = found.at_borders(first, patch)
    fits = [k for k, (n, y, x) in enumerate(pixels) if y + patch <= images[n].shape[1] and x + patch <= images[n].shape[2]]
    counts = np.bincount(first.numpy(), minlength=len(pixels))
    assert np.flatnonzero(counts).tolist() == fits
    mean = 8000 / len(fits)
    assert np.abs(counts[fits] - mean).max() < 5 * mean**0.5
    for start, weight, border in zip(first[:500].tolist(), weights.numpy(), borders.numpy()):
        n, y, x = pixels[start]
        around = images[n][:, y + patch // 2 - 1 : y + patch // 2 + 2, x + patch // 2 - 1 : x + patch // 2 + 2]
        least = np.min([around[:, 0, 1], around[:, 2, 1], around[:, 1, 0], around[:, 1, 2]], axis=0)
        assert np.allclose(weight, around[:, 1, 1] ** 2, rtol=1e-12)
        assert np.allclose(border, around[:, 1, 1] ** 2 * (1 - least) ** 2, rtol=1e-12)


@pytest.mark.parametrize("symmetries", [1, 4, 8])
@pytest.mark.parametrize("sizes", SIZES)
def test_gathered_patches_are_cut_from_their_images(sizes, symmetries):
    """On the axes as directions the projections are the pixels: of the cut as it is (1), or of all its mirror images (4) and transposes (8)."""
    found, images, pixels = sheets(sizes)
    torch.manual_seed(0)
    first = found.places(300, 5)[0]
    axes = torch.eye(2 * 25, dtype=torch.float64)
    gathered = teacher([], symmetries=max(symmetries, 4)).project(found, first, axes, symmetries > 1).T.numpy()
    seen = set()
    for start, patch in zip(first.tolist(), gathered):
        n, y, x = pixels[start]
        cut = images[n][:, y : y + 5, x : x + 5]
        mirrored = [cut, cut[:, ::-1], cut[:, :, ::-1], cut[:, ::-1, ::-1]]
        turns = {1: [cut], 4: mirrored, 8: mirrored + [one.swapaxes(1, 2) for one in mirrored]}[symmetries]
        same = [k for k, one in enumerate(turns) if np.array_equal(np.moveaxis(one, 0, -1).ravel(), patch)]
        assert len(same) == 1
        seen.add(same[0])
    assert len(seen) == symmetries


def test_of_a_large_stack_a_half_or_a_third_is_compared(monkeypatch):
    images = [board(square, 20, 20) for square in (1, 2, 3, 4, 5, 6)]
    for most, number in ((6 * 400, 6), (3 * 400, 3), (3 * 400 - 1, 2)):
        monkeypatch.setattr(patches, "MOST_PIXELS", most)
        sheets, again = (SlicedWasserstein({"hr": images}, 2, 2, patch=3)._images("hr", 1, 1, torch.zeros(1)) for _ in range(2))
        assert len(sheets.values) == number * 400 and torch.equal(sheets.values, again.values)
        kept = [part[:, 1].reshape(20, 20).byte().numpy() for part in sheets.values.split(400)]
        assert all(sum(np.array_equal(one, image) for image in images) == 1 for one in kept)


def test_of_a_mosaic_some_tiles_of_all_columns_are_compared(monkeypatch):
    """Until version 1.5 it was every n-th, which is one column where n is as many as there are."""
    image = np.random.default_rng(0).integers(0, 2, (85, 45)).astype(np.uint8)
    monkeypatch.setattr(patches, "TILE", 10)
    monkeypatch.setattr(patches, "MOST_PIXELS", 85 * 45)
    whole = SlicedWasserstein({"hr": [image]}, 2, 2, patch=3)._images("hr", 1, 1, torch.zeros(1))
    assert len(whole.values) == 85 * 45
    monkeypatch.setattr(patches, "MOST_PIXELS", 800)
    sheets = SlicedWasserstein({"hr": [image]}, 2, 2, patch=3)._images("hr", 1, 1, torch.zeros(1))
    assert sheets.height.tolist() == sheets.width.tolist() == [10] * 8  # a quarter of 8 x 4
    tiles = {image[y : y + 10, x : x + 10].tobytes(): x for y in range(0, 80, 10) for x in range(0, 40, 10)}
    columns = [tiles[part[:, 1].byte().numpy().tobytes()] for part in sheets.values.split(100)]
    assert set(columns) == {0, 10, 20, 30}


@pytest.mark.parametrize("hard", [False, True])
def test_images_are_means_or_labels_of_their_scale(hard):
    """At 2x a pixel is two of the images' at 4x: their mean, or the label of most of them, then the means of the pyramid."""
    image = np.random.default_rng(0).integers(0, 3, (24, 16)).astype(np.uint8)
    loss = SlicedWasserstein({"hr": [image]}, 3, 4, patch=3, hard_labels=hard)
    expected = np.zeros((6, 4, 3))
    for y, x in np.ndindex(12, 8):
        block = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        counts = np.bincount(block.ravel(), minlength=3)
        best = block[0, 0] if counts[block[0, 0]] == counts.max() else counts.argmax()
        expected[y // 2, x // 2] += (np.eye(3)[best] if hard else counts / 4) / 4
    np.testing.assert_allclose(loss._images("hr", 2, 2, torch.zeros(1)).values, expected.reshape(-1, 3), atol=1e-6)
