"""Votes of noise seeds against loops and scipy's entropy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

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


def test_one_phase_has_nothing_to_disagree_about():
    with np.errstate(all="raise"):  # log(1) is a divisor elsewhere
        found = entropy_percent(np.full((1, 2, 3, 4), 8, np.uint8), 8)
    assert found.dtype == np.uint8 and found.shape == (2, 3, 4) and not found.any()
