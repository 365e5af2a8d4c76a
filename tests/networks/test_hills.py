"""Sums over boxes and walks uphill, in integers."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bundle.networks.hills import box_sum, uphill, walked


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9, 17])
def test_box_sums_are_those_of_convolutions(width):
    values = torch.randint(-50, 50, (2, 2, 18, 17, 19), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    expected = F.conv3d(values.double().flatten(0, 1)[:, None], torch.ones(1, 1, width, width, width, dtype=torch.double))
    assert torch.equal(box_sum(values, width).flatten(0, 1)[:, None].double(), expected)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_walks_go_to_the_highest_neighbour(steps):
    """Against a walk voxel by voxel; heights that all differ, so that there is one way."""
    shape = (3, 4, 5)
    heights = np.random.default_rng(0).permutation(60).reshape(shape)
    found = walked(uphill(torch.from_numpy(heights)[None, None]), steps)[0]
    for i, start in enumerate(np.ndindex(shape)):
        place = start
        for _ in range(steps):
            around = [tuple(np.add(place, step)) for step in itertools.product((-1, 0, 1), repeat=3)]
            place = max((p for p in around if all(0 <= n < edge for n, edge in zip(p, shape))), key=lambda p: heights[p])
        assert int(found[i]) == np.ravel_multi_index(place, shape)


def test_on_a_plateau_a_walk_stays():
    heights = torch.zeros(1, 1, 3, 3, 3)
    assert uphill(heights)[0].tolist() == list(range(27))
