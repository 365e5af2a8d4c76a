"""The summary figure: mean relative error of LR and SR against the HR images, and the agreement with LR."""

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.metrics import fractions, lr_agreement, majority_downsample, statistic_names, statistics, summarise
from bundle.metrics.summary import deviation, mean_relative_error, sampling_noise
from bundle.verdicts import plus_minus


def test_four_phases_have_ten_statistics_fractions_first():
    names = statistic_names(["pore", "quartz", "feldspar", "clay"])
    assert names[:5] == ["pore", "quartz", "feldspar", "clay", "pore-quartz"] and names[-1] == "feldspar-clay" and len(names) == 10
    image = np.array([[0, 1], [1, 3]], np.uint8)
    # Faces: 0-1 twice, 1-3 twice of 4.
    np.testing.assert_allclose(statistics(image, 4), [0.25, 0.5, 0, 0.25, 0.5, 0, 0, 0, 0.5, 0])


def test_summary_by_hand():
    hr = np.array([[0.2, 0.8, 0.0], [0.4, 0.6, 0.0]])
    summary = summarise(["a", "b", "a-b"], hr, lr=np.array([0.3, 0.35, 0.1]), sr=np.array([0.33, 0.7, 0.0]))
    assert summary["mean_relative_error"] == pytest.approx({"lr": 0.25, "sr": 0.05})  # a: 0 and 10 %; b: 50 % and 0
    assert summary["left_out"] == ["a-b"]
    assert summary["statistics"]["a"] == pytest.approx(
        {"hr": 0.3, "hr_std": 0.02**0.5, "lr": 0.3, "sr": 0.33, "lr_error": 0.0, "sr_error": 0.1}
    )
    assert summary["statistics"]["a-b"]["sr_error"] is None


def test_a_single_image_has_no_spread_and_no_noise():
    summary = summarise(["a"], np.array([[0.5]]), np.array([0.5]), np.array([0.4]))
    assert summary["statistics"]["a"]["hr_std"] is None and summary["hr_noise"] is None


def test_equal_images_have_no_spread_at_all():
    assert deviation(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])).tolist() == [0.0, 1.0]  # NumPy's own of .1, .1, .1 is 1.7e-17
    row = summarise(["a"], np.full((3, 1), 0.1), np.array([0.1]), np.array([0.1]))["statistics"]["a"]
    assert plus_minus(row["hr"], row["hr_std"]) == ".100 ± .000"


def test_nothing_in_the_reference_gives_no_error():
    assert np.isnan(mean_relative_error(np.array([1.0, 2.0]), np.zeros(2)))


def test_sampling_noise_by_hand():
    noise = sampling_noise(np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]))
    assert noise["leave_one_out"] == pytest.approx([0.6 / 2, 0.0, 1.0 / 2])  # 1 against 2.5, 2 against 2, 3 against 1.5
    # Draws of three from (1, 2, 3) have the mean 2 in 7 of 27, 5/3 or 7/3 in 12: the median error is 1/6 of the first, none of the second.
    assert noise["bootstrap_median"] == pytest.approx(1 / 12)
    assert noise == sampling_noise(np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]), seed=0)


def test_leave_one_out_leaves_out_what_one_image_alone_has():
    noise = sampling_noise(np.array([[0.3, 0.1], [0.2, 0.0], [0.1, 0.0]]))
    assert noise["leave_one_out"][0] == pytest.approx(1.0)  # 0.3 against 0.15; the second is 0 in the others


@pytest.mark.parametrize("block_voxels", [1 << 22, 1])
def test_majority_equals_a_loop_over_blocks(block_voxels, monkeypatch):
    monkeypatch.setattr(fractions, "BLOCK_VOXELS", block_voxels)
    labels = np.random.default_rng(8).integers(0, 3, (6, 4, 8), np.uint8)
    expected = np.zeros((3, 2, 4), np.uint8)
    for z, y, x in np.ndindex(expected.shape):
        block = labels[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        counts = np.bincount(block.ravel(), minlength=3)
        expected[z, y, x] = block[0, 0, 0] if counts[block[0, 0, 0]] == counts.max() else counts.argmax()
    np.testing.assert_array_equal(majority_downsample(labels, 2, 3), expected)


def test_majority_ties_prefer_no_label():
    block = np.repeat(np.array([2, 1], np.uint8), 4).reshape(2, 2, 2)
    assert majority_downsample(block, 2, 3).item() == 2 and majority_downsample(block[::-1], 2, 3).item() == 1
    third = np.array([0, 2, 2, 2, 1, 1, 1, 0], np.uint8).reshape(2, 2, 2)
    assert majority_downsample(third, 2, 3).item() == 1
    labels = np.random.default_rng(0).integers(0, 2, (32, 32, 32), np.uint8)  # two labels, as often: neither gains, and names do not matter
    half = majority_downsample(labels, 2, 2)
    assert abs(half.mean() - 0.5) < 0.03  # with ties to the lowest .36
    np.testing.assert_array_equal(majority_downsample(1 - labels, 2, 2), 1 - half)


def test_majority_of_large_blocks_does_not_overflow():
    labels = np.ones((40, 40, 40), np.uint8)
    labels[:10] = 0
    assert majority_downsample(labels, 40, 2).item() == 1


def test_agreement_counts_lr_voxels_by_label_and_majority():
    lr = np.array([[[0, 0, 1, 2]]], np.uint8)
    sr = lr.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    sr[:, :, 2:4] = 1  # the second pore voxel turned to quartz
    sr[0, 0, 0] = 2  # a speck: the majority of the first stays
    agreement = lr_agreement(lr, sr, 2, ["pore", "quartz", "clay", "salt"])
    assert agreement["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert agreement["kept"] == {"pore": 0.5, "quartz": 1.0, "clay": 1.0, "salt": None}
    assert agreement["all"] == 0.75


def test_shapes_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="not LR shape"):
        lr_agreement(np.zeros((2, 2, 2), np.uint8), np.zeros((8, 8, 4), np.uint8), 4, ["a"])
    with pytest.raises(InputError, match="blocks of 4"):
        majority_downsample(np.zeros((8, 8, 6), np.uint8), 4, 1)


def test_berea_lr_is_twice_off_the_real_images(shared_data):
    """The figure that the project starts from: 102 % against five real images, four of which are here."""
    import tifffile

    hr = tifffile.imread(shared_data / "berea" / "hr_real_0.4375um.tif")
    lr = tifffile.imread(shared_data / "berea" / "lr_3.5um.tif")
    names = statistic_names(["pore", "quartz", "feldspar", "clay"])
    of_lr = statistics(lr, 4, upsample=8)
    summary = summarise(names, np.stack([statistics(image, 4) for image in hr]), of_lr, of_lr)
    assert summary["mean_relative_error"]["lr"] == pytest.approx(1.02, abs=0.03)
    assert not summary["left_out"]
