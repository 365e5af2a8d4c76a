"""A volume against its truth, compared with loops, closed forms and MONAI's metrics."""

import json

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.metrics.meandice import compute_dice

from bundle.errors import InputError
from bundle.metrics import boundary_distance, confusion, fractions, voxel_agreement

PHASES = ["pore", "quartz", "clay"]


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, shape, np.uint8)
    return np.where(rng.random(shape) < 0.7, truth, rng.integers(0, 3, shape, np.uint8)).astype(np.uint8), truth


def one_hot(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([labels == i for i in range(3)])[None])


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
@pytest.mark.parametrize("block_voxels", [1 << 22, 40, 1])
def test_confusion_is_truth_by_volume(shape, block_voxels, monkeypatch):
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", block_voxels)
    volume, truth = pair(shape)
    expected = [[sum(t == a and v == b for t, v in zip(truth.flat, volume.flat, strict=True)) for b in range(3)] for a in range(3)]
    for kind in (np.uint8, np.int16, np.uint64):
        np.testing.assert_array_equal(confusion(volume.astype(kind), truth.astype(kind), 3), expected)
    found = voxel_agreement(volume, truth, PHASES)
    assert found["confusion"] == expected
    assert found["accuracy"] == pytest.approx(np.mean(volume == truth))


def test_dice_is_that_of_monai():
    volume, truth = pair((8, 9, 10), 1)
    theirs = compute_dice(one_hot(volume), one_hot(truth), include_background=True)[0].tolist()
    found = voxel_agreement(volume, truth, PHASES)
    assert found["dice"] == pytest.approx(dict(zip(PHASES, theirs, strict=True)), rel=1e-6)
    assert found["absent"] == {} and json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_phase_that_either_lacks_has_no_dice():
    names = ["pore", "quartz", "clay", "mica"]
    found = voxel_agreement(np.array([[0, 0, 1]], np.uint8), np.array([[0, 0, 2]], np.uint8), names)
    assert found["dice"] == {"pore": 1.0, "quartz": None, "clay": None, "mica": None}
    assert found["absent"] == {"quartz": "truth", "clay": "volume", "mica": "both"}
    assert found["accuracy"] == pytest.approx(2 / 3)


def edge_points(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with a face neighbour inside the volume that is not of it."""
    found = []
    for index in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                there = index.copy()
                there[axis] += step
                if 0 <= there[axis] < mask.shape[axis] and not mask[tuple(there)]:
                    found.append(tuple(index))
    return np.array(sorted(set(found)), float)


@pytest.mark.parametrize(("shape", "size"), [((9, 11), (0.5, 2.0)), ((6, 7, 8), (0.5, 1.0, 3.0))])
def test_boundary_distance_equals_a_search_of_all_pairs(shape, size):
    volume, truth = (np.digitize(np.random.default_rng(seed).random(shape), [0.2, 0.9]).astype(np.uint8) for seed in (3, 4))
    found = boundary_distance(volume, truth, PHASES, size)
    for label, name in enumerate(PHASES):
        a, b = (edge_points(array == label) * size for array in (volume, truth))
        far = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
        there, back = far.min(1), far.min(0)
        assert found[name]["mean"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
        assert found[name]["hausdorff_95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)


def test_bodies_that_touch_no_border_have_the_distances_of_monai():
    grid = np.indices((18, 20, 22))
    volume, truth = (
        sum((g - c) ** 2 / r**2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1
        for centre, radii in (((8, 9, 10), (5, 6, 7)), ((9, 10, 11), (6, 4, 8)))
    )
    size = (0.5, 0.7, 1.1)
    masks = [torch.from_numpy(mask[None, None]) for mask in (volume, truth)]
    found = boundary_distance(volume.astype(np.uint8), truth.astype(np.uint8), ["rest", "body"], size)["body"]
    mean = compute_average_surface_distance(*masks, include_background=True, symmetric=True, spacing=size)
    far = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=size)
    assert found["mean"] == pytest.approx(float(mean), rel=1e-5) and found["hausdorff_95"] == pytest.approx(float(far), rel=1e-5)
    assert found["mean"] > 0.2


def test_a_plane_that_is_shifted_is_as_far_off_and_the_border_is_no_boundary():
    truth, volume = np.zeros((12, 6, 7), np.uint8), np.zeros((12, 6, 7), np.uint8)
    truth[5:], volume[8:] = 1, 1
    found = boundary_distance(volume, truth, ["pore", "quartz"], (0.5, 1.0, 1.0))
    assert found == {name: {"mean": pytest.approx(1.5), "hausdorff_95": pytest.approx(1.5)} for name in ("pore", "quartz")}
    masks = [torch.from_numpy((array == 1)[None, None]) for array in (volume, truth)]
    whole = compute_average_surface_distance(*masks, include_background=True, symmetric=True, spacing=(0.5, 1.0, 1.0))
    assert float(whole) < 1.0  # why MONAI's whole metric is not used: the faces of the volume agree with themselves


def test_the_same_boundaries_are_at_zero():
    volume, _ = pair((6, 6, 6))
    assert boundary_distance(volume, volume, PHASES, 1.0)["clay"] == {"mean": 0.0, "hausdorff_95": 0.0}


def test_a_phase_without_a_boundary_has_no_distance():
    lacks, has = np.zeros((5, 5, 5), np.uint8), np.zeros((5, 5, 5), np.uint8)
    has[2:] = 1
    for volume, truth in ((lacks, has), (has, lacks)):  # label 0 fills all, 1 is absent in one, 2 in both
        assert boundary_distance(volume, truth, PHASES, 1.0) == dict.fromkeys(PHASES)


CHECKS = [
    lambda volume, truth: voxel_agreement(volume, truth, PHASES),
    lambda volume, truth: boundary_distance(volume, truth, PHASES, 1.0),
]


@pytest.mark.parametrize("check", CHECKS)
def test_bad_pairs_are_told(check):
    good = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(InputError, match="same grid"):
        check(good, good[:2])
    with pytest.raises(InputError, match="integers"):
        check(good.astype(float), good)
    outside = good.copy()
    outside[3, 3, 3] = 3
    for bad in ((good, outside), (outside, good)):
        with pytest.raises(InputError, match="label 3, of 3 phases"):
            check(*bad)


def test_voxel_sizes_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="voxel size"):
        boundary_distance(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), PHASES, (1, 1, 1))
