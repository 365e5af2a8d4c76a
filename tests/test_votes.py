"""Votes of noise seeds against loops and scipy's entropy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from bundle.trust import Trust
from bundle.votes import entropy_percent, majority_of_votes, votes_of


def test_votes_and_majority_against_a_loop():
    volumes = [np.random.default_rng(seed).integers(0, 3, (4, 5, 6)).astype(np.uint8) for seed in range(4)]
    votes = votes_of(volumes, 3)
    found = majority_of_votes(volumes[0], votes)
    for index in np.ndindex(4, 5, 6):
        said = [int(volume[index]) for volume in volumes]
        assert [said.count(label) for label in range(3)] == list(votes[(slice(None), *index)])
        most = max(said.count(label) for label in said)
        winners = [label for label in set(said) if said.count(label) == most]
        assert found[index] == (said[0] if said[0] in winners else min(winners))


@pytest.mark.parametrize("votes", [(4, 0, 0), (2, 2, 0), (1, 1, 2)])
def test_entropy_of_votes(votes):
    found = entropy_percent(np.array(votes, np.uint8)[:, None, None, None], 4)
    assert abs(int(found.item()) - 100 * stats.entropy(votes, base=3)) <= 0.5
    assert entropy_percent(np.full((4, 1, 1, 1), 2, np.uint8), 8).item() == 100


MADE = {
    "entropy": lambda labels, votes: entropy_percent(votes, 4),
    "majority": majority_of_votes,
    "trust": lambda labels, votes: Trust(list("abc"), np.linspace(0, 1, 30).reshape(3, 2, 5)).percent(labels, votes, 4, labels < 2),
}


@pytest.fixture
def cast() -> tuple[np.ndarray, np.ndarray]:
    """Labels of 62 x 256 x 256 voxels and four votes for three phases."""
    volumes = np.random.default_rng(0).integers(0, 3, (4, 62, 256, 256), np.uint8)
    return volumes[0], votes_of(volumes, 3)


@pytest.mark.parametrize("name", MADE)
def test_memory_beside_the_result_is_small(cast, name):
    tracemalloc.start()
    MADE[name](*cast)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * cast[0].size  # bytes, with the result of one a voxel


@pytest.mark.parametrize("name", MADE)
def test_slabs_give_what_the_whole_does(cast, name, monkeypatch):
    found = MADE[name](*cast)
    monkeypatch.setattr("bundle.votes.BLOCK", cast[0].size)
    whole = MADE[name](*cast)
    assert found.dtype == whole.dtype == np.uint8 and found.tobytes() == whole.tobytes()


def test_one_phase_has_nothing_to_disagree_about():
    with np.errstate(all="raise"):  # log(1) is a divisor elsewhere
        found = entropy_percent(np.full((1, 2, 3, 4), 8, np.uint8), 8)
    assert found.dtype == np.uint8 and found.shape == (2, 3, 4) and not found.any()
