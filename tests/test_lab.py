"""Files of the validation lab: what is cut from a real volume, what is planted in a scan."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from bundle.errors import InputError
from bundle.io.files import Volume, read_volume, write_volume
from bundle.lab import ARTEFACTS, plant, split_volume, thirds, write_phantom
from bundle.phantom import Phantom, VOXEL, sections


def test_a_split_volume_is_unpaired_to_learn_and_paired_to_test(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (26, 18, 17)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "v.tif", labels)
    split_volume(thirds(tmp_path / "v.tif", 4, 3), tmp_path / "out", 4, 3, 2.0, images=2)
    tests = sorted((tmp_path / "out").glob("test_*"))
    hr, lr = (read_volume(tmp_path / "out" / name) for name in ("hr.tif", "train/lr.tif"))
    np.testing.assert_array_equal(hr.array, labels[[0, 4], :16, :16])  # a third is 8 planes: two blocks
    assert lr.array.shape == (2, 4, 4) and lr.voxel_size == (8.0,) * 3
    assert [test.name for test in tests] == ["test_0", "test_1"]  # no more cubes of 8 in 16
    coarse = [(lr.array, labels[8:16, :16, :16])]
    for i, test in enumerate(tests):
        truth, seen = (read_volume(test / name) for name in ("truth.tif", "lr.tif"))
        np.testing.assert_array_equal(truth.array, labels[16:24, 8 * i : 8 * i + 8, 8 * i : 8 * i + 8])
        assert truth.voxel_size == (2.0,) * 3 and seen.voxel_size == (8.0,) * 3
        coarse.append((seen.array, truth.array))
    for found, fine in coarse:
        for index in np.ndindex(found.shape):
            counts = np.bincount(fine[tuple(slice(4 * i, 4 * i + 4) for i in index)].ravel(), minlength=3)
            assert counts[found[index]] == counts.max()


def test_a_volume_too_small_for_three_parts_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((20, 16, 16), np.uint8))
    with pytest.raises(InputError, match="v.tif: 20 planes are too few for three parts of two blocks of 4"):
        thirds(tmp_path / "v.tif", 4, 2)
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((24, 16, 7), np.uint8))
    with pytest.raises(InputError, match="v.tif: planes of 16 x 7 voxels do not hold two blocks of 4 a side"):
        thirds(tmp_path / "v.tif", 4, 2)


def test_whole_numbers_stored_as_float_are_labels_of_a_volume(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (24, 8, 8))
    tifffile.imwrite(tmp_path / "v.tif", labels.astype(np.float32))
    parts = thirds(tmp_path / "v.tif", 4, 2)
    assert all(part.dtype == np.uint8 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), labels)


def test_a_phantom_is_written_with_its_truth_and_images_of_each_axis(tmp_path):
    write_phantom(tmp_path, "layered", 3, 4, hr_size=40, images=2, axes=(0, 1), truth=True)
    lr, truth = read_volume(tmp_path / "lr.tif"), read_volume(tmp_path / "truth.tif")
    assert lr.array.shape == (4, 4, 4) and lr.voxel_size == (3.5,) * 3
    assert truth.array.shape == (32, 32, 32) and truth.voxel_size == (VOXEL,) * 3
    from bundle.phantom import rock

    layered = rock("layered")
    assert np.mean(truth.array == Phantom(3, 14.0, layered).labels((VOXEL / 2,) * 3, (32, 32, 32))) > 0.999
    for axis in (0, 1):
        assert np.mean(tifffile.imread(tmp_path / f"hr_{'zyx'[axis]}.tif") == sections(3, 2, 40, layered, axis)) > 0.999
    assert not (tmp_path / "hr.tif").exists()
    record = json.loads((tmp_path / "scan.json").read_text())
    assert record["rock"] == "layered" and np.sum(record["confusion [truth][scan]"]) == 64


def test_planted_artefacts():
    lr = np.ones((20, 21, 22), np.uint8)
    lr[5:9, 5:9, 5:9] = 0
    lr[14:17, 14:17, 14:17] = 2
    before = lr.copy()
    planted = {name: plant(lr, name) for name in ARTEFACTS}
    assert np.array_equal(lr, before)  # a copy
    changed = np.mean(planted["specks"] != lr)
    assert 0.005 < changed < 0.02 and planted["specks"].max() == 2  # some of the 2 % draw the label they had
    np.testing.assert_array_equal(planted["shift"][10:], lr[10:])
    np.testing.assert_array_equal(planted["shift"][:10, 1:], lr[:10, :-1])
    swollen = planted["swollen pores"]
    assert (swollen == 0).sum() == 4**3 + 6 * 4**2 and (swollen == 2).sum() == 27  # a face's thickness on each of the six sides
    assert not (planted["lost second"] == 2).any() and (planted["lost second"] == 1).sum() == (lr > 0).sum()
    ring = planted["ring"] != lr
    y, x = np.nonzero(ring.any(0))
    assert len(y) and np.all(abs(np.hypot(y - 10, x - 10.5) - 21 / 4) < 0.5)
    with pytest.raises(InputError, match="artefact: scratch is not known; choose one of specks"):
        plant(lr, "scratch")


def test_images_normal_to_no_axis_are_refused_before_anything_is_made(bundle_root, tmp_path):
    command = [sys.executable, str(bundle_root / "scripts" / "make_phantom.py"), "--axes", "3", "--output", str(tmp_path / "rock")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "invalid choice: 3" in ended.stderr and not (tmp_path / "rock").exists()


def test_a_folder_that_cannot_be_written_ends_it_before_the_rock_is_made(tmp_path, bundle_root, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, str(bundle_root / "scripts" / "make_phantom.py"), "--lr-size", "4000", "--output", str(tmp_path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)  # 4000^3 voxels would take for ever
    assert result.returncode == 1 and result.stderr.startswith(f"error: {tmp_path / 'file'}: cannot be written") and result.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_benchmarks_tell_a_missing_scan_in_one_line(bundle_root, tmp_path):
    command = [sys.executable, str(bundle_root / "scripts" / "benchmark.py"), "inference", "--lr-image", str(tmp_path / "absent.tif")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr == f"error: {tmp_path / 'absent.tif'}: no such file; check the path\n"


def test_benchmarks_refuse_a_scan_that_is_too_small(bundle_root, tmp_path):
    write_volume(tmp_path / "small.tif", Volume(np.zeros((31, 40, 40), np.uint8), (3.5,) * 3))
    command = [sys.executable, str(bundle_root / "scripts" / "benchmark.py"), "inference", "--lr-image", str(tmp_path / "small.tif")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr == f"error: --lr-image: {tmp_path / 'small.tif'} has an edge of 31 voxels; give a scan of 32 or more\n"


def test_what_a_case_of_the_benchmarks_refuses_ends_them_in_its_line(bundle_root, tmp_path):
    write_volume(tmp_path / "other.tif", Volume(np.full((32, 32, 32), 9, np.uint8), (3.5,) * 3))
    command = [sys.executable, str(bundle_root / "scripts" / "benchmark.py"), "inference", "--quick", "--lr-image", str(tmp_path / "other.tif")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {tmp_path / 'other.tif'}: ") and ended.stderr.count("\n") == 1


def test_a_case_of_the_benchmarks_finds_a_scan_named_from_another_folder_and_needs_no_voxel_size(bundle_root, tmp_path):
    """It refuses the labels, so it has read them."""
    tifffile.imwrite(tmp_path / "bare.tif", np.full((32, 32, 32), 9, np.uint8))
    command = [sys.executable, str(bundle_root / "scripts" / "benchmark.py"), "inference", "--quick", "--lr-image", "bare.tif"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {tmp_path / 'bare.tif'}: holds values (9)"), ended.stderr


@pytest.mark.parametrize(("given", "message"), [
    ({"lr_size": 0}, "--lr-size: 0; give a whole number of voxels, such as 64, 1 or more"),
    ({"hr_size": 0}, "--hr-size: 0; give a whole number of pixels, such as 512, 1 or more"),
    ({"images": -1}, "--images: -1; give a whole number of images, 0 for none, 0 or more"),
    ({"seed": -1}, "seed: -1; give a whole number"),
    ({"workers": 0}, "--workers: 0; give a whole number of processes, such as 2, 1 or more"),
])  # fmt: skip
def test_numbers_of_a_phantom_that_cannot_be_are_refused_before_anything_is_made(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        write_phantom(tmp_path / "rock", **{"name": "berea", "seed": 0, "lr_size": 2, "hr_size": 8, "images": 1} | given)
    assert not (tmp_path / "rock").exists()
