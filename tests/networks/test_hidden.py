"""Phases that an LR label hides: how much of them, where they turn, and that a model remembers it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from bundle.checkpoint import load_model
from bundle.fine_tuning import warm_start
from bundle.networks.generator import LevelGenerator
from bundle.networks.hidden import HiddenPhases
from bundle.networks.prepared import hiding

NOTHING = [[0.0, 0.0], [0.0, 0.0]]
SOME = [[0.0, 0.3, 0.0], [0.0, 0.0, 0.0]]


def onehot(labels: Tensor, n_labels: int) -> Tensor:
    """(B, D, H, W) -> (B, labels, D, H, W) float32."""
    return F.one_hot(labels, n_labels).movedim(-1, 1).float()


def white(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def boxes_by_slices(values: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Sums over boxes of one width after the other, each voxel's around it; zero beyond the border."""
    for width in widths:
        padded, total = np.pad(values, width // 2), np.zeros_like(values)
        for z, y, x in itertools.product(range(width), repeat=3):
            total += padded[z : z + values.shape[0], y : y + values.shape[1], x : x + values.shape[2]]
        values = total
    return values


def tops_by_loops(labels: np.ndarray, noise: np.ndarray, host: int, target: int, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth noise at the end of each voxel's walk, shares of the target there and around the voxel, as documented, float64, and where the
    walk ends; of labels and noise with `reach` around."""
    widths, walk = [2 * (radius // part) + 1 for part in (8, 4, 2)], radius + radius // 2
    solid, seen = np.isin(labels, (host, target)).astype(float), (labels == target).astype(float)
    scales = [boxes_by_slices(solid, widths[:n]) / np.prod(np.array(widths[:n]) ** 3.0) for n in (1, 2, 3)]
    height = np.round(sum(scales), 9)
    shares = [boxes_by_slices(seen, widths[:n]) / np.maximum(boxes_by_slices(solid, widths[:n]), 1) for n in (2, 3)]
    field = boxes_by_slices(np.round(64 * noise) / 64, widths[2:] * 2)
    impulse = np.zeros((4 * radius + 1,) * 3)
    impulse[(2 * radius,) * 3] = 1
    field = field / np.sqrt((boxes_by_slices(impulse, widths[2:] * 2) ** 2).sum())
    near = sorted(itertools.product((0, -1, 1), repeat=3), key=lambda step: [(0, -1, 1).index(n) for n in reversed(step)])
    reach = radius + walk
    ends = np.zeros((*(n - 2 * reach for n in labels.shape), 3), int)
    for start in np.ndindex(ends.shape[:3]):
        place = tuple(n + reach for n in start)
        for _ in range(walk):
            place = max((tuple(np.add(place, step)) for step in near), key=lambda there: height[there])  # the first of equals
        ends[start] = place
    z, y, x = np.moveaxis(ends, -1, 0)
    return field[z, y, x], np.stack([shares[1][z, y, x], *(share[(slice(reach, -reach),) * 3] for share in shares)]), ends


# --- How much ------------------------------------------------------------------------------------------------------------------------


# --- Where ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "threshold"), [(1, 1.0), (2, 2.0), (5, 3.0)])
def test_phases_are_those_of_loops(radius, threshold):
    """Of three labels one hides the second, which is given back where little speaks for it, one a phase that the LR does not know."""
    shares = [[0.0, 0.45, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.2]]
    layer = HiddenPhases(3, 4, radius)
    layer.hide(shares)
    weights = np.array([[2.0, 1.5, 3.0], [0.0] * 3, [1.0, 4.0, 2.0]], np.float32)
    layer.evidence.copy_(torch.from_numpy(weights))
    layer.threshold[0], layer.doubt[0] = threshold, 5.0
    edges = [n + 2 * layer.reach for n in (4, 5, 3)]
    labels = torch.from_numpy(grains((2, *edges), 3, 1.0))
    noise = white(1, 2, 1, *edges)
    found = layer(onehot(labels, 3), noise)
    pairs: set[tuple[int, int]] = set()
    assert found.shape == (2, 4, 4, 5, 3)
    for item in range(2):
        inner = labels[item].numpy()[(slice(layer.reach, -layer.reach),) * 3]
        expected = inner.copy()
        for host, target in ((0, 1), (2, 3)):
            field, seen, ends = tops_by_loops(labels[item].numpy(), noise[item, 0].double().numpy(), host, target, radius)
            score = field + np.tensordot(weights[host], seen, 1)
            expected[(score > (threshold if host == 0 else NormalDist().inv_cdf(1 - shares[host][target]))) & (inner == host)] = target
            if host == 0:
                expected[(score <= 5.0) & (inner == target)] = host
        pairs |= set(zip(inner.ravel().tolist(), expected.ravel().tolist()))
        assert torch.equal(found[item], onehot(torch.from_numpy(expected)[None], 4)[0])
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)}


def grains(shape: tuple[int, ...], n_labels: int, width: float, seed: int = 0) -> np.ndarray:
    """Labels in patches of some voxels."""
    fields = np.random.default_rng(seed).normal(size=(n_labels, *shape))
    return ndimage.gaussian_filter(fields, width, axes=(-3, -2, -1)).argmax(0)


def balls(radius: int, apart: int, around: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight balls of label 1 in label 0, and which of them (1 to 8) a voxel belongs to; `around` voxels of label 0 on every side."""
    edge = 2 * apart + 2 * around
    which = np.zeros((edge,) * 3, int)
    places = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"))
    for number, corner in enumerate(itertools.product((0, 1), repeat=3), 1):
        centre = np.array(corner) * apart + apart // 2 + around
        which[((places - centre[:, None, None, None]) ** 2).sum(0) <= radius**2] = number
    return (which > 0).astype(int), which


def turned_of_balls(layer: HiddenPhases, labels: np.ndarray, which: np.ndarray, seed: int) -> np.ndarray:
    """Share of each ball's voxels of label 1 that turned to label 2."""
    noise = white(seed, 1, 1, *labels.shape)
    phases = layer(onehot(torch.from_numpy(labels)[None], 3), noise).argmax(1)[0].numpy()
    inner = (slice(layer.reach, -layer.reach),) * 3
    labels, which = labels[inner], which[inner]
    return np.array([(phases[(which == ball) & (labels == 1)] == 2).mean() for ball in range(1, 9)])


def test_grains_turn_as_a_whole():
    """Balls that touch: each is one hill, so that all of it turns, or nothing of it; which of them is chance."""
    layer = HiddenPhases(3, 3, 8)
    layer.hide([[0.0] * 3, [0.0, 0.0, 0.4], [0.0] * 3])
    labels, which = balls(7, 14, layer.reach)
    shares = np.stack([turned_of_balls(layer, labels, which, seed) for seed in range(12)])
    assert ((shares < 0.02) | (shares > 0.98)).mean() > 0.95  # two or three voxels at a contact may go to the other side
    assert shares.mean() == pytest.approx(0.4, abs=4 * (0.4 * 0.6 / shares.size) ** 0.5)
    assert (shares.std(0) > 0.2).all()  # none of them always, none never


def test_grains_that_the_scan_saw_turn_first():
    """Two of eight balls have specks of the hidden phase: with a quarter hidden it is they, whatever the noise; without evidence it is any."""
    layer = HiddenPhases(3, 3, 8)
    labels, which = balls(7, 15, layer.reach)
    specks = np.random.default_rng(0).random(labels.shape) < 0.2
    labels[specks & np.isin(which, (3, 6))] = 2
    inner = labels[(slice(layer.reach, -layer.reach),) * 3]
    layer.hide([[0.0] * 3, [0.0, 0.0, 0.22], [0.0] * 3])
    any_of_them = np.stack([turned_of_balls(layer, labels, which, seed) for seed in range(6)]).mean(0)
    assert any_of_them.max() < 0.9 and any_of_them[[0, 1, 3, 4, 6, 7]].max() > 0.3
    layer.calibrate(inner)
    for seed in range(6):
        assert np.isin(np.flatnonzero(turned_of_balls(layer, labels, which, seed) > 0.98), (2, 5)).all()
    shares = np.stack([turned_of_balls(layer, labels, which, seed) for seed in range(6)]).mean(0)
    assert shares[[2, 5]].min() > 0.8 and np.delete(shares, [2, 5]).max() < 0.05


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_calibrated_the_share_of_a_volume_turns(share):
    """Of label 1 in patches with specks of label 2 here and there; the mean over some noises, each of which turns some grains more or less."""
    layer = HiddenPhases(3, 3, 8)
    labels = grains((72, 70, 68), 2, 3.0)
    labels[(labels == 1) & (grains(labels.shape, 2, 6.0, seed=1) == 1) & (np.random.default_rng(2).random(labels.shape) < 0.05)] = 2
    layer.hide([[0.0] * 3, [0.0, 0.0, share], [0.0] * 3])
    layer.calibrate(labels)
    assert layer.evidence[1].min() > 0 and not layer.evidence[[0, 2]].any() and layer.threshold[[0, 2]].min() == 1e4
    assert layer.doubt[1] == layer.threshold[1] and layer.doubt[[0, 2]].tolist() == [-1e4] * 2
    gained, lost = [], []
    around = np.pad(labels, layer.reach, mode="edge")
    for seed in range(12):
        phases = layer(onehot(torch.from_numpy(around)[None], 3), white(seed, 1, 1, *around.shape)).argmax(1)[0].numpy()
        gained.append((phases[labels == 1] == 2).sum())
        lost.append((phases[labels == 2] == 1).sum())
        assert (phases[labels == 0] == 0).all() and set(np.unique(phases[labels == 2])) <= {1, 2}
    assert np.mean(lost) > 0.05 * (labels == 2).sum()
    assert (np.mean(gained) - np.mean(lost)) / (labels == 1).sum() == pytest.approx(share, rel=0.1)


def test_lone_specks_are_given_back():
    """A cluster of specks in a solid without throats becomes a grain; specks far from it and from each other become the solid again."""
    layer = HiddenPhases(2, 2, 16)
    labels = np.zeros((64, 64, 64), np.uint8)
    places = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"))
    from_centre = np.sqrt(((places - 20) ** 2).sum(0))
    cluster = (from_centre < 7) & (np.random.default_rng(0).random(labels.shape) < 0.3)
    labels[cluster] = 1
    lone = [(50, 50, 50), (50, 20, 50), (20, 50, 50), (50, 50, 20)]
    labels[tuple(np.transpose(lone))] = 1
    layer.hide([[0.0, (4 / 3 * np.pi * 7**3 - cluster.sum()) / labels.size], [0.0, 0.0]])
    layer.calibrate(labels)
    around = torch.from_numpy(np.pad(labels, layer.reach, mode="edge"))[None].long()
    for seed in range(3):
        found = layer(onehot(around, 2), white(seed, 1, 1, *around.shape[1:])).argmax(1)[0].numpy()
        assert not found[tuple(np.transpose(lone))].any() and not found[from_centre > 14].any()
        assert found[from_centre < 5].mean() > 0.9


@pytest.mark.parametrize("radius", [1, 2, 16])
def test_rims_are_those_of_loops(radius):
    """Label 1 turns to label 0 where the share of label 2 in boxes of 5 (3 where the reach is small), one after the other, is beyond the threshold."""
    layer = HiddenPhases(3, 4, radius)
    layer.hide([[0.0] * 4, [0.3, 0.0, 0.0, 0.0], [0.0] * 4], rims=[1])
    layer.threshold[1] = 0.34
    labels = grains([n + 2 * layer.reach for n in (6, 5, 7)], 3, 1.0)
    width = {1: 3, 2: 5, 16: 5}[radius]
    share = boxes_by_slices((labels == 2).astype(float), [width] * 2) / width**6
    expected = np.where((labels == 1) & (share > 0.34), 0, labels)[(slice(layer.reach, -layer.reach),) * 3]
    for seed in (0, 1):  # chance has no say
        found = layer(onehot(torch.from_numpy(labels)[None], 3), white(seed, 1, 1, *labels.shape))
        np.testing.assert_array_equal(found[0].argmax(0), expected)
    turned = (expected != labels[(slice(layer.reach, -layer.reach),) * 3]).sum()
    assert 0 < turned < (labels == 1).sum()


def test_films_beside_the_solid_turn_and_patches_do_not():
    """A film of clay between pore and quartz, a throat of it in quartz, and a patch of it in the pore; as much turns as was asked for."""
    labels = np.zeros((32, 32, 48), np.uint8)
    labels[..., 20:] = 1
    labels[..., 19:21] = 3  # the film
    labels[16:18, :, 21:] = 3  # the throat
    labels[8:20, 8:20, 4:14] = 3  # the patch
    rims = np.zeros(labels.shape, bool)
    rims[..., 20] = rims[16:18, :, 21:] = True
    layer = HiddenPhases(4, 4, 4)
    share = rims.sum() / (labels == 3).sum()
    layer.hide([[0.0] * 4] * 3 + [[float(share), 0.0, 0.0, 0.0]], rims=[3])
    around = torch.from_numpy(np.pad(labels, layer.reach, mode="edge"))[None].long()
    for known in (np.zeros((5, 5, 5), np.uint8), None):  # of a volume without the label nothing is learned
        if known is not None:
            layer.calibrate(known)
        assert (layer(onehot(around, 4), white(0, 1, 1, *around.shape[1:]))[0].argmax(0).numpy() == labels).all()
    layer.calibrate(labels)
    assert layer.doubt[3] == -1e4 and not layer.evidence.any()
    found = layer(onehot(around, 4), white(0, 1, 1, *around.shape[1:]))[0].argmax(0).numpy()
    turned = (labels == 3) & (found == 0)
    assert (found[labels != 3] == labels[labels != 3]).all()
    assert not turned[8:20, 8:20, 4:14].any()
    assert turned[16:18, :, 23:].all() and turned.sum() == pytest.approx(rims.sum(), rel=0.1)


def test_a_rim_and_a_hidden_phase_beside_each_other():
    """What each label turns to does not depend on the other."""
    labels = grains((40, 40, 40), 4, 1.5)
    quartz, clay = ([[0.0] * 4 for _ in range(4)] for _ in range(2))
    quartz[1][2], clay[3][0] = 0.2, 0.3
    layers = {}
    for name, shares in (("quartz", quartz), ("clay", clay), ("both", (np.array(quartz) + clay).tolist())):
        layers[name] = HiddenPhases(4, 4, 4)
        layers[name].hide(shares, rims=[3])
        layers[name].calibrate(labels)
    around = torch.from_numpy(np.pad(labels, layers["both"].reach, mode="edge"))[None].long()
    found = {name: layer(onehot(around, 4), white(0, 1, 1, *around.shape[1:]))[0].argmax(0).numpy() for name, layer in layers.items()}
    np.testing.assert_array_equal(found["both"], np.where(found["quartz"] != labels, found["quartz"], found["clay"]))
    assert (found["quartz"] != labels).any() and (found["clay"] != labels).mean() == pytest.approx(0.3 * (labels == 3).mean(), rel=0.01)


def test_a_phase_that_two_labels_hide_is_given_back_to_none():
    layer = HiddenPhases(3, 3, 2)
    labels = grains((20, 20, 20), 2, 2.0) * 2
    labels[np.random.default_rng(0).random(labels.shape) < 0.02] = 1
    layer.hide([[0.0, 0.1, 0.0], [0.0] * 3, [0.0, 0.1, 0.0]])
    layer.calibrate(labels)
    assert layer.evidence[[0, 2]].min() > 0 and (layer.doubt == -1e4).all()


def test_large_volumes_are_calibrated_by_their_blocks(monkeypatch):
    """With blocks that cover the volume and next to no noise: the quantile of what the scan saw, over all of it, each voxel once."""
    monkeypatch.setattr("bundle.networks.hidden.LARGEST", 7)
    monkeypatch.setattr("bundle.networks.hidden.EVIDENCE", 1e5)
    layer = HiddenPhases(2, 2, 2)
    labels = grains((14, 11, 15), 2, 1.0)
    layer.hide([[0.0, 0.3], [0.0, 0.0]])
    layer.calibrate(labels)
    around = np.pad(labels, layer.reach, mode="edge")
    seen = tops_by_loops(around, np.zeros(around.shape), 0, 1, 2)[1].mean(0)
    values, specks = (seen[labels == label] for label in (0, 1))
    weight = 1e5 / np.quantile(values, 0.7)
    np.testing.assert_allclose(layer.evidence[0], [weight / 3] * 3, rtol=1e-3)
    # as many voxels of label 0 lie above the threshold as are hidden and as there are specks below it; many lie at the same place
    low, high = (layer.threshold[0].item() / weight * way for way in (0.999, 1.001))
    assert (values > low).sum() - (specks <= low).sum() >= 0.3 * len(values) >= (values > high).sum() - (specks <= high).sum()


@pytest.mark.parametrize("largest", [60, 24, 8])
def test_the_middle_of_a_large_volume_counts(monkeypatch, largest):
    """As much turns as was asked for, whether one block, blocks that cover it, or one from each third stand for a scan that shows specks in one layer."""
    monkeypatch.setattr("bundle.networks.hidden.LARGEST", largest)
    labels = np.zeros((60, 30, 30), np.uint8)
    labels[20:40][np.random.default_rng(1).random((20, 30, 30)) < 0.15] = 1
    layer = HiddenPhases(2, 2, 4)
    layer.hide([[0.0, 0.2], [0.0, 0.0]])
    layer.calibrate(labels)
    around = torch.from_numpy(np.pad(labels, layer.reach, mode="edge"))[None].long()
    held = [layer(onehot(around, 2), white(seed, 1, 1, *around.shape[1:]))[0, 1].sum().item() for seed in range(3)]
    turned = (np.mean(held) - (labels == 1).sum()) / (labels == 0).sum()
    assert turned == pytest.approx(0.2, abs=0.05)  # from the corners alone, as until version 1.5, half of it


def test_a_volume_without_the_label_leaves_the_threshold():
    layer = HiddenPhases(3, 3, 2)
    layer.hide([[0.0] * 3, [0.0, 0.0, 0.2], [0.0] * 3])
    layer.calibrate(np.zeros((5, 5, 5), np.uint8))
    assert layer.threshold[1].item() == pytest.approx(NormalDist().inv_cdf(0.8)) and not layer.evidence[1].any()


@pytest.mark.parametrize("autocast", [False, True])
def test_parts_of_a_volume_agree_with_the_whole_to_the_last_bit(autocast):
    """What decides is the same wherever a window is cut, or grains would end at its border."""
    layer = HiddenPhases(3, 3, 4)
    layer.hide([[0.0] * 3, [0.0, 0.0, 0.3], [0.2, 0.0, 0.0]], rims=[2])
    edge = 12 + 2 * layer.reach
    given, noise = onehot(torch.from_numpy(grains((1, edge, edge, edge), 3, 2.0)), 3), white(0, 1, 1, edge, edge, edge)
    whole = torch.cat([*layer.at_the_top(given, layer.smooth(noise), 1), layer.others(given, 2)], 1)
    assert whole.unique().numel() > 10
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for z, y, x, size in ((0, 0, 0, 5), (3, 7, 1, 4), (6, 2, 5, 6)):
            places = (..., *(slice(low, low + size + 2 * layer.reach) for low in (z, y, x)))
            part = torch.cat([*layer.at_the_top(given[places], layer.smooth(noise[places]), 1), layer.others(given[places], 2)], 1)
            assert torch.equal(part, whole[..., z : z + size, y : y + size, x : x + size])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_of_a_uniform_volume_that_turns(share):
    """Where all is one solid there are no grains, and the noise around a voxel decides. Independent blobs are as large as the integral of the
    field's correlation, w^4 / sum of k^2 along each axis for k, two boxes of w = 5, one after the other; it bounds the deviation of the share, of which four
    are allowed."""
    radius, edge = 4, 96
    layer = HiddenPhases(2, 2, radius)
    layer.hide([[0.0, share], [0.0, 0.0]])
    labels = torch.zeros(1, *[edge + 2 * layer.reach] * 3, dtype=torch.long)
    turned = layer(onehot(labels, 2), white(3, 1, 1, *labels.shape[1:])).argmax(1).double()
    independent = edge**3 / (5**4 / (np.convolve(np.ones(5), np.ones(5)) ** 2).sum()) ** 3
    deviation = (share * (1 - share) / independent) ** 0.5
    assert deviation < 0.011
    assert turned.mean().item() == pytest.approx(share, abs=4 * deviation)
    # in blobs: far more often than by chance is the neighbour of a turned voxel turned, too
    assert (turned[:, 1:] * turned[:, :-1]).sum() / turned[:, 1:].sum() > 0.7


@pytest.mark.parametrize("noise_std", [0.5, 2.0])
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_share_that_turns_does_not_depend_on_the_noise(noise_std, calibrated):
    """A uniform volume and the bound of the deviation as above: of a quarter half the noise turned 9 %, twice the noise 37 %."""
    net = LevelGenerator(3, 2, channels=[4, 4], blocks=1, grain_radius=4, noise_std=noise_std)
    net.hidden.hide([[0.0, 0.25], [0.0, 0.0]])
    if calibrated:
        net.hidden.calibrate(np.zeros((6, 6, 6), np.uint8))
    labels = torch.zeros(1, *[96 + 2 * net.reach] * 3, dtype=torch.long)
    turned = net.hidden(onehot(labels, 2), noise_std * white(3, 1, 1, *labels.shape[1:])).argmax(1).double()
    assert turned.mean().item() == pytest.approx(0.25, abs=0.044)


def test_nothing_hidden_is_nothing_changed():
    """However high the field, the labels stay, and a phase that the LR does not know is nowhere."""
    labels = torch.randint(0, 2, (1, 14, 15, 16))
    for shares in (None, NOTHING):
        layer = HiddenPhases(2, 3, 2)
        if shares:
            layer.hide(shares)
        found = layer(onehot(labels, 2), 50 * white(0, 1, 1, 14, 15, 16))
        assert torch.equal(found, F.pad(onehot(labels, 2)[..., 5:-5, 5:-5, 5:-5], [0, 0] * 3 + [0, 1]))


def test_two_phases_for_a_label_are_refused():
    layer = HiddenPhases(2, 3, 1)
    with pytest.raises(ValueError, match="LR label 1 hides more than one phase"):
        layer.hide([[0.0, 0.2, 0.0], [0.1, 0.0, 0.2]])


# --- In a generator --------------------------------------------------------------------------------------------------------------------


def generator(shares: list[list[float]] | None = SOME, rims: Sequence[int] = ()) -> LevelGenerator:
    torch.manual_seed(0)
    net = LevelGenerator(3, 3, (4, 4, 4), blocks=0, grain_radius=2).eval().requires_grad_(False)
    return hiding(net, shares, image(24)[0, :-1].argmax(0).numpy(), rims) if shares else net


def image(edge: int, seed: int = 5) -> Tensor:
    labels = torch.randint(0, 2, (1, edge, edge, edge), generator=torch.Generator().manual_seed(seed))
    return torch.cat([onehot(labels, 2), white(seed, 1, 1, edge, edge, edge)], 1)


def noise_of(net: LevelGenerator, size: list[int]) -> list[Tensor]:
    return [white(k, 1, 1, *shape) for k, (_, _, shape) in enumerate(net.noise_windows(size))]


def test_saved_weights_know_what_is_hidden(tmp_path):
    net, fresh = generator(), generator(None)
    assert not torch.equal(fresh.corrected(image(18)), net.corrected(image(18)))
    torch.save(net.state_dict(), tmp_path / "state.pt")
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh.corrected(image(18)), net.corrected(image(18)))
    part, noise = image(2 * net.halo + 2), noise_of(net, [2, 2, 2])
    assert torch.equal(fresh.forward_window(part, noise), net.forward_window(part, noise))


@pytest.mark.parametrize("from_file", [False, True])
def test_weights_of_older_versions_decide_as_they_did(tmp_path, from_file):
    """Until 0.9.2 one weight a label, for what was seen at the end of the walk; nothing was given back."""
    layer = HiddenPhases(3, 3, 4)
    layer.hide([[0.0] * 3, [0.0, 0.0, 0.3], [0.0] * 3])
    net = torch.nn.Sequential(layer)
    net.scale_factor = 8
    state = net.state_dict()
    del state["0.doubt"], state["0.rim"]
    state["0.evidence"] = torch.tensor([0.0, 6.0, 0.0])
    layer.doubt.fill_(9.0)
    layer.rim.fill_(1.0)
    if from_file:
        torch.save({"model": state, "phases": list("abc"), "lr_phases": list("abc"), "scale_factor": 8}, tmp_path / "model.pt")
        load_model(net, tmp_path / "model.pt", "abc", "abc", 8)
    else:
        net.load_state_dict(state)
    edge = 10 + 2 * layer.reach
    labels, noise = grains((edge, edge, edge), 3, 2.0), white(0, 1, 1, edge, edge, edge)
    field, seen, _ = tops_by_loops(labels, noise[0, 0].double().numpy(), 1, 2, 4)
    inner = labels[(slice(layer.reach, -layer.reach),) * 3]
    expected = np.where((inner == 1) & (field + 6 * seen[0] > layer.threshold[1].item()), 2, inner)
    np.testing.assert_array_equal(layer(onehot(torch.from_numpy(labels)[None], 3), noise)[0].argmax(0), expected)
    assert 0 < (expected != inner).sum() < (inner == 1).sum()
    assert state["0.evidence"].shape == (3,)  # what was given stays as it was


@pytest.mark.parametrize("rims", [[], [0]])
def test_torchscript_equals_eager(rims):
    """With label 0 hiding label 1; as a rim it turns where neither is around, which is nowhere, so all of it does from a threshold below 0 on."""
    net = generator(rims=rims)
    if rims:
        net.hidden.threshold[0] = -1.0
    scripted = torch.jit.script(net)
    part, noise = image(2 * net.halo + 2), noise_of(net, [2, 2, 2])
    expected = net.forward_window(part, noise)
    assert not torch.equal(generator(None).forward_window(part, noise), expected)  # something is hidden there
    torch.testing.assert_close(scripted.forward_window(part, noise), expected)


def test_windows_agree_with_the_whole():
    """Any voxel's phases need the noise within the halo alone, so that windows cut anywhere agree."""
    net = generator()
    size, h, s = 5, net.halo, net.scale_factor
    volume, noise = image(size + 2 * h), noise_of(net, [size] * 3)
    whole = net.forward_window(volume, noise)
    for z, y, x in ((0, 0, 0), (1, 2, 0), (3, 3, 3)):
        part = volume[:, :, z : z + 2 + 2 * h, y : y + 2 + 2 * h, x : x + 2 + 2 * h]
        parts = []
        for drawn, (scale, _, (n, _, _)) in zip(noise, net.noise_windows([2, 2, 2])):
            a, b, c = (scale * start for start in (z, y, x))
            parts.append(drawn[:, :, a : a + n, b : b + n, c : c + n])
        expected = whole[:, :, s * z : s * (z + 2), s * y : s * (y + 2), s * x : s * (x + 2)]
        torch.testing.assert_close(net.forward_window(part, parts), expected, rtol=0, atol=1e-5)


def test_gradients_pass():
    """To the weights behind the phases."""
    net = generator().requires_grad_(True)
    sum(p[:, 0].sum() for _, p, _ in net.forward_training(image(net.patch_edge([4, 2])), [4, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.trunk[0].weight.grad[:, 3:6].abs().sum() > 0  # of the phases: after two labels and noise


def test_what_is_found_for_the_losses_is_found_once(monkeypatch):
    """The trainer asks for the corrected labels of a patch, and then decodes it; a patch, or shares, that changed in between are looked at anew."""
    net, calls = generator(), []
    forward = HiddenPhases.forward
    monkeypatch.setattr(HiddenPhases, "forward", lambda self, *given: (calls.append(1), forward(self, *given))[1])
    given = image(20)
    expected = net.coarse(given)[1]
    net.corrected(given)
    assert torch.equal(net.coarse(given)[1], expected) and len(calls) == 2
    assert torch.equal(net.coarse(given)[1], expected) and len(calls) == 3  # once
    net.corrected(given)
    assert torch.equal(net.coarse(given.clone())[1], expected) and len(calls) == 5  # another patch
    net.corrected(given)
    net.hidden.hide(NOTHING + [[0.0, 0.0]])
    assert not torch.equal(net.coarse(given)[1], expected)
    net = generator()
    net.corrected(given)
    given[:, :2] = given[:, :2].flip(1)
    assert not torch.equal(net.coarse(given)[1], expected)


def test_hiding_anew_forgets_what_was_hidden():
    phases = HiddenPhases(2, 2, 1)
    phases.hide([[0.0, 0.3], [0.0, 0.0]])
    phases.calibrate(grains((9, 9, 9), 2, 1.0))
    assert phases.doubt[0] > -1e4
    phases.hide([[0.0, 0.3], [0.0, 0.0]], rims=[0])
    assert phases.rims == [0]
    phases.hide([[0.0, 0.0], [0.4, 0.0]])
    fresh = HiddenPhases(2, 2, 1)
    fresh.hide([[0.0, 0.0], [0.4, 0.0]])
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in phases.state_dict().items())


def test_fine_tuning_keeps_the_hidden_shares_of_the_new_rock(tmp_path):
    """Weights come from the checkpoint, thresholds from the configuration."""

    class Engine:
        def __init__(self, share: float, seed: int):
            torch.manual_seed(seed)
            network = LevelGenerator(3, 2, channels=(3, 2), blocks=1, grain_radius=1)
            network.hidden.hide([[0.0, share], [0.0, 0.0]])
            self.state = {"network": network, "ema": AveragedModel(network), "critics": torch.nn.ModuleDict()}

        def parts(self):
            return self.state

    old, new = Engine(0.4, 0), Engine(0.1, 1)
    torch.save({name: part.state_dict() for name, part in old.parts().items()}, tmp_path / "checkpoint.pt")
    warm_start(new, tmp_path / "checkpoint.pt")
    for part in (new.parts()["network"], new.parts()["ema"].module):
        assert torch.equal(part.trunk[0].weight, old.parts()["network"].trunk[0].weight)
        assert part.hidden.threshold[0].item() == pytest.approx(NormalDist().inv_cdf(0.9))
