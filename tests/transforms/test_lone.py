"""Lone voxels: against a loop, and on bodies that are sampled, averaged or noisy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import InputError
from bundle.metrics import majority_downsample
from bundle.transforms import lone
from bundle.transforms.downsample import coarse_labels
from bundle.transforms.lone import believed, lone_share

FACTOR = 4


@pytest.fixture(scope="module")
def rock() -> np.ndarray:
    """Three phases, bodies some ten voxels wide."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(96, 96, 96)), 3)
    return np.digitize(field, np.quantile(field, (0.4, 0.7))).astype(np.uint8)


def averaged(rock: np.ndarray) -> np.ndarray:
    """What wide optics do: which phase is most once all are blurred by two voxels of the scan."""
    return np.stack([ndimage.gaussian_filter((rock == p).astype(float), 2 * FACTOR) for p in range(3)]).argmax(0)[::FACTOR, ::FACTOR, ::FACTOR].astype(np.uint8)


def test_lone_pixels_are_those_that_a_blur_takes():
    images = [np.random.default_rng(i).integers(0, 3, (9 + i, 7)).astype(np.uint8) for i in range(2)]
    weights = np.outer((1, 2, 1), (1, 2, 1))
    lone = total = 0
    for image in images:
        for y, x in itertools.product(range(1, image.shape[0] - 1), range(1, 6)):
            around = image[y - 1 : y + 2, x - 1 : x + 2]
            amounts = [int(weights[around == label].sum()) for label in range(3)]
            lone, total = lone + (amounts[image[y, x]] < max(amounts)), total + 1
    assert lone_share(images) == lone / total > 0
    assert lone_share([np.zeros((5, 5), np.uint8)]) == 0 and lone_share([np.zeros((2, 9), np.uint8)]) is None


def test_a_volume_of_samples_is_told_from_a_scan(rock, caplog):
    images = list(rock[::16])
    caplog.set_level("INFO")
    noisy = rock[::FACTOR, ::FACTOR, ::FACTOR].copy()
    turned = np.random.default_rng(3).random(noisy.shape) < 0.2
    noisy[turned] = (noisy[turned] + 1) % 3
    assert not believed(averaged(rock), images, FACTOR), "fewer than the images have"
    assert not believed(majority_downsample(rock, FACTOR, 3), images, FACTOR), "as many as averaged images have"
    assert not believed(noisy, images, FACTOR), "more than the images have"
    assert not caplog.text
    assert believed(rock[::FACTOR, ::FACTOR, ::FACTOR], images, FACTOR)
    assert "lone_voxels: the scan has as many as the images where they are sampled" in caplog.text


def test_what_is_said_counts(rock):
    samples, images = rock[::FACTOR, ::FACTOR, ::FACTOR], list(rock[::16])
    assert believed(averaged(rock), images, FACTOR, True) and believed(averaged(rock), images, FACTOR, "true")
    assert not believed(samples, images, FACTOR, False) and not believed(samples, images, FACTOR, "False")
    with pytest.raises(InputError, match="lone_voxels: maybe is neither true nor false"):
        believed(samples, images, FACTOR, "maybe")


@pytest.mark.parametrize("images", [[np.zeros((32, 32), np.uint8)], [np.ones((8, 8), np.uint8)]], ids=["no lone pixels", "too small"])
def test_images_that_do_not_tell(rock, images):
    assert not believed(rock[::FACTOR, ::FACTOR, ::FACTOR], images, FACTOR)


def test_of_thousands_of_images_a_hundred_are_counted(rock, monkeypatch):
    """Evenly taken: the first two thirds alone, which are empty, would not tell."""
    counted = []
    monkeypatch.setattr(lone, "coarse_labels", lambda image, *rest: counted.append(1) or coarse_labels(image, *rest))
    assert believed(rock[::FACTOR, ::FACTOR, ::FACTOR], 170 * [np.zeros((32, 32), np.uint8)] + 14 * list(rock[::16]), FACTOR)
    assert 80 <= len(counted) <= 100


def test_of_thousands_of_sections_a_hundred_are_counted_along_each_axis(monkeypatch):
    """Evenly taken: labels rise with z, and the highest that is counted is one of the last."""
    counted = []
    monkeypatch.setattr(lone, "lone_share", lambda images: lone_share(counted.append(image) or image for image in images))
    scan = np.broadcast_to((np.arange(1000) // 4).astype(np.uint8)[:, None, None], (1000, 8, 8))
    believed(scan, [np.zeros((32, 32), np.uint8)], FACTOR)
    planes = [int(image[0, 0]) for image in counted if image.shape == (8, 8) and np.ptp(image) == 0]
    assert 80 <= len(planes) - 2 <= 100 and max(planes) > 240 and sum(image.shape == (1000, 8) for image in counted) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sections_in_all_directions_count(axis):
    """Columns of one voxel are alone in the sections across them and in no others, so that they hold a third of what those across do."""
    section = (np.random.default_rng(0).random((16, 16)) < 0.1).astype(np.uint8)
    labels = np.moveaxis(np.broadcast_to(section, (16, 16, 16)), 0, axis)
    image = np.kron(section, np.ones((FACTOR, FACTOR), np.uint8))
    assert lone_share([section]) > 0.05
    assert believed(labels, [image, 0 * image, 0 * image], FACTOR)
    assert not believed(labels, [image], FACTOR)
