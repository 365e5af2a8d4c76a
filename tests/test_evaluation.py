"""`run evaluating`: from files to evaluation.json, pictures and the table."""

import inspect
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from monai.bundle import ConfigParser

from bundle import html_report, report
from bundle.assessment import Assessment
from bundle.errors import InputError
from bundle.evaluation import Evaluation, find_sr
from bundle.io.files import in_memory as files_in_memory
from bundle.io.images import EVALUATED, image_files
from bundle.io.source import LabelSource
from bundle.metrics import mean_relative_error, statistics
from bundle.provenance import sha256
from bundle.store import LabelStore, PercentStore

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
    monkeypatch.setattr(html_report, "write", lambda *args: None)


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
    assert {p.name for p in files.glob("*.png")} == {"slices.png", "slices_3x.png", "slices_9x.png", "two_point.png", "statistics.png"}
    page = (files / "report.html").read_text(encoding="utf-8")
    assert "SR is nearer to the mean of the HR images than LR in 0 of 6 statistics, as near in 6." in page and 'id="view"' not in page
    curves = result["two_point"]["all planes"]
    assert curves["SR"]["lag"] == pytest.approx(np.arange(9) * 0.5) and curves["LR"]["lag"] == pytest.approx([0, 2, 4])
    # Repeating voxels keeps S2 at the multiples of the LR voxel, up to the ends of the lines.
    np.testing.assert_allclose(np.array(curves["SR"]["mean"])[:, ::4], curves["LR"]["mean"], atol=0.03)
    assert np.array(curves["HR"]["min"]).shape == (3, 9) and len(curves["SR"]["axes"]) == 3 and len(curves["HR"]["axes"]) == 2


def test_an_evaluation_may_be_written_beside_its_images_and_run_again(files, monkeypatch):
    """Of SR and pictures in the folder of the HR images none is one of them; without evaluation.json beside them, their names say nothing."""
    folder = files / "images"
    folder.mkdir()
    for name in ("hr.tif", "rock_3.5um_sr.tif"):
        (files / name).rename(folder / name)
    (folder / "rock_3.5um_sr_provenance.json").write_text('{"input": {}}')
    for name in ("plot_slices", "plot_two_point", "plot_statistics"):
        monkeypatch.setattr(report, name, lambda path, *args: path.write_bytes(b"a picture"))
    monkeypatch.setattr(html_report, "write", lambda *args: None)
    results = [evaluation(files, hr_images=folder, output_dir=folder).run() for _ in range(2)]
    assert results[0] == results[1] and results[0]["files"]["hr_images"] == {"all planes": 2}
    assert {path.name for path in folder.glob("*.png")} == set(EVALUATED)
    assert image_files(folder) == [folder / "hr.tif"]
    (folder / "evaluation.json").unlink()
    assert image_files(folder) == [folder / "hr.tif", *sorted(folder / name for name in EVALUATED)]


@pytest.mark.parametrize("key", ["lr_image", "sr_image", "uncertainty_image"])
def test_several_volumes_in_place_of_one(files, key):
    with pytest.raises(InputError, match=rf"{key}: \['a.tif', 'b.tif'\]; one volume is read at a time: give one path"):
        evaluation(files, **{key: ["a.tif", "b.tif"]})


def test_what_is_no_path(files):
    with pytest.raises(InputError, match="truth_image: 5; one volume is read at a time: give one path"):
        Assessment(truth_image=5)
    for given in (5, [5]):
        with pytest.raises(InputError, match="sr_images: 5; one volume"):
            evaluation(files, sr_images=given)
    with pytest.raises(InputError, match="hr_images has unknown plane 1, ab"):
        evaluation(files, hr_images={"xy": "a.tif", 1: "b.tif", "ab": "c.tif"})


def test_region_is_cut_from_lr(files, no_pictures, monkeypatch):
    """And no more of it is read: a scan may be larger than the memory."""
    sr, read = tifffile.imread(files / "rock_3.5um_sr.tif"), []
    tifffile.imwrite(files / "part.tif", sr[4:20, 8:32, :16])

    def in_memory(path, volume, part):
        read.append((path.name, part))
        return files_in_memory(path, volume, part)

    monkeypatch.setattr("bundle.evaluation.in_memory", in_memory)
    region = [[1, 5], [2, 8], [0, 4]]
    result = evaluation(files, sr_image=files / "part.tif", lr_region=region).run()
    assert result["lr_agreement"]["all"] == 1.0 and result["shape"]["lr"] == [4, 6, 4]
    assert [part for name, part in read if name == "rock_3.5um.tif"] == [(slice(1, 5), slice(2, 8), slice(0, 4))]


def test_a_region_is_cut_from_an_sr_of_all(files, stored, monkeypatch):
    """As if it had been made from the region alone, seeds and overlay too; but for where it comes from, which is the whole LR."""
    seen = []
    monkeypatch.setattr("bundle.evaluation.sections", lambda lr, sr, groups, n, overlay: seen.append(overlay) or {})
    monkeypatch.setattr(html_report, "write", lambda *args: None)
    region, box = [[1, 5], [2, 8], [0, 4]], (slice(4, 20), slice(8, 32), slice(0, 16))
    sr = tifffile.imread(files / "rock_3.5um_sr.tif")
    percent = (np.arange(sr.size).reshape(sr.shape) % 101).astype(np.uint8)
    stored(percent=percent)
    tifffile.imwrite(files / "part.tif", sr[box])
    tifffile.imwrite(files / "other.tif", np.roll(sr, 3, 1))
    tifffile.imwrite(files / "other_part.tif", np.roll(sr, 3, 1)[box])
    whole = evaluation(files, lr_region=region, sr_images=[files / "other.tif"]).run()
    alone = evaluation(files, lr_region=region, sr_image=files / "part.tif", sr_images=[files / "other_part.tif"]).run()
    for key in ("groups", "two_point", "lr_agreement", "shape", "mean_relative_error", "staircase"):
        assert whole[key] == alone[key], key
    assert whole["shape"]["sr"] == [16, 24, 16] and list(whole["diversity"].values()) == list(alone["diversity"].values())
    assert np.array_equal(seen[0], percent[box]) and seen[1] is None
    checksums = [result["provenance"]["files"]["lr_image"]["labels_sha256"] for result in (whole, alone, evaluation(files).run())]
    assert checksums[0] == checksums[2] != checksums[1]


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


def test_nearest_neighbour_is_told_to_follow_the_voxels_of_the_scan(files, no_pictures):
    lr = np.where(tifffile.imread(files / "rock_3.5um.tif") == 255, 128, 0)  # most three by three by three of the three labels hold all of them
    tifffile.imwrite(files / "two.tif", lr.astype(np.uint8))
    tifffile.imwrite(files / "two_sr.tif", (2 * (lr > 0)).astype(np.uint8).repeat(4, 0).repeat(4, 1).repeat(4, 2))
    result = evaluation(files, lr_image=files / "two.tif", sr_image=files / "two_sr.tif", lr_labels={0: 0, 128: 2}).run()
    assert result["staircase"]["labels"] == [0, 2] and result["staircase"]["share"] == 1.0 and result["staircase"]["voxels"] > 100


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


def test_pixels_that_alone_tell_a_size_need_not_be_squares(files, no_pictures):
    result = evaluation(files, lr_voxel_size=None, hr_images={"xy": files / "hr.tif"}, hr_voxel_size=[1.0, 0.5]).run()
    assert result["voxel_size"]["sr"] == [1.0, 1.0, 0.5]


def test_planes_that_together_tell_a_size_need_not_be_cubes(files, no_pictures):
    for planes in (("xy", "xz", "yz"), ("yz", "xy")):
        result = evaluation(files, lr_voxel_size=None, hr_images={plane: files / "hr.tif" for plane in planes}, hr_voxel_size=[1.0, 0.25, 0.5]).run()
        assert result["voxel_size"]["sr"] == [1.0, 0.25, 0.5]


@pytest.mark.parametrize("size", [0.5, None])  # told, or not
def test_one_set_of_images_is_no_sample_of_planes_of_other_voxels(files, no_pictures, size):
    with pytest.raises(InputError, match=r"hr_images, all planes: one set .* SR voxels are 1 x 0.5 x 0.5 µm; give one set a plane \(\{xy: "):
        evaluation(files, lr_voxel_size=[4.0, 2.0, 2.0], hr_voxel_size=size).run()
    evaluation(files, lr_voxel_size=[2.01, 2.0, 2.0], hr_voxel_size=size).run()  # what programs round
    with pytest.raises(InputError, match="all planes: one set .* SR voxels are 1 x 1 x 0.5 µm"):
        evaluation(files, lr_voxel_size=None, hr_voxel_size=[1.0, 0.5]).run()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale_factor": 2}, "scale_factor"),
        ({"lr_region": [[0, 2], [0, 8], [0, 8]], "sr_image": "part.tif"}, "part.tif has shape .* lr_region"),
        ({"lr_region": [[0, 7], [0, 8], [0, 8]]}, "not .* inside"),
        ({"hr_voxel_size": 0.4}, "voxel sizes do not fit"),
        ({"hr_voxel_size": [1.0, 0.5, 0.5]}, "hr_voxel_size: .* differs between axes, but one set"),  # LR voxels are cubes
        ({"hr_images": {"zz": "hr.tif"}}, "unknown plane zz"),
        ({"lr_region": [1, 2, 3]}, "lr_region"),
        ({"lr_region": [[0.5, 3.9], [0, 8], [0, 8]]}, "lr_region"),
        ({"lr_phases": ["pore", "salt", "clay"]}, "salt"),
        ({"phases": ["pore", "grain", "pore"]}, "twice"),
        ({"phases": 4}, "phases: 4; give a list of names"),
        ({"phases": [1, 2, 3]}, "phases: .*; give a list of names"),
        ({"scale_factor": 4.9}, "scale_factor: 4.9; give a whole number"),
        ({"scale_factor": 0}, "scale_factor: 0"),
        ({"max_lag": -5}, "max_lag: -5"),
        ({"max_lag": float("nan")}, "max_lag: nan"),
        ({"max_lag": None}, "max_lag: None"),
        ({"hr_images": {}}, "hr_images: no images"),
        ({"hr_images": 5}, "hr_images: 5; give a file"),
        ({"hr_labels": [0, 1]}, "hr_labels: .* is no table"),
        ({"phases": ["pore", "grain"], "lr_phases": ["pore", "grain"], "lr_labels": {0: 0, 128: 1, 255: 1}}, "_sr.tif"),
        ({"lr_labels": None}, "128"),
        ({"hr_labels": {0: 0, 1: 1}}, "hr_images"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(files, changes, says):
    tifffile.imwrite(files / "part.tif", np.zeros((4, 32, 32), np.uint8))
    sr = files / changes.get("sr_image", "rock_3.5um_sr.tif")
    with pytest.raises(InputError, match=says) as error:
        evaluation(files, **changes | {"output_dir": files / "out", "sr_image": sr}).run()
    assert "\n" not in str(error.value) and not (files / "out").exists()


def test_labels_of_sr_that_no_table_can_map(files):
    """lr_labels and hr_labels are of other files."""
    tifffile.imwrite(files / "hundreds_sr.tif", tifffile.imread(files / "rock_3.5um_sr.tif") * 100)
    with pytest.raises(InputError, match=r"hundreds_sr.tif: holds values \(100, 200\) where 0, 1, 2 are known; save it with 0 to 2, or correct the phases"):
        evaluation(files, sr_image=files / "hundreds_sr.tif").run()


@pytest.mark.parametrize("content", ["[1]", '{"input": "x"}', '{"input": {"labels_sha256": 5}}', '{"fingerprint": "x"}'])
def test_a_record_of_the_inference_that_is_none(files, content):
    (files / "rock_3.5um_sr_provenance.json").write_text(content)
    with pytest.raises(InputError, match="rock_3.5um_sr_provenance.json: no record of an inference"):
        evaluation(files, output_dir=files / "out", sr_image=files / "rock_3.5um_sr.tif").run()
    assert not (files / "out").exists()


def other_seeds(folder, number: int) -> list[str]:
    """SR volumes that differ in some voxels."""
    sr, rng, paths = tifffile.imread(folder / "rock_3.5um_sr.tif"), np.random.default_rng(3), []
    for i in range(number):
        paths.append(str(folder / f"seed_{i}.tif"))
        tifffile.imwrite(paths[-1], np.where(rng.random(sr.shape) < 0.1 * (i + 1), 0, sr).astype(np.uint8))
    return paths


def test_other_seeds_give_mean_and_spread(files, no_pictures):
    paths = other_seeds(files, 2)
    plain, result = evaluation(files).run(), evaluation(files, sr_images=paths).run()
    group = result["groups"]["all planes"]
    values = np.stack([statistics(tifffile.imread(path), 3) for path in [files / "rock_3.5um_sr.tif", *paths]])
    rows = group["statistics"].values()
    np.testing.assert_allclose([row["sr_mean"] for row in rows], values.mean(0))
    np.testing.assert_allclose([row["sr_std"] for row in rows], values.std(0, ddof=1))
    np.testing.assert_allclose([row["sr_values"] for row in rows], values.T)
    hr = np.stack([statistics(image, 3) for image in tifffile.imread(files / "hr.tif")])
    np.testing.assert_allclose([[row["hr_min"], row["hr_max"]] for row in rows], np.stack([hr.min(0), hr.max(0)], 1))
    assert group["seeds"]["number"] == 3
    np.testing.assert_allclose(group["seeds"]["mean_relative_error"], mean_relative_error(values, hr.mean(0)))
    # what is of the one shown stays
    assert result["mean_relative_error"] == plain["mean_relative_error"] and "seeds" not in plain["groups"]["all planes"]
    band, shown = result["two_point"]["all planes"]["SR seeds"], result["two_point"]["all planes"]["SR"]
    assert result["two_point"]["all planes"]["SR"] == plain["two_point"]["all planes"]["SR"]
    pore = [values[k, 0] for k in range(3)]  # at r = 0 the curve is the fraction
    assert [band["min"][0][0], band["max"][0][0], shown["mean"][0][0]] == pytest.approx([min(pore), max(pore), pore[0]], abs=1e-5)
    named = result["provenance"]["files"]
    assert len({named[key]["labels_sha256"] for key in ("sr_image", "sr_images 1", "sr_images 2")}) == 3
    assert "SR seeds" not in plain["two_point"]["all planes"]
    first, *others = (tifffile.imread(path) for path in [files / "rock_3.5um_sr.tif", *paths])
    differing = [row["voxels that differ"] for row in result["diversity"].values()]
    assert differing == pytest.approx([np.mean(first != other) for other in others]) and "diversity" not in plain
    assert "seed_0.tif" in list(result["diversity"])[0]


def test_the_same_seed_twice_is_refused(files, no_pictures):
    (path,) = other_seeds(files, 1)
    for paths, says in (([path, path], "same labels as .*seed_0"), (str(files / "rock_3.5um_sr.tif"), "other seeds of the noise")):
        with pytest.raises(InputError, match=says):
            evaluation(files, sr_images=paths).run()


@pytest.mark.parametrize(
    ("changes", "says"),
    [({}, None), ({"model_sha256": "b"}, "model_sha256"), ({"lr_sha256": "d", "noise_std": 0.5}, "noise_std, lr_sha256"),
     ({"start in lr": [0, 0, 1], "lr_sha256": "d"}, None)],
)  # fmt: skip
def test_seeds_of_another_model_or_scan_are_refused(files, no_pictures, changes, says):
    """As far as both tell what they were made from: in their store, or in the record beside them."""
    made_of = {"model_sha256": "a", "lr_sha256": "c", "noise_std": 1.0, "start in lr": [0, 0, 0], "shape": [24, 32, 32], "seed": 0}
    path = Path(other_seeds(files, 1)[0])
    for one, told in ((files / "rock_3.5um_sr.tif", made_of), (path, made_of | {"seed": 1} | changes)):
        one.with_name(f"{one.stem}_provenance.json").write_text(json.dumps({"settings": {}, "fingerprint": told}))
    seeds = evaluation(files, sr_images=[path])
    if says is None:
        assert "diversity" in seeds.run()
    else:
        with pytest.raises(InputError, match=f"{path.name}: {says} is not that of .*_sr.tif; give sr_images that differ in the seed alone"):
            seeds.run()


@pytest.mark.parametrize("key", ["sr_images", "uncertainty_image"])
def test_another_volume_on_another_grid_is_refused_before_anything_is_measured_or_made(files, monkeypatch, key):
    tifffile.imwrite(files / "small.tif", np.zeros((5, 6, 7), np.uint8))
    monkeypatch.setattr("bundle.evaluation.statistics", lambda *args: pytest.fail("measured"))
    sr = {"sr_image": files / "rock_3.5um_sr.tif", "output_dir": files / "out"}
    for name, says in (("small.tif", r"small.tif has shape \(5, 6, 7\), .*\(24, 32, 32\)"), ("no.tif", "no.tif: no such file")):
        with pytest.raises(InputError, match=says):
            evaluation(files, **sr, **{key: str(files / name)}).run()
    assert not (files / "out").exists()


def test_provenance_names_the_files_and_their_checksums(files, no_pictures):
    found = evaluation(files).run()["provenance"]
    assert found["files"]["lr_image"]["sha256"] == sha256(files / "rock_3.5um.tif")
    # as the inference counts it
    source = LabelSource(files / "rock_3.5um.tif", 3, {0: 0, 128: 1, 255: 2}, 2.0)
    assert found["files"]["lr_image"]["labels_sha256"] == source.checksum
    assert found["files"]["hr_images, all planes"]["file"] == f"{files.name}/hr.tif" and found["inference"] is None
    assert str(files) not in json.dumps(found) and found["versions"]["numpy"] == np.__version__
    (files / "rock_3.5um_sr_provenance.json").write_text(json.dumps({"settings": {"seed": 7}}))
    assert evaluation(files).run()["provenance"]["inference"] == {"settings": {"seed": 7}}
    (files / "rock_3.5um_sr_provenance.json").write_text("{")
    with pytest.raises(InputError, match="provenance.json: cannot be read"):
        evaluation(files).run()


@pytest.fixture
def stored(files):
    """The SR as a store, beside it an uncertainty of 40 %; gives what its fingerprint must be."""
    place = {"shape": (24, 32, 32), "shard": 32, "voxel_size": (0.5,) * 3, "origin": (0.0,) * 3, "phases": PHASES, "levels": 2}
    made_of = {"seed": 0, "model": "a"}
    LabelStore(files / "rock_3.5um_sr.ome.zarr", fingerprint=made_of, **place).write((0, 0, 0), tifffile.imread(files / "rock_3.5um_sr.tif"))

    def uncertainty(percent=np.full((24, 32, 32), 40, np.uint8), **changes):
        store = PercentStore(files / "rock_3.5um_sr_uncertainty.ome.zarr", fingerprint={**made_of, "uncertainty": 4, **changes}, **place)
        if percent is not None:
            store.write((0, 0, 0), percent)

    return uncertainty


@pytest.mark.parametrize("name", ["rock_3.5um_sr.ome.zarr", "result"])
def test_a_store_that_is_not_finished(files, name):
    """Whatever its folder is called: 255 in place of a shard is no label."""
    place = {"shape": (24, 32, 32), "shard": 16, "voxel_size": (0.5,) * 3, "origin": (0.0,) * 3, "phases": PHASES, "levels": 2}
    LabelStore(files / name, fingerprint={}, **place).write((0, 0, 0), tifffile.imread(files / "rock_3.5um_sr.tif")[:16, :16, :16])
    with pytest.raises(InputError, match=f"{name}: is not finished; run the same inference again"):
        evaluation(files, sr_image=files / name).run()


@pytest.mark.parametrize("beside", ["store", "record", "seed"])
def test_phases_in_another_order_than_recorded_are_refused(files, stored, no_pictures, beside):
    """As the store of SR, the record beside a TIFF or the store of another seed tells; a TIFF without a record tells nothing."""
    store, tiff = files / "rock_3.5um_sr.ome.zarr", files / "rock_3.5um_sr.tif"
    turned = ["grain", "pore", "clay"]
    if beside == "record":
        made_of = dict(zarr.open_group(store, mode="r").attrs["rock_super_resolution"])
        (files / "rock_3.5um_sr_provenance.json").write_text(json.dumps({"fingerprint": made_of}))
    told = {"store": {"sr_image": store}, "record": {"sr_image": tiff}, "seed": {"sr_image": tiff, "sr_images": [str(store)]}}[beside]
    says = r"rock_3.5um_sr\S*: was made with the phases \['pore', 'grain', 'clay'\], but phases is \['grain', 'pore', 'clay'\]"
    with pytest.raises(InputError, match=says):
        evaluation(files, phases=turned, **told).run()
    if beside != "record":
        assert evaluation(files, phases=turned, sr_image=tiff).run()["phases"] == turned
    assert evaluation(files, sr_image=told["sr_image"]).run()["phases"] == PHASES


@pytest.mark.parametrize("kind", ["group", "array"])
def test_a_store_of_another_program_records_no_phases(files, no_pictures, kind):
    sr = tifffile.imread(files / "rock_3.5um_sr.tif")
    if kind == "array":
        zarr.save_array(str(files / "other.ome.zarr"), sr)
    else:
        group = zarr.open_group(str(files / "other.ome.zarr"), mode="w")
        group.create_array("0", data=sr)
        axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
        scale = [{"type": "scale", "scale": [0.5] * 3}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}
    assert evaluation(files, sr_image=files / "other.ome.zarr").run()["lr_agreement"]["all"] == 1.0


@pytest.fixture
def drawn(monkeypatch):
    """The columns of the sections that the page gets."""
    found = []
    monkeypatch.setattr(html_report, "write", lambda path, result, curves, sections, view: found.append(set(sections["xy"].pictures)))
    for name in ("plot_slices", "plot_two_point", "plot_statistics"):
        monkeypatch.setattr(report, name, lambda *args: None)
    return found


def test_uncertainty_beside_sr_is_taken(files, stored, drawn):
    evaluation(files).run()
    stored()
    evaluation(files).run()
    assert drawn == [{"lr", "sr", "hr"}, {"lr", "sr", "hr", "uncertainty"}]


def test_uncertainty_of_another_model_is_left_out_with_a_warning(files, stored, drawn, caplog):
    stored(model="b")
    evaluation(files).run()
    assert "uncertainty" not in drawn[0] and "left out: model is not that of" in caplog.text


@pytest.mark.parametrize(
    ("changes", "told", "reason"),
    [
        ({}, {}, None),
        ({"seed": 1}, {}, "seed is not that of .*_sr.tif"),
        ({"model": "b"}, {"noise_std": 0.5}, "model, noise_std is not that of .*_sr.tif"),
        ({}, None, "_sr_provenance.json is missing, or does not tell what rock_3.5um_sr.tif was made from"),  # a record of an earlier version
        ({}, False, "_sr_provenance.json is missing, or does not tell what rock_3.5um_sr.tif was made from"),
    ],
)
def test_uncertainty_beside_a_tiff_is_taken_where_its_record_tells_the_same(files, stored, drawn, caplog, changes, told, reason):
    stored(**changes)
    record = {"settings": {"seed": 0}}
    if told is not None:
        made_of = dict(zarr.open_group(files / "rock_3.5um_sr.ome.zarr", mode="r").attrs["rock_super_resolution"])
        record["fingerprint"] = made_of | (told or {})
    if told is not False:
        (files / "rock_3.5um_sr_provenance.json").write_text(json.dumps(record))
    evaluation(files, sr_image=files / "rock_3.5um_sr.tif").run()
    assert ("uncertainty" in drawn[0]) == (reason is None)
    warnings = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(warnings) == (reason is not None) and (reason is None or re.search(f"_uncertainty.ome.zarr is left out: .*{reason}", warnings[0]))


def test_trust_beside_sr_is_told_and_laid_over_as_doubt(files, stored, monkeypatch):
    """It goes before the uncertainty beside it, but not before one that is given."""
    seen = []
    monkeypatch.setattr("bundle.evaluation.sections", lambda lr, sr, groups, n, overlay: seen.append(overlay[:]) or {})
    monkeypatch.setattr(html_report, "write", lambda *args: None)
    stored()
    place = {"shape": (24, 32, 32), "shard": 32, "voxel_size": (0.5,) * 3, "origin": (0.0,) * 3, "phases": PHASES, "levels": 2}
    made_of = {"seed": 0, "model": "a", "uncertainty": 4, "trust": [[0.5]]}
    percent = np.full((24, 32, 32), 95, np.uint8)
    percent[:12] = 65
    PercentStore(files / "rock_3.5um_sr_trust.ome.zarr", fingerprint=made_of, **place).write((0, 0, 0), percent)
    found = evaluation(files).run()
    assert found["trust"] == {"mean": pytest.approx(0.8), "sure": 0.5, "overlay": True}
    assert np.array_equal(seen[0], 100 - percent)
    tifffile.imwrite(files / "percent.tif", percent)
    assert not evaluation(files, uncertainty_image=files / "percent.tif").run()["trust"]["overlay"]
    assert np.array_equal(seen[1], percent)
    moved = (files / "rock_3.5um_sr_trust.ome.zarr").rename(files / "chances.zarr")  # given by hand it is the same
    assert evaluation(files, uncertainty_image=str(moved)).run()["trust"] == found["trust"]
    assert np.array_equal(seen[2], 100 - percent)


@pytest.mark.parametrize(("damage", "says"), [(None, "parts that are not made yet"), (b"no chunk", "cannot be read")])
def test_votes_that_are_not_finished_or_damaged_are_left_out_unless_they_are_given(files, stored, drawn, caplog, damage, says):
    """As after a plain run, and one with `--uncertainty 8` that was killed."""
    stored(**{} if damage else {"percent": None})
    if damage:
        chunks = [path for path in (files / "rock_3.5um_sr_uncertainty.ome.zarr").rglob("*") if path.is_file() and path.suffix != ".json"]
        for path in chunks:
            path.write_bytes(damage)
        assert chunks
    evaluation(files).run()
    assert drawn == [{"lr", "sr", "hr"}] and says in caplog.text and "left out" in caplog.text
    with pytest.raises(InputError, match=says):
        evaluation(files, uncertainty_image=files / "rock_3.5um_sr_uncertainty.ome.zarr").run()


def test_uncertainty_given(files, drawn):
    percent = np.full((24, 32, 32), 10, np.uint8)
    tifffile.imwrite(files / "percent.tif", percent)
    evaluation(files, uncertainty_image=files / "percent.tif").run()
    assert "uncertainty" in drawn[0]
    tifffile.imwrite(files / "percent.tif", percent[:8])
    with pytest.raises(InputError, match="percent.tif has shape"):
        evaluation(files, uncertainty_image=files / "percent.tif").run()


def test_without_a_display_the_report_is_written_without_a_view(files, no_pictures, monkeypatch, caplog):
    monkeypatch.setattr("bundle.view3d.find_spec", lambda name: object())

    def fails(*args):
        raise InputError("view3d: no OpenGL")

    monkeypatch.setattr("bundle.evaluation.surfaces_png", fails)
    views = []
    monkeypatch.setattr(html_report, "write", lambda *args: views.append(args[-1]))
    evaluation(files, view3d="true").run()
    assert views == [{}] and "without a 3D view: view3d: no OpenGL" in caplog.text


def test_what_an_assessment_saw_is_handed_to_the_report(files, no_pictures, monkeypatch):
    shown, settings = [], Assessment()
    monkeypatch.setattr(settings, "run", lambda *args: settings.pictures.update(real=b"crops", fake=b"more") or {})
    monkeypatch.setattr(html_report, "write", lambda *args: shown.append(args[-1]))
    evaluation(files, assessment=settings).run()
    assert shown == [{"real": b"crops", "fake": b"more"}]


def test_what_is_asked_for_is_measured_and_shown(files):
    pytest.importorskip("skimage")
    truth = tifffile.imread(files / "rock_3.5um_sr.tif")
    truth[:3, :2, :1] = (truth[:3, :2, :1] + 1) % 3
    tifffile.imwrite(files / "truth.tif", truth)
    result = evaluation(files, sr_images=other_seeds(files, 1), assessment=Assessment(truth_image=files / "truth.tif", morphology=True)).run()
    assert result["truth"]["wrong voxels"]["SR"] == pytest.approx(6 / truth.size)
    page = (files / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{key}"' in page for key in ("truth", "morphology", "diversity")) and "wrong voxels" in page
    assert json.loads((files / "evaluation.json").read_text())["truth"] == result["truth"]


def test_a_truth_of_another_place_ends_before_anything_is_written(files, no_pictures):
    tifffile.imwrite(files / "truth.tif", np.zeros((5, 6, 7), np.uint8))
    with pytest.raises(InputError, match="truth.tif has shape"):
        evaluation(files, assessment=Assessment(truth_image=files / "truth.tif")).run()
    assert not (files / "evaluation.json").exists() and not (files / "report.html").exists()


def test_an_assessment_that_cannot_be_made_ends_before_anything_is_measured(files, monkeypatch):
    monkeypatch.setattr("bundle.evaluation.statistics", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match="too small for crops of 64"):
        evaluation(files, assessment=Assessment(two_sample=True)).run()


def test_a_folder_that_cannot_be_written_ends_it_before_the_work(files, no_pictures, monkeypatch):
    (files / "file").write_text("no folder")
    monkeypatch.setattr(Assessment, "run", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match="file/out: cannot be written"):
        evaluation(files, output_dir=files / "file" / "out", sr_image=files / "rock_3.5um_sr.tif", assessment=Assessment()).run()


def test_find_sr_of_raw_voxels(tmp_path):
    (tmp_path / "rock_sr.raw").touch()
    (tmp_path / "rock_sr.json").touch()
    assert find_sr(tmp_path / "rock.nii.gz", tmp_path) == tmp_path / "rock_sr.raw"


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_a_seed_that_is_none(files, seed):
    with pytest.raises(InputError, match=f"seed: {seed}; give a whole number"):
        evaluation(files, seed=seed)


def test_images_without_a_pixel_size_are_told(files, no_pictures, caplog):
    evaluation(files, hr_voxel_size=None).run()
    assert any("tell no pixel size" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("section", "kind"), [("evaluation", Evaluation), ("assessment", Assessment)])
def test_every_setting_has_a_key_in_the_config(bundle_root, section, kind):
    names = set(inspect.signature(kind).parameters) - {"assessment"}
    parser = ConfigParser()
    parser.read_config(bundle_root / "configs" / "evaluate.yaml")
    assert names <= set(parser.config)
    for name in names:
        parser[name] = f"the {name}"
    for part in ("evaluation", "assessment"):
        parser[f"{part}#_target_"] = "types.SimpleNamespace"
    found = parser.get_parsed_content(section)
    assert {name: getattr(found, name) for name in names} == {name: f"the {name}" for name in names}
