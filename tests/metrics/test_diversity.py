"""Diversity between seeds of the noise and between images."""

import itertools
import json

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.metrics import fractions
from bundle.metrics.diversity import image_distance, seed_diversity

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
    assert found["differing"]["pairs"] == pytest.approx(differing)
    assert found["differing"]["mean"] == pytest.approx(sum(differing.values()) / 3)
    assert found["dice"] == pytest.approx({name: sum(values) / 3 for name, values in dice.items()})


def test_identical_volumes_do_not_differ():
    volume = random_labels(1)
    found = seed_diversity([volume, volume.copy(), volume.astype(np.int64)], NAMES)
    assert found["differing"] == {"mean": 0.0, "pairs": {"0-1": 0.0, "0-2": 0.0, "1-2": 0.0}}
    assert found["dice"] == dict.fromkeys(NAMES, 1.0)


def test_independent_bernoulli_volumes():
    p, seeds, shape = 0.3, 4, (40, 40, 40)
    volumes = [(np.random.default_rng(seed).random(shape) < p).astype(np.uint8) for seed in range(seeds)]
    found = seed_diversity(volumes, ["pore", "grain"])
    size = np.prod(shape)
    expected = 2 * p * (1 - p)
    for share in found["differing"]["pairs"].values():
        assert share == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / size))
    assert found["dice"]["grain"] == pytest.approx(p, abs=0.01) and found["dice"]["pore"] == pytest.approx(1 - p, abs=0.01)


def test_opposite_volumes_agree_nowhere():
    zeros = np.zeros((2, 3, 4), np.uint8)
    found = seed_diversity([zeros, zeros + 1], NAMES)
    assert found["differing"]["mean"] == 1.0
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


def test_distance_of_two_images():
    """On their common corner."""
    one, other = np.array([[0, 0, 0, 1]] * 4, np.uint8), np.array([[1, 1, 2, 0], [1, 1, 2, 0]], np.uint8)
    assert image_distance(one, other) == 1.0 and image_distance(one, one) == 0.0
    other[0, 3] = 1
    assert image_distance(one, other) == 1 - 1 / 8
