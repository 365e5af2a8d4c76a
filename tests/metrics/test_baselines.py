"""Nearest and trilinear upsampling of labels."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bundle.errors import InputError
from bundle.metrics import baselines, upsample_nearest, upsample_trilinear


def random_labels(shape, n_phases=3, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n_phases, shape, np.uint8)


def exact_trilinear(labels: np.ndarray, scale: int, n_phases: int) -> np.ndarray:
    """Whole-number weights, voxel by voxel: the place of fine voxel i is (2 i + 1 - scale) / (2 scale) coarse ones."""
    fine = np.empty([n * scale for n in labels.shape], np.uint8)
    for index in np.ndindex(*fine.shape):
        weights = [0] * n_phases
        places = [divmod(2 * i + 1 - scale, 2 * scale) for i in index]
        for corner in itertools.product((0, 1), repeat=3):
            there = tuple(min(max(p + c, 0), n - 1) for (p, _), c, n in zip(places, corner, labels.shape, strict=True))
            weights[labels[there]] += int(np.prod([rest if c else 2 * scale - rest for (_, rest), c in zip(places, corner, strict=True)]))
        fine[index] = weights.index(max(weights))
    return fine


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_nearest_repeats_every_voxel(scale):
    labels = random_labels((2, 3, 4)).astype(np.uint16)
    fine = upsample_nearest(labels, scale)
    assert fine.dtype == np.uint16 and fine.shape == (2 * scale, 3 * scale, 4 * scale)
    assert all(fine[index] == labels[tuple(i // scale for i in index)] for index in np.ndindex(*fine.shape))


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("edge", [1, 16, 24, 128])
def test_trilinear_is_that_of_torch_on_the_whole_volume(scale, edge, monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK_EDGE", edge)
    labels = random_labels((3, 5, 7), 4)
    one_hot = F.one_hot(torch.from_numpy(labels).long(), 4).movedim(-1, 0)[None].double()
    expected = F.interpolate(one_hot, scale_factor=scale, mode="trilinear", align_corners=False).argmax(1)[0].numpy()
    np.testing.assert_array_equal(upsample_trilinear(labels, scale, 4), expected)


@pytest.mark.parametrize("scale", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("edge", [1, 128])
def test_trilinear_is_that_of_whole_numbers_ties_included(scale, edge, monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK_EDGE", edge)
    labels = random_labels((3, 3, 4), 4, seed=1)
    np.testing.assert_array_equal(upsample_trilinear(labels, scale, 4), exact_trilinear(labels, scale, 4))


def test_trilinear_rounds_a_corner_and_nearest_does_not():
    labels = np.ones((4, 4, 4), np.uint8)
    labels[2:, 2:, 2:] = 0
    nearest, smooth = upsample_nearest(labels, 8), upsample_trilinear(labels, 8, 2)
    assert nearest[16, 16, 16] == 0 and smooth[16, 16, 16] == 1
    assert smooth[31, 31, 31] == 0 and ((smooth == 0) <= (nearest == 0)).all()


def test_scale_one_and_one_voxel_stay_as_they_are():
    labels = random_labels((3, 4, 5))
    np.testing.assert_array_equal(upsample_trilinear(labels, 1, 3), labels)
    np.testing.assert_array_equal(upsample_trilinear(labels[:1, :1, :1], 4, 3), np.full((4, 4, 4), labels[0, 0, 0]))


@pytest.mark.parametrize("upsample", [upsample_nearest, lambda labels, scale: upsample_trilinear(labels, scale, 3)])
def test_bad_input_is_told(upsample):
    with pytest.raises(InputError, match="3D"):
        upsample(random_labels((4, 4)), 2)
    with pytest.raises(InputError, match="integers"):
        upsample(np.zeros((2, 2, 2)), 2)
    for scale in (0, 1.5, -2):
        with pytest.raises(InputError, match="scale"):
            upsample(random_labels((2, 2, 2)), scale)


def test_trilinear_refuses_labels_outside_the_phases():
    with pytest.raises(InputError, match="label 3, of 3 phases"):
        upsample_trilinear(np.full((2, 2, 2), 3, np.uint8), 2, 3)
