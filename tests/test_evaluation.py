"""`run evaluating`: from files to evaluation.json, pictures and the table."""

import json
import logging

import numpy as np
import pytest
import tifffile

from bundle import report
from bundle.errors import InputError
from bundle.evaluation import Evaluation, find_sr

PHASES = ["pore", "grain", "clay"]
SCALE = 4


@pytest.fixture
def files(tmp_path):
    """LR 6 x 8 x 8 with the values 0, 128, 255; SR its nearest neighbour; two HR images; no voxel sizes in any file."""
    rng = np.random.default_rng(9)
    lr = rng.integers(0, 3, (6, 8, 8), np.uint8)
    values = np.array([0, 128, 255], np.uint8)
    sr = lr.repeat(SCALE, 0).repeat(SCALE, 1).repeat(SCALE, 2)
    tifffile.imwrite(tmp_path / "rock_3.5um.tif", values[lr])
    tifffile.imwrite(tmp_path / "rock_3.5um_sr.tif", sr)
    tifffile.imwrite(tmp_path / "hr.tif", rng.integers(0, 3, (2, 40, 48), np.uint8), photometric="minisblack")
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of the time of a run and is tested once."""
    for name in ("plot_slices", "plot_two_point", "plot_statistics"):
        monkeypatch.setattr(report, name, lambda *args: None)


def evaluation(folder, **changes) -> Evaluation:
    settings = {
        "lr_image": folder / "rock_3.5um.tif",
        "sr_image": None,
        "hr_images": str(folder / "hr.tif"),
        "phases": PHASES,
        "output_dir": folder,
        "scale_factor": SCALE,
        "lr_labels": {0: 0, 128: 1, 255: 2},
        "lr_voxel_size": 2.0,
        "hr_voxel_size": 0.5,
        "max_lag": 4.0,
    }
    return Evaluation(**{**settings, **changes})


def test_nearest_neighbour_has_the_errors_of_lr_and_keeps_all(files, caplog):
    caplog.set_level(logging.INFO)
    result = evaluation(files).run()
    assert json.loads((files / "evaluation.json").read_text(encoding="utf-8")) == result
    assert result["mean_relative_error"]["sr"] == pytest.approx(result["mean_relative_error"]["lr"])
    assert result["mean_relative_error"]["sr"] > 0.3  # the HR images are noise: far more interfaces
    assert result["lr_agreement"]["all"] == 1.0
    assert result["voxel_size"] == {"unit": "µm", "lr": [2.0] * 3, "sr": [0.5] * 3}
    assert "mean relative error" in caplog.text and "pore-clay" in caplog.text and "LR kept" in caplog.text
    assert {p.name for p in files.glob("*.png")} == {"slices.png", "two_point.png", "statistics.png"}
    curves = result["two_point"]["all planes"]
    assert curves["SR"]["lag"] == pytest.approx(np.arange(9) * 0.5) and curves["LR"]["lag"] == pytest.approx([0, 2, 4])
    # Repeating voxels keeps S2 at the multiples of the LR voxel, up to the ends of the lines.
    np.testing.assert_allclose(np.array(curves["SR"]["mean"])[:, ::4], curves["LR"]["mean"], atol=0.03)
    assert np.array(curves["HR"]["min"]).shape == (3, 9) and len(curves["SR"]["axes"]) == 3 and len(curves["HR"]["axes"]) == 2


def test_region_is_cut_from_lr(files, no_pictures):
    sr = tifffile.imread(files / "rock_3.5um_sr.tif")
    tifffile.imwrite(files / "part.tif", sr[4:20, 8:32, :16])
    region = [[1, 5], [2, 8], [0, 4]]
    result = evaluation(files, sr_image=files / "part.tif", lr_region=region).run()
    assert result["lr_agreement"]["all"] == 1.0 and result["shape"]["lr"] == [4, 6, 4]


def test_each_plane_is_compared_along_its_own_axes(files, no_pictures):
    layers = np.zeros((24, 32, 32), np.uint8)
    layers[::2] = 1  # interfaces normal to z only
    tifffile.imwrite(files / "layers.tif", layers)
    tifffile.imwrite(files / "flat.tif", np.array([[0, 1], [1, 0]], np.uint8).repeat(16, 0).repeat(16, 1))
    planes = {"xy": files / "hr.tif", "yz": files / "flat.tif"}
    result = evaluation(files, sr_image=files / "layers.tif", hr_images=planes).run()
    area = {plane: group["statistics"]["pore-grain"]["sr"] for plane, group in result["groups"].items()}
    # yz has z and y: all 23 z-faces a column of 24 x 32 columns, none of the y-faces.
    assert area == pytest.approx({"xy": 0.0, "yz": 23 * 32 / (23 * 32 + 24 * 31)})
    # The lone image's quarters are of one phase each: against the other three (1/3 and 2/3) off by 2 and by 1.
    assert result["groups"]["yz"]["hr_noise"]["leave_one_out"] == pytest.approx([1.5] * 4)
    errors = [group["mean_relative_error"]["sr"] for group in result["groups"].values()]
    assert result["mean_relative_error"]["sr"] == pytest.approx(np.mean(errors))


def test_fewer_lr_phases_are_matched_by_name(files, no_pictures):
    lr = tifffile.imread(files / "rock_3.5um.tif")
    tifffile.imwrite(files / "two.tif", np.where(lr == 255, 128, lr))
    changes = {"lr_phases": ["clay", "pore"], "lr_labels": {0: 1, 128: 0}}
    result = evaluation(files, lr_image=files / "two.tif", sr_image=files / "rock_3.5um_sr.tif", **changes).run()
    confusion = np.array(result["lr_agreement"]["confusion"])
    assert result["lr_agreement"]["kept"]["grain"] is None and confusion[1].sum() == 0
    assert confusion[0].tolist() == [confusion[0].sum(), 0, 0]  # LR label 1 is pore, as in SR


def test_without_any_voxel_size_lengths_are_in_voxels(files, no_pictures):
    result = evaluation(files, lr_voxel_size=None, hr_voxel_size=None).run()
    assert result["voxel_size"] == {"unit": "SR voxels", "lr": [4.0] * 3, "sr": [1.0] * 3}


def test_voxel_size_of_the_images_alone_is_enough(files, no_pictures):
    assert evaluation(files, lr_voxel_size=None).run()["voxel_size"]["lr"] == [2.0] * 3


def test_find_sr_of_an_ome_tiff(tmp_path):
    (tmp_path / "lr_sr.tif").touch()
    assert find_sr(tmp_path / "lr.ome.tif", tmp_path).name == "lr_sr.tif"


def test_find_sr_keeps_points_in_the_name(tmp_path):
    for name in ("rock_3.5um_sr.nii.gz", "rock_3.5um_sr.png", "rock_3_sr.tif"):
        (tmp_path / name).touch()
    assert find_sr(tmp_path / "elsewhere" / "rock_3.5um.nii.gz", tmp_path).name == "rock_3.5um_sr.nii.gz"
    (tmp_path / "rock_3.5um_sr.tif").touch()
    with pytest.raises(InputError, match="2 SR volumes"):
        find_sr(tmp_path / "rock_3.5um.tif", tmp_path)
    with pytest.raises(InputError, match="no SR volume"):
        find_sr(tmp_path / "other.tif", tmp_path)


def test_voxel_size_per_axis(files, no_pictures):
    size = {"lr_voxel_size": [4.0, 2.0, 2.0], "hr_voxel_size": [1.0, 0.5, 0.5]}
    planes = {"xy": files / "hr.tif", "xz": files / "hr.tif"}
    result = evaluation(files, hr_images=planes, **size).run()
    assert result["voxel_size"]["sr"] == [1.0, 0.5, 0.5]
    curves = result["two_point"]["xz"]["SR"]
    assert curves["lag"] == pytest.approx(np.arange(9) * 0.5)  # the finer of z and x
    z_axis = np.array(curves["axes"][0])
    np.testing.assert_allclose(z_axis[:, 1], (z_axis[:, 0] + z_axis[:, 2]) / 2, atol=1e-5)  # between voxels: interpolated


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale_factor": 2}, "scale_factor"),
        ({"lr_region": [[0, 2], [0, 8], [0, 8]]}, "lr_region"),
        ({"lr_region": [[0, 7], [0, 8], [0, 8]]}, "not .* inside"),
        ({"hr_voxel_size": 0.4}, "voxel sizes do not fit"),
        ({"hr_images": {"zz": "hr.tif"}}, "unknown plane zz"),
        ({"lr_region": [1, 2, 3]}, "lr_region"),
        ({"lr_phases": ["pore", "salt", "clay"]}, "salt"),
        ({"phases": ["pore", "grain", "pore"]}, "twice"),
        ({"phases": ["pore", "grain"], "lr_phases": ["pore", "grain"], "lr_labels": {0: 0, 128: 1, 255: 1}}, "_sr.tif"),
        ({"lr_labels": None}, "128"),
        ({"hr_labels": {0: 0, 1: 1}}, "hr_images"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(files, changes, says):
    with pytest.raises(InputError, match=says) as error:
        evaluation(files, **changes, output_dir=files / "out", sr_image=files / "rock_3.5um_sr.tif").run()
    assert "\n" not in str(error.value) and not (files / "out").exists()
