"""Diversity between seeds of the noise and between slices."""

import itertools
import json
from math import comb, log2

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.metrics import fractions
from bundle.metrics.diversity import seed_diversity, slice_diversity

NAMES = ["pore", "quartz", "clay"]


def random_labels(seed: int, shape=(5, 6, 7), n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, shape).astype(np.uint8)


@pytest.mark.parametrize("block_voxels", [1 << 22, 50])
def test_equals_a_loop_over_voxels(block_voxels, monkeypatch):
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", block_voxels)
    volumes = [random_labels(seed) for seed in range(3)]
    found = seed_diversity(volumes, NAMES)
    flat = [volume.ravel().tolist() for volume in volumes]
    size = len(flat[0])
    differing, dice = {}, {name: [] for name in NAMES}
    for a, b in itertools.combinations(range(3), 2):
        differing[f"{a}-{b}"] = sum(x != y for x, y in zip(flat[a], flat[b], strict=True)) / size
        for phase, name in enumerate(NAMES):
            both = sum(x == y == phase for x, y in zip(flat[a], flat[b], strict=True))
            dice[name].append(2 * both / (flat[a].count(phase) + flat[b].count(phase)))
    entropy = 0.0
    for labels in zip(*flat, strict=True):
        for phase in set(labels):
            share = labels.count(phase) / 3
            entropy -= share * log2(share)
    assert found["differing"]["pairs"] == pytest.approx(differing)
    assert found["differing"]["mean"] == pytest.approx(sum(differing.values()) / 3)
    assert found["dice"] == pytest.approx({name: sum(values) / 3 for name, values in dice.items()})
    assert found["entropy"] == pytest.approx(entropy / size)


def test_identical_volumes_do_not_differ():
    volume = random_labels(1)
    found = seed_diversity([volume, volume.copy(), volume.astype(np.int64)], NAMES)
    assert found["differing"] == {"mean": 0.0, "pairs": {"0-1": 0.0, "0-2": 0.0, "1-2": 0.0}}
    assert found["dice"] == dict.fromkeys(NAMES, 1.0) and found["entropy"] == 0.0
    assert all(row["std"] == pytest.approx(0, abs=1e-15) for row in found["statistics"].values())


def test_independent_bernoulli_volumes():
    p, seeds, shape = 0.3, 4, (40, 40, 40)
    volumes = [(np.random.default_rng(seed).random(shape) < p).astype(np.uint8) for seed in range(seeds)]
    found = seed_diversity(volumes, ["pore", "grain"])
    size = np.prod(shape)
    expected = 2 * p * (1 - p)
    for share in found["differing"]["pairs"].values():
        assert share == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / size))
    assert found["dice"]["grain"] == pytest.approx(p, abs=0.01) and found["dice"]["pore"] == pytest.approx(1 - p, abs=0.01)
    binomial = [comb(seeds, k) * p**k * (1 - p) ** (seeds - k) for k in range(seeds + 1)]
    entropies = [0.0] + [-(k / seeds) * log2(k / seeds) - (1 - k / seeds) * log2(1 - k / seeds) for k in range(1, seeds)] + [0.0]
    assert found["entropy"] == pytest.approx(np.dot(binomial, entropies), abs=0.01)
    grain = found["statistics"]["grain"]
    shares = [volume.mean() for volume in volumes]
    assert grain["values"] == pytest.approx(shares) and grain["mean"] == pytest.approx(np.mean(shares))
    assert grain["std"] == pytest.approx(np.sqrt(sum((s - np.mean(shares)) ** 2 for s in shares) / (seeds - 1)))
    assert found["statistics"]["pore-grain"]["mean"] == pytest.approx(expected, abs=0.01)


def test_opposite_volumes_have_one_bit():
    zeros = np.zeros((2, 3, 4), np.uint8)
    found = seed_diversity([zeros, zeros + 1], NAMES)
    assert found["differing"]["mean"] == 1.0 and found["entropy"] == 1.0
    assert found["dice"] == {"pore": 0.0, "quartz": 0.0, "clay": None}
    json.dumps(found, allow_nan=False)


def test_a_phase_that_a_pair_lacks_does_not_count_there():
    zeros = np.zeros((2, 2, 2), np.uint8)
    clay = zeros.copy()
    clay[0] = 2
    assert seed_diversity([zeros, zeros, clay], NAMES)["dice"] == pytest.approx({"pore": (1 + 2 * (2 * 4 / 12)) / 3, "quartz": None, "clay": 0.0})


def test_bad_input_of_seeds_is_told():
    volume = random_labels(1)
    with pytest.raises(InputError, match="2 or more, not 1"):
        seed_diversity([volume], NAMES)
    with pytest.raises(InputError, match=r"volume 2 has shape \(4, 6, 7\)"):
        seed_diversity([volume, volume, volume[:4]], NAMES)
    with pytest.raises(InputError, match="label 2, of 2 phases"):
        seed_diversity([volume, volume], NAMES[:2])


def test_slices_that_know_nothing_of_each_other():
    rng = np.random.default_rng(2)
    volume = rng.choice(3, (40, 40, 40), p=(0.2, 0.3, 0.5)).astype(np.uint8)
    real = [rng.choice(3, (60, 50), p=(0.1, 0.3, 0.6)).astype(np.uint8), rng.choice(3, (50, 60), p=(0.1, 0.3, 0.6)).astype(np.uint8)]
    found = slice_diversity(volume, real, 3)
    assert found["sr"]["distance"] == pytest.approx(1 - 0.04 - 0.09 - 0.25, abs=0.01)
    assert found["real"]["independent"] == pytest.approx(1 - 0.01 - 0.09 - 0.36, abs=0.02)
    assert found["sr"]["relative"] == pytest.approx(1, abs=0.02) and found["relative"] == pytest.approx(1, abs=0.05)


def test_the_same_slice_throughout_is_a_collapse():
    rng = np.random.default_rng(3)
    real = list(rng.integers(0, 2, (3, 40, 40)).astype(np.uint8))
    found = slice_diversity(real[0][None].repeat(40, 0), real, 2)  # along z all alike, along y and x not
    assert found["sr"]["relative"] == pytest.approx(2 / 3, abs=0.05)
    assert found["relative"] == pytest.approx(found["sr"]["relative"] / found["real"]["relative"])
    line = np.arange(40) % 2
    diagonal = np.ones((40, 40, 1), int) * line  # along z and y all alike, along x odd and even slices
    found = slice_diversity(diagonal.astype(np.uint8), real, 2, number=40)
    odd = sum((i - j) % 2 for i, j in itertools.combinations(range(40), 2) if abs(i - j) > 10)
    pairs = sum(1 for i, j in itertools.combinations(range(40), 2) if abs(i - j) > 10)
    assert found["sr"]["distance"] == pytest.approx(odd / pairs / 3)
    assert slice_diversity(diagonal.astype(np.uint8) * 0, real, 2)["relative"] is None


def test_distance_of_independent_slices_takes_the_fractions_of_both():
    real = [np.array([[0, 0, 0, 1]] * 4, np.uint8), np.array([[1, 1, 2, 0], [1, 1, 2, 0]], np.uint8)]  # (3/4, 1/4, 0) and (1/4, 1/2, 1/4)
    found = slice_diversity(random_labels(6, (12, 12, 12)), real, 3)["real"]
    assert found == pytest.approx({"distance": 1.0, "independent": 1 - 5 / 16, "relative": 16 / 11})


def test_neighbours_are_not_compared():
    blocks = np.random.default_rng(4).integers(0, 2, (2, 40, 40)).astype(np.uint8).repeat(20, 0)  # two slices, each 20 times along z
    real = list(np.random.default_rng(5).integers(0, 2, (2, 40, 40)).astype(np.uint8))
    far = slice_diversity(blocks, real, 2, number=2, apart=0.5)["sr"]["distance"]
    ends = [np.take(blocks, 0, axis) != np.take(blocks, 39, axis) for axis in range(3)]
    assert far == pytest.approx(np.mean([end.mean() for end in ends]))
    with pytest.raises(InputError, match="no two of 2 slices more than 0.99"):
        slice_diversity(blocks, real, 2, number=2, apart=0.99)
    with pytest.raises(InputError, match="2 or more"):
        slice_diversity(blocks, real[:1], 2)
    with pytest.raises(InputError, match="label 1"):
        slice_diversity(blocks, real, 1)
