"""What several noise seeds say of the same voxels: votes, how far they agree, and what most of them say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def votes_of(volumes: Sequence[np.ndarray], n_phases: int) -> np.ndarray:
    """How many of at most 255 volumes of labels (z, y, x) have each phase: uint8 (phases, z, y, x)."""
    return np.stack([sum((volume == phase).astype(np.uint8) for volume in volumes) for phase in range(n_phases)])


def agreeing(labels: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """How many of the votes uint8 (phases, z, y, x) are for the labels (z, y, x), uint8."""
    return np.take_along_axis(votes, labels[None].astype(np.intp), 0)[0]


def majority_of_votes(labels: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The label with most votes (phases, z, y, x), uint8 (z, y, x); of several with as many that of `labels`, if it is among them, else the first.

    A single volume is one plausible rock; this is the best guess of each voxel, which is smoother than any rock.
    """
    return np.where(agreeing(labels, votes) == votes.max(0), labels, votes.argmax(0)).astype(np.uint8)


def entropy_percent(votes: np.ndarray, number: int) -> np.ndarray:
    """Entropy of votes in whole per cent of its largest value, log(phases): -sum_p v_p/N log(v_p/N) / log(phases) (Shannon 1948).

    Args:
        votes: uint8 (phases, z, y, x), how many of `number` voted for each.

    Returns:
        uint8 (z, y, x), 0 to 100.
    """
    if len(votes) == 1:  # there is nothing to disagree about
        return np.zeros(votes.shape[1:], np.uint8)
    share = np.arange(number + 1) / number
    terms = np.zeros(number + 1, np.float32)
    terms[1:] = -100 / np.log(len(votes)) * share[1:] * np.log(share[1:])
    total = terms[votes[0]]
    for phase in votes[1:]:
        total += terms[phase]
    return np.rint(total).astype(np.uint8)
