"""Gates: each measure against a loop, and each gate provoked alone."""

from __future__ import annotations

import json
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import InputError
from bundle.io import read_images
from bundle.metrics import gates
from bundle.metrics.gates import best_matches, chord_curves, cut_tiles, gate_images, statistics_error, two_point_curves
from bundle.metrics.summary import statistics

PHASES = ["pore", "solid", "clay"]
SETTINGS = {"edge": 16, "steps": 40, "crops": 12}


def rock(number: int, edge: int, seed: int, width: float = 2.0, cuts=(-0.5, 0.8)) -> list[np.ndarray]:
    """Images of three phases: crops of smooth noise of variance 1, cut at the same values in all."""
    rng, margin = np.random.default_rng(seed), 4 * int(width + 1)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(edge + 2 * margin,) * 2), width) for _ in range(number)]
    return [np.digitize(one[margin:-margin, margin:-margin] * 2 * np.sqrt(np.pi) * width, cuts).astype(np.uint8) for one in smooth]


REAL = rock(6, 96, seed=1)


def failed(made, real=None, **options) -> list[str]:
    verdict = gate_images(REAL if real is None else real, made, PHASES, **{**SETTINGS, **options})
    assert verdict["passed"] == all(gate["passed"] for gate in verdict["gates"].values())
    return [name for name, gate in verdict["gates"].items() if not gate["passed"]]


@pytest.fixture
def no_network(monkeypatch):
    """The two-sample test takes the longest, and has tests of its own."""
    monkeypatch.setattr(gates, "two_sample_auc", lambda *args, **kwargs: {"auc": 0.5, "error": 0.1})
    monkeypatch.setattr(gates, "real_reference", lambda *args, **kwargs: {"auc": 0.5})


def test_images_of_the_same_rock_pass():
    assert failed(rock(60, 48, seed=2), real=rock(6, 96, seed=52)) == []


def test_hardly_any_set_of_the_same_rock_is_refused(no_network, monkeypatch):
    """Bands and ranges of a few images would refuse most, as they are: there are some twenty figures, and all must pass."""
    monkeypatch.setattr(gates, "_memorisation", lambda *args: {"passed": True, "text": ""})
    refused = [bool(failed(rock(60, 48, seed), real=rock(6, 96, seed=seed + 50))) for seed in range(12)]
    assert sum(refused) <= 3


def test_salt_and_pepper_fails_the_two_sample_test_among_others(monkeypatch):
    monkeypatch.setattr(gates, "real_reference", lambda real, n, **rest: {"auc": 0.75})  # what it does is seen below; it takes three times as long
    rng = np.random.default_rng(0)
    noisy = [np.where(rng.random(one.shape) < 0.1, rng.integers(3, size=one.shape), one).astype(np.uint8) for one in rock(60, 48, seed=2)]
    assert "two-sample" in failed(noisy, steps=80)


def test_other_fractions_fail(no_network):
    assert "statistics" in failed(rock(60, 48, seed=2, cuts=(-1.0, 0.8)))


def test_other_grains_of_the_same_fractions_fail_at_the_curves(no_network):
    found = failed(rock(60, 48, seed=2, width=3.5))
    assert {"two-point", "chords"} <= set(found)


def test_copies_fail(no_network):
    rng = np.random.default_rng(0)
    copies = []
    for i in range(60):
        y, x = rng.integers(48, size=2)
        copies.append(np.ascontiguousarray(np.rot90(REAL[i % 6][y : y + 48, x : x + 48], i % 4)))
    assert "memorisation" in failed(copies)


@pytest.mark.parametrize("place", [0, 6])
def test_copies_fail_beside_a_real_image_of_one_phase(no_network, place):
    """A crop of one phase is found anywhere: it is no measure of how well real images match each other."""
    real = [*REAL[:place], np.ones_like(REAL[0]), *REAL[place:]]
    copies = [np.ascontiguousarray(REAL[i % 6][:48, :48]) for i in range(60)]
    verdict = gate_images(real, copies, PHASES, **SETTINGS)
    assert not verdict["gates"]["memorisation"]["passed"] and verdict["gates"]["memorisation"]["limit"] < 1
    json.dumps(verdict, allow_nan=False)


def test_images_of_one_phase_have_no_copies_and_no_spread(no_network):
    flat = [np.ones((48, 48), np.uint8)] * 3
    verdict = gate_images(flat, flat, PHASES, **SETTINGS)
    assert verdict["gates"]["memorisation"]["copied"] == 0 and verdict["gates"]["diversity"]["passed"]
    json.dumps(verdict, allow_nan=False)


def test_pairs_are_all_there_are_or_some_of_them_each_once():
    rng = np.random.default_rng(0)
    assert sorted(gates._pairs(6, 300, rng)) == list(combinations(range(6), 2))
    drawn = gates._pairs(40000, 300, rng)  # 8e8 of them are never listed
    assert len(set(drawn)) == 300 and all(0 <= a < b < 40000 for a, b in drawn)
    counts = np.zeros((5, 5))
    for _ in range(3000):
        ((a, b),) = gates._pairs(5, 1, rng)
        counts[a, b] += 1
    np.testing.assert_allclose(counts[np.triu_indices(5, 1)], 300, atol=70)  # four standard deviations


def test_curves_of_images_of_several_sizes_end_with_the_smallest():
    images = [REAL[0], REAL[1][:40]]
    curve = two_point_curves(images, 3)
    assert curve.shape == (3, 21)
    same = [(one[:, :-7] == 1) & (one[:, 7:] == 1) for one in images], [(one[:-7] == 1) & (one[7:] == 1) for one in images]
    wanted = np.mean([sum(map(np.sum, kind)) / sum(each.size for each in kind) for kind in same])
    assert curve[1, 7] == pytest.approx(wanted, abs=1e-6)


def test_a_set_is_not_more_diverse_for_having_more_images():
    """Fractions of .4 and .6 in both kinds: the spread is that of a sample, with n - 1."""
    images = [(np.arange(100).reshape(10, 10) < size).astype(np.uint8) for size in (40, 60)]
    gate = gates._diversity([[image] for image in images], images * 8, 2, np.random.default_rng(0))
    assert gate["spread"] == pytest.approx(np.sqrt(16 / 15) / np.sqrt(2))


def test_the_same_image_again_and_again_fails(no_network):
    assert "diversity" in failed([rock(1, 48, seed=3)[0]] * 20)


def test_the_network_is_asked_about_images_that_nobody_learned_from(monkeypatch):
    asked = []
    monkeypatch.setattr(gates, "two_sample_auc", lambda real, made, n, edge, **rest: asked.append((real, made, edge)) or {"auc": 0.9, "error": 0.0})
    monkeypatch.setattr(gates, "real_reference", lambda real, n, **rest: asked.append(real) or {"auc": 0.8})
    unseen, made = rock(2, 48, seed=7), rock(30, 48, seed=2)
    assert "two-sample" in failed(made, held_out=unseen)
    assert asked[0][0] is unseen[0] or all(map(np.array_equal, asked[0][0], unseen))
    assert all(map(np.array_equal, asked[0][1], made)) and asked[0][2] == 16 and all(map(np.array_equal, asked[1], REAL))
    monkeypatch.setattr(gates, "real_reference", lambda real, n, **rest: {"auc": 0.95})  # real images are told apart even better
    assert "two-sample" not in failed(made, held_out=unseen)


@pytest.mark.parametrize("number", [3, 12])
def test_the_band_of_few_images_holds_the_mean_of_their_rock(number):
    """Over many samples the 95 % band holds the mean of all about as often as it says; a plain bootstrap of three fails every fourth time."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(300):
        values = rng.normal(0.5, 0.05, number)
        curve = iter([*values, 0.5])
        gate, found = gates._curves(lambda images, n: np.full((1, 2), next(curve)), [[]] * number, [], ["a"], rng)
        inside.append(gate["passed"])
    assert 0.9 < np.mean(inside) <= 0.99


def test_tiles():
    image = np.arange(7 * 9).reshape(7, 9)
    tiles = cut_tiles(image, (3, 4))
    assert len(tiles) == 4 and np.array_equal(tiles[3], image[3:6, 4:8])


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean relative error of the statistics that the rock has: its first and last phase do not touch."""
    return float(np.mean([abs(a - b) / b for a, b in zip(found, wanted) if b]))


def test_the_error_of_the_statistics():
    real, made = REAL[:3], rock(5, 48, seed=4, cuts=(-0.8, 0.8))
    wanted = np.mean([statistics(image, 3) for image in real], 0)
    found = np.mean([statistics(image, 3) for image in made], 0)
    result = statistics_error(real, made, 3)
    assert result["error"] == pytest.approx(relative(found, wanted), rel=1e-12)
    assert result["low"] < result["error"] < result["high"] and result["real"] > 0
    same = statistics_error([real[0]] * 3, [real[0]] * 2, 3)
    assert max(same.values()) < 1e-12


def test_the_band_of_the_error_is_that_of_redrawn_images():
    real, made = REAL[:3], rock(2, 48, seed=4)
    values = [statistics(image, 3) for image in made]
    wanted = np.mean([statistics(image, 3) for image in real], 0)
    means = [values[0], values[1], np.mean(values, 0)]  # all that two images drawn with replacement can give
    errors = sorted(relative(mean, wanted) for mean in means)
    result = statistics_error(real, made, 3)
    assert result["low"] == pytest.approx(errors[0]) and result["high"] == pytest.approx(errors[-1])


def test_curves():
    images = rock(2, 20, seed=5)
    points, chords = two_point_curves(images, 3), chord_curves(images, 3)
    assert points.shape == chords.shape == (3, 11)
    for phase in range(3):
        lengths = []
        for image in images:
            for line in [*image, *image.T]:
                runs = "".join("1" if label == phase else "0" for label in line).split("0")
                inner = [run for run in runs[1:-1] if run]  # the first and last piece touch the border
                lengths += map(len, inner)
        for lag in range(11):
            pairs = [(line[i] == phase) & (line[i + lag] == phase) for image in images for line in [*image, *image.T] for i in range(20 - lag)]
            assert points[phase, lag] == pytest.approx(np.mean(pairs), abs=1e-6)
            assert chords[phase, lag] == pytest.approx(np.mean(np.array(lengths) <= lag))


def test_a_crop_is_found_again_wherever_it_was_and_however_it_was_turned():
    images = rock(2, 40, seed=6, width=1.5)
    crop = images[1][17:29, 5:17]
    for turned in [np.rot90(side, k) for side in (crop, crop.T) for k in range(4)]:
        assert best_matches([np.ascontiguousarray(turned)], images, 3) == pytest.approx([1], abs=1e-6)


@pytest.mark.parametrize("places", [512, 4, 1])
def test_the_best_match_is_the_best_of_all_places_and_symmetries(monkeypatch, places):
    monkeypatch.setattr(gates, "PLACES", places)
    images, (other,) = [rock(1, 14, seed=6, width=1.0)[0], rock(1, 17, seed=7, width=1.0)[0][:11]], rock(1, 16, seed=8, width=1.0)
    crops, expected = [other[:5, :5], other[3:8, 9:14], images[0][9:, 9:], images[1][:5, 2:7]], []
    for crop in crops:
        best = 0.0
        for image in images:
            for turned in [np.rot90(side, k) for side in (crop, crop.T) for k in range(4)]:
                for y in range(image.shape[0] - 4):
                    for x in range(image.shape[1] - 4):
                        best = max(best, float(np.mean(image[y : y + 5, x : x + 5] == turned)))
        most = np.bincount(crop.ravel()).max() / 25
        expected.append((best - most) / (1 - most))
    assert best_matches(crops, images, 3) == pytest.approx(expected, abs=1e-6)
    assert expected[2:] == [1, 1] and best_matches([], images, 3) == []


def test_the_search_for_copies_takes_no_more_memory_for_a_larger_image(monkeypatch):
    monkeypatch.setattr(gates, "PLACES", 64)
    large = np.tile(REAL[0], (5, 5))
    peaks = []
    for image in (large[:96], large[:96], large):  # the first fills caches
        tracemalloc.start()
        best_matches([REAL[1][:16, :16]], [image], 3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1] < 100 * 80**2


@pytest.mark.parametrize(
    ("real", "made", "message"),
    [
        (REAL[:1], REAL, "1 real image: a spread needs 2 or more"),
        (REAL, REAL[:1], "1 made image"),
        (REAL, [*rock(2, 48, 0), *rock(2, 40, 0)], "differ in size"),
        (rock(2, 40, 0), rock(2, 48, 0), r"a real image is smaller than those of the set \(48 x 48\)"),
        (REAL, rock(2, 12, 0), "smaller than crops of 16"),
    ],
)
def test_sets_that_cannot_be_judged(real, made, message):
    with pytest.raises(InputError, match=message):
        gate_images(real, made, PHASES, **SETTINGS)


@pytest.mark.parametrize(("real", "made", "held_out", "edge", "part"), [
    (rock(4, 40, 0), rock(8, 40, 1), None, 32, r"\(20, 20\)"),  # a half of the real images, in folds
    (rock(8, 40, 0), rock(3, 40, 1), None, 32, r"\(20, 20\)"),
    (REAL, rock(8, 48, 1), rock(1, 30, 2), 16, r"\(15, 15\)"),
])  # fmt: skip
def test_images_without_room_for_the_folds_are_refused_before_anything_is_trained(monkeypatch, real, made, held_out, edge, part):
    monkeypatch.setattr(gates, "two_sample_auc", lambda *args, **kwargs: pytest.fail("trained"))
    monkeypatch.setattr(gates, "statistics_gate", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match=f"a part of 4 has shape {part}, too small for crops of {edge}"):
        gate_images(real, made, PHASES, held_out, edge=edge, steps=1, crops=1)


def test_the_statistics_of_the_authors_generated_images(shared_data):
    """Nine of ten in the range of the real images, the contact of quartz and feldspar just beyond."""
    real, made = (read_images(shared_data / "berea" / f"hr_{kind}_0.4375um.tif")[0] for kind in ("real", "generated"))
    gate = gates.statistics_gate(real, made, ["pore", "quartz", "feldspar", "clay"])
    beyond = [name for name, value in gate["values"].items() if not value["least"] <= value["made"] <= value["most"]]
    assert gate["passed"] and beyond == ["quartz-feldspar"]
