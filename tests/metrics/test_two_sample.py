"""Classifier two-sample test."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from bundle.errors import InputError
from bundle.metrics import two_sample
from bundle.metrics.two_sample import auc, draw_crops, parts, real_reference, two_sample_auc

SMALL = {"edge": 24, "folds": 2, "steps": 60, "test": 100}


def smooth_labels(seed: int, *shape: int, level: float = 0.3) -> np.ndarray:
    """Isotropic rock of two phases: Gaussian noise, smoothed, cut at a level."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2, mode="wrap")
    return ((field - field.mean()) / field.std() > level).astype(np.uint8)


def noise(seed: int, number: int, low: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(low, low + 2, (number, 24, 24)).astype(np.uint8))


def test_auc_counts_pairs():
    rng = np.random.default_rng(1)
    real, fake = rng.integers(0, 9, 31).astype(float), rng.integers(-2, 7, 23).astype(float)  # with ties
    pairs = [(r > f) + 0.5 * (r == f) for r, f in itertools.product(real, fake)]
    assert auc(real, fake) == pytest.approx(np.mean(pairs))
    assert auc(real, fake) == pytest.approx(mannwhitneyu(real, fake).statistic / (31 * 23))
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0


def test_crops_lie_on_all_planes_of_a_volume():
    volume = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)  # a label tells its place
    crops = draw_crops([volume], 3000, 2, np.random.default_rng(2))
    possible = {}
    for axis in range(3):
        for plane in np.moveaxis(volume, axis, 0):
            for y, x in itertools.product(*(range(size - 1) for size in plane.shape)):
                possible[plane[y : y + 2, x : x + 2].tobytes()] = axis
    assert {crop.tobytes() for crop in crops} == set(possible)
    assert np.bincount([possible[crop.tobytes()] for crop in crops]) / 3000 == pytest.approx([1 / 3] * 3, abs=0.05)


def test_a_plane_too_narrow_for_a_crop_is_left_out():
    volume = np.arange(2 * 8 * 9, dtype=np.uint8).reshape(2, 8, 9)
    crops = draw_crops([volume], 50, 4, np.random.default_rng(3))
    assert (crops // 72 == crops[:, :1, :1] // 72).all()  # of one z


def test_larger_images_give_more_crops():
    large, small = np.indices((40, 50)).sum(0) % 2, 2 + np.indices((20, 20)).sum(0) % 2
    crops = draw_crops([large, small], 2000, 5, np.random.default_rng(4))
    assert (crops[:, 0, 0] < 2).mean() == pytest.approx(2000 / 2400, abs=0.04)


def test_crops_of_one_phase_are_drawn_again():
    image = np.zeros((10, 1009), np.uint8)
    image[:, :100] = 1  # of 1000 crops across, 9 hold the interface
    crops = draw_crops([image], 4000, 10, np.random.default_rng(5))
    held = (crops != crops[:, :1, :1]).any((1, 2)).mean()
    assert held == pytest.approx(1 - (1 - 0.009) ** two_sample.TRIES, abs=0.02)
    assert draw_crops([image * 0], 3, 10, np.random.default_rng(6)).shape == (3, 10, 10)


@pytest.mark.parametrize(("shapes", "number"), [([(9, 8)], 4), ([(9, 8), (7, 30)], 3), ([(4, 6)] * 7, 3), ([(6, 7, 12)], 4), ([(6, 7, 12)], 6)])
def test_parts_share_no_pixel_and_leave_none(shapes, number):
    bounds = np.cumsum([0] + [int(np.prod(shape)) for shape in shapes])
    arrays = [np.arange(start, stop).reshape(shape) for start, stop, shape in zip(bounds, bounds[1:], shapes, strict=False)]
    found = parts(arrays, number, 2)
    assert len(found) == number
    places = np.concatenate([array.ravel() for part in found for array in part])
    assert sorted(places) == list(range(bounds[-1]))
    if len(shapes) >= number:  # runs of whole images
        assert [array.shape for part in found for array in part] == shapes and places.tolist() == sorted(places)
    else:
        sizes = [sum(array.size for array in part) for part in found]
        assert max(sizes) < 1.6 * min(sizes)


def test_the_symmetries_are_those_of_a_square():
    square = np.arange(9).reshape(3, 3)
    expected = {np.rot90(image, k).tobytes() for image in (square, square[::-1]) for k in range(4)}
    assert {two_sample.square_symmetry(square, k).tobytes() for k in range(two_sample.SYMMETRIES)} == expected and len(expected) == 8


def test_one_rock_cannot_be_told_apart_and_nearest_neighbour_can():
    real = [smooth_labels(seed, 192, 192) for seed in range(4)]
    same = two_sample_auc(real, smooth_labels(9, 72, 72, 72), 2, **SMALL)
    assert abs(same["auc"] - 0.5) < 0.08
    json.dumps(same, allow_nan=False)
    coarse = smooth_labels(9, 72, 72, 72)[::4, ::4, ::4].repeat(4, 0).repeat(4, 1).repeat(4, 2)
    assert two_sample_auc(real, coarse, 2, **SMALL)["auc"] > 0.97


def test_half_of_the_fakes_betrayed_makes_three_quarters():
    # A fake of other labels always scores lower (1), one of the same noise as often as not (0.5).
    fake = [crop for pair in zip(noise(1, 200), noise(2, 200, low=2), strict=True) for crop in pair]
    found = two_sample_auc(noise(3, 400), fake, 4, edge=24, folds=2, steps=40, test=300)
    assert found["auc"] == pytest.approx(0.75, abs=0.06)


def test_what_was_learnt_by_heart_does_not_count():
    found = two_sample_auc(noise(1, 12), noise(2, 12), 2, edge=24, folds=2, steps=120, test=100)
    assert found["train"] > 0.9 and found["auc"] < 0.75  # far below 0.5 is luck: what is too rare in one half is too frequent in the other


def test_a_seed_repeats_the_test_and_leaves_other_random_numbers_alone():
    settings = {"edge": 24, "folds": 2, "steps": 8, "test": 30}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = two_sample_auc(noise(1, 9), noise(2, 9), 2, **settings)
    assert torch.rand(1) == expected
    assert two_sample_auc(noise(1, 9), noise(2, 9), 2, **settings) == first
    assert two_sample_auc(noise(1, 9), noise(2, 9), 2, seed=1, **settings)["folds"] != first["folds"]


def test_the_crops_that_are_told_most_surely_are_given_back(monkeypatch):
    """Of a network that takes bright crops for real those are the brightest of the images and the darkest of SR, of each fold."""
    drawn = []
    monkeypatch.setattr(two_sample, "_train", lambda *args: None)
    monkeypatch.setattr(two_sample, "_scores", lambda network, crops, n: crops.mean((1, 2)))
    monkeypatch.setattr(two_sample, "draw_crops", lambda *args: drawn.append(draw_crops(*args)) or drawn[-1])
    found = two_sample_auc(noise(1, 9), noise(2, 9), 2, edge=16, folds=3, test=20, surest=2)["crops"]
    for name, first, sign in (("real", 0, -1), ("fake", 1, 1)):
        judged = drawn[first::4]  # of each fold the images judged on, SR, then those trained on
        expected = [sorted(sign * one.mean((1, 2)))[:2] for one in judged]
        assert found[name].shape == (6, 16, 16)
        np.testing.assert_allclose(sign * found[name].mean((1, 2)), np.transpose(expected).ravel())


def test_mean_spread_and_error_of_the_folds(monkeypatch):
    scores = iter([0.6, 0.0, 0.7, 0.0, 0.9, 0.0])  # judged, trained, judged, ..
    monkeypatch.setattr(two_sample, "auc", lambda real, fake: float(next(scores)))
    found = two_sample_auc(noise(1, 3), noise(2, 3), 2, edge=24, folds=3, steps=2, test=2)
    assert found["folds"] == [0.6, 0.7, 0.9] and found["auc"] == pytest.approx(2.2 / 3) and found["train"] == 0.0
    spread = np.sqrt(np.sum((np.array([0.6, 0.7, 0.9]) - 2.2 / 3) ** 2) / 2)
    assert found["std"] == pytest.approx(spread)
    assert found["error"] == pytest.approx(spread * np.sqrt(1 / 3 + 1 / 2))  # Nadeau & Bengio: n_test / n_train = 1/2


def test_real_images_of_two_kinds_differ_in_one_way_to_halve_them():
    images = [smooth_labels(seed, 96, 96, level=level) for seed, level in ((0, 0.3), (1, 0.3), (2, 1.4), (3, 1.4))]
    found = real_reference(images, 2, **SMALL)
    assert [split["real"] for split in found["splits"]] == [[0, 1], [0, 2], [0, 3]]
    values = [split["auc"] for split in found["splits"]]
    assert values[0] > 0.97 and max(abs(value - 0.5) for value in values[1:]) < 0.2
    assert found["auc"] == pytest.approx(np.mean(values)) and found["std"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(("number", "most", "ways"), [(2, 3, 1), (3, 3, 3), (4, 3, 3), (6, 4, 4), (6, 10, 10), (5, 4, 4)])
def test_every_way_to_halve_is_counted_once(number, most, ways):
    found = two_sample._halves(number, most, np.random.default_rng(7))
    splits = {frozenset((frozenset(half), frozenset(range(number)) - frozenset(half))) for half in found}
    assert len(found) == len(splits) == ways and all(len(half) == number // 2 for half in found)


def test_halves_without_room_are_refused_before_anything_is_trained(monkeypatch):
    """Four images fill four folds each with one; of two each is cut into four."""
    monkeypatch.setattr(two_sample, "_train", lambda *args: pytest.fail("trained"))
    images = [smooth_labels(seed, 60, 60) for seed in range(3)] + [smooth_labels(3, 80, 80)]
    parts(images, 4, 32)
    with pytest.raises(InputError, match=r"shape \(30, 30\), too small for crops of 32"):
        real_reference(images, 2, edge=32)


def test_bad_input_is_told():
    image = smooth_labels(0, 60, 60)
    with pytest.raises(InputError, match="folds is 1"):
        two_sample_auc([image], [image], 2, folds=1)
    with pytest.raises(InputError, match=r"shape \(30, 30\), too small for crops of 32"):
        two_sample_auc([image], [image] * 4, 2, edge=32, folds=4)
    with pytest.raises(InputError, match=r"shape \(10, 20, 40\), too small"):
        parts(np.zeros((10, 20, 80), np.uint8), 2, 24)
    with pytest.raises(InputError, match="label 1, of 1 phases"):
        two_sample_auc([image], [image], 1)
    with pytest.raises(InputError, match="2 or more"):
        real_reference([image], 2)
