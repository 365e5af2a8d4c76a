"""Volume fractions: what share of the voxels each label has."""

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.metrics import count_labels, fractions, mean_fractions, volume_fractions


def test_fractions_of_a_known_image():
    image = np.array([[0, 0, 1], [2, 0, 1]], np.uint8)
    np.testing.assert_allclose(volume_fractions(image, 4), [3 / 6, 2 / 6, 1 / 6, 0])


def test_a_list_of_images_is_pooled():
    images = [np.zeros((2, 2), np.uint8), np.ones((4, 3), np.uint8)]
    assert count_labels(images, 2).tolist() == [4, 12]


def test_the_mean_over_images_counts_each_as_much():
    large, small = np.zeros((10, 10), np.uint8), np.ones((2, 2), np.uint8)
    np.testing.assert_allclose(mean_fractions([large, small], 3), [0.5, 0.5, 0.0])


def test_blocks_count_every_voxel_of_a_memory_mapped_volume_once(tmp_path, monkeypatch):
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", 50)  # two planes a block, one in the last
    volume = np.random.default_rng(0).integers(0, 3, (7, 4, 5), np.uint8)
    np.save(tmp_path / "volume.npy", volume)
    mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
    assert count_labels(mapped, 3).tolist() == [(volume == label).sum() for label in range(3)]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.full((2, 2), 3, np.uint8), "label 3"),
        (np.full((2, 2), -1, np.int16), "negative label -1"),
        (np.zeros((2, 2), np.float32), "float32"),
        (np.zeros((0, 2), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        ([], "no images"),
    ],
)
def test_bad_labels_are_one_clear_line(labels, says):
    with pytest.raises(InputError, match=says):
        volume_fractions(labels, 3)
