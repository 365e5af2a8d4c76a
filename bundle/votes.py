"""What several noise seeds say of the same voxels: votes, how far they agree, and what most of them say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

BLOCK = 2**18  # voxels that are looked at at a time: numbers of 4 and 8 bytes for a whole shard take more memory than all that is kept of it


def votes_of(volumes: Sequence[np.ndarray], n_phases: int) -> np.ndarray:
    """How many of at most 255 volumes of labels (z, y, x) have each phase: uint8 (phases, z, y, x)."""
    return np.stack([sum((volume == phase).astype(np.uint8) for volume in volumes) for phase in range(n_phases)])


def agreeing(labels: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """How many of the votes uint8 (phases, z, y, x) are for the labels (z, y, x), uint8."""
    return np.take_along_axis(votes, labels[None].astype(np.intp), 0)[0]


def in_slabs(make: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """What `make` gives of arrays (.., z, y, x), as uint8 (z, y, x); it is given some planes at a time, so that little memory is taken beside."""
    depth, height, width = arrays[0].shape[-3:]
    result = np.empty((depth, height, width), np.uint8)
    planes = max(1, BLOCK // (height * width))
    for start in range(0, depth, planes):
        place = np.s_[..., start : start + planes, :, :]
        result[place] = make(*(array[place] for array in arrays))
    return result


def majority_of_votes(labels: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The label with most votes (phases, z, y, x), uint8 (z, y, x); of several with as many that of `labels`, if it is among them, else the first.

    A single volume is one plausible rock; this is the best guess of each voxel, which is smoother than any rock.
    """
    return in_slabs(lambda own, cast: np.where(agreeing(own, cast) == cast.max(0), own, cast.argmax(0)), labels, votes)


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

    def entropy(cast: np.ndarray) -> np.ndarray:
        total = terms[cast[0]]
        for phase in cast[1:]:
            total += terms[phase]
        return np.rint(total)

    return in_slabs(entropy, votes)
