"""Majority pyramids against counts in loops."""

import numpy as np
import pytest

from bundle.pyramid import majority_pyramid, mean_pyramid


def by_loops(labels: np.ndarray, n: int, edge: int) -> np.ndarray:
    """Most frequent label of every block of edge^3, by bincount; of equals that of the first voxel, or else the lowest."""
    result = np.empty([-(-s // edge) for s in labels.shape], np.uint8)
    for z, y, x in np.ndindex(*result.shape):
        block = labels[z * edge : (z + 1) * edge, y * edge : (y + 1) * edge, x * edge : (x + 1) * edge]
        counts = np.bincount(block.ravel(), minlength=n)
        result[z, y, x] = block[0, 0, 0] if counts[block[0, 0, 0]] == counts.max() else counts.argmax()
    return result


@pytest.mark.parametrize("shape", [(16, 16, 16), (9, 14, 1), (1, 5, 8)])
@pytest.mark.parametrize("n", [2, 5])
def test_each_level_is_the_majority_of_the_finest_voxels(shape, n):
    labels = np.random.default_rng(0).integers(n, size=shape, dtype=np.uint8)
    before = labels.copy()
    found = majority_pyramid(labels, n, 4)
    assert len(found) == 4 and np.array_equal(labels, before)
    for level, coarse in enumerate(found):
        assert coarse.dtype == np.uint8
        np.testing.assert_array_equal(coarse, by_loops(labels, n, 2 ** (level + 1)))


def test_no_label_is_preferred():
    labels = np.random.default_rng(1).integers(2, size=(32, 32, 32), dtype=np.uint8)
    for coarse, swapped in zip(majority_pyramid(labels, 2, 2), majority_pyramid(1 - labels, 2, 2), strict=True):
        np.testing.assert_array_equal(coarse, 1 - swapped)


def test_a_majority_of_majorities_is_another():
    """Five blocks of 2^3 of which each holds five 1 are the majority of blocks, but 1 is in 25 of 64 voxels."""
    labels = np.zeros((4, 4, 4), np.uint8)
    for z, y, x in [(0, 0, 0), (0, 0, 2), (0, 2, 0), (0, 2, 2), (2, 0, 0)]:
        block = labels[z : z + 2, y : y + 2, x : x + 2]
        block[0] = 1
        block[1, 0, 0] = 1
    finer, coarser = majority_pyramid(labels, 2, 2)
    assert finer.sum() == 5 and coarser.item() == 0


def test_large_blocks_do_not_overflow():
    """32^3 = 32,768 voxels of one label."""
    labels = np.ones((32, 32, 32), np.uint8)
    labels[0, 0, 0] = 0
    assert majority_pyramid(labels, 2, 5)[-1].item() == 1


def test_no_levels():
    assert majority_pyramid(np.zeros((2, 2, 2), np.uint8), 2, 0) == []


@pytest.mark.parametrize("shape", [(16, 16, 16), (9, 14, 1), (1, 5, 8)])
def test_means_of_blocks(shape):
    values = np.random.default_rng(0).integers(101, size=shape, dtype=np.uint8)
    found = mean_pyramid(values, 3)
    assert len(found) == 3
    for level, coarse in enumerate(found):
        edge = 2 ** (level + 1)
        assert coarse.dtype == np.uint8 and coarse.shape == tuple(-(-n // edge) for n in shape)
        for z, y, x in np.ndindex(*coarse.shape):
            block = values[z * edge : (z + 1) * edge, y * edge : (y + 1) * edge, x * edge : (x + 1) * edge]
            assert abs(int(coarse[z, y, x]) - block.mean()) <= 0.5 + 1e-6
