"""From the files of a training to labels in memory: phases, planes, pixel sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor

from bundle.errors import InputError
from bundle.transforms.load import CheckEdged, LoadSlicesd, check_phases, label_of, plane_groups, training_files

PHASES = ["pore", "quartz", "clay"]


def lr_volume(shape=(4, 5, 6), voxel_size=(4.0, 4.0, 4.0)) -> MetaTensor:
    values = torch.arange(int(np.prod(shape)), dtype=torch.uint8).reshape(1, *shape)
    return MetaTensor(values, affine=torch.diag(torch.tensor([*voxel_size, 1.0], dtype=torch.float64)), meta={"filename_or_obj": "lr.tif"})


@pytest.fixture
def images(tmp_path) -> tuple[str, np.ndarray]:
    """Two HR images, rows and columns of different length, 0.5 µm."""
    values = np.random.default_rng(0).integers(0, 3, (2, 7, 9), dtype=np.uint8)
    path = tmp_path / "hr.tif"
    tifffile.imwrite(path, values, imagej=True, resolution=(2.0, 2.0), metadata={"axes": "ZYX", "unit": "um", "spacing": 1.0})
    return str(path), values


def load(path, groups=None, voxel_size=(4.0, 4.0, 4.0), n_phases=3, scale_factor=8, **options):
    groups = groups or {"hr": ["xy", "xz", "yz"]}
    data = {"image": lr_volume(voxel_size=voxel_size), **{group: path for group in groups}}
    return LoadSlicesd(groups, "image", n_phases, scale_factor, **options)(data)


@pytest.mark.parametrize("lr_phases", [None, PHASES, ["pore", "quartz"], ["pore"]])
def test_lr_phases_are_the_first_of_the_phases(lr_phases):
    assert check_phases(PHASES, lr_phases) == (PHASES if lr_phases is None else lr_phases)


@pytest.mark.parametrize(
    ("lr_phases", "words"),
    [
        ([*PHASES, "feldspar"], "3 phases, fewer than the 4 of the LR volume"),
        (["quartz", "pore"], "must be the first of phases"),
        (["pore", "clay"], "must be the first of phases"),
    ],
)
def test_other_lr_phases_are_refused(lr_phases, words):
    with pytest.raises(InputError, match=words):
        check_phases(PHASES, lr_phases)


@pytest.mark.parametrize("files", ["hr.tif", ["a.tif", "b.tif"]])
def test_one_set_of_images_teaches_all_planes(files):
    assert plane_groups(files) == {"hr": ["xy", "xz", "yz"]}
    assert training_files("lr.tif", files) == {"image": "lr.tif", "hr": files}


def test_a_mapping_teaches_each_plane_from_its_own_set():
    files = {"yz": "c.tif", "xy": ["a.tif"], "xz": "b.tif"}
    assert plane_groups(files) == {"hr_xy": ["xy"], "hr_xz": ["xz"], "hr_yz": ["yz"]}
    assert training_files("lr.tif", files) == {"image": "lr.tif", "hr_xy": ["a.tif"], "hr_xz": "b.tif", "hr_yz": "c.tif"}


@pytest.mark.parametrize("planes", [["xy"], ["xy", "xz", "zy"], ["xy", "xz", "yz", "hr"], []])
def test_other_planes_are_refused(planes):
    with pytest.raises(InputError, match="one for each of xy, xz and yz"):
        plane_groups(dict.fromkeys(planes, "a.tif"))


def test_images_become_lists_of_labels(images):
    path, values = images
    result = load(path, table={0: 0, 1: 2, 2: 1})
    assert [image.dtype for image in result["hr"]] == [np.uint8] * 2
    np.testing.assert_array_equal(np.stack(result["hr"]), np.array([0, 2, 1])[values])
    assert result["image"].shape == (1, 4, 5, 6)


@pytest.mark.parametrize(
    ("voxel_size", "options", "fits"),
    [
        ((4.0, 4.0, 4.0), {}, True),
        ((4.03, 4.0, 4.0), {}, True),  # within 1 %
        ((4.2, 4.2, 4.2), {}, False),
        ((4.0, 4.0, 4.0), {"scale_factor": 4}, False),
        ((2.0, 2.0, 2.0), {"scale_factor": 4}, True),
        ((2.0, 2.0, 2.0), {"pixel_size": 0.25}, True),  # the config overrides the file
        ((4.0, 4.0, 4.0), {"pixel_size": 0.25}, False),
    ],
)
def test_pixel_size_must_fit_the_scale_factor(images, voxel_size, options, fits):
    if fits:
        assert len(load(images[0], voxel_size=voxel_size, **options)["hr"]) == 2
    else:
        with pytest.raises(InputError, match=rf"{images[0]}.*scale_factor is {options.get('scale_factor', 8)}"):
            load(images[0], voxel_size=voxel_size, **options)


@pytest.mark.parametrize(("plane", "row", "column"), [("xy", 1, 2), ("xz", 0, 2), ("yz", 0, 1)])
def test_rows_and_columns_of_a_plane_have_the_voxel_size_of_their_axes(images, plane, row, column):
    voxel = (8.0, 16.0, 32.0)  # z, y, x
    fitting = [voxel[row] / 8, voxel[column] / 8]
    load(images[0], {f"hr_{plane}": [plane]}, voxel, pixel_size=fitting)
    load(images[0], {f"hr_{plane}": [plane]}, voxel, pixel_size=[edge / 8 for edge in voxel])
    with pytest.raises(InputError, match="scale_factor"):
        load(images[0], {f"hr_{plane}": [plane]}, voxel, pixel_size=fitting[::-1])


def test_png_without_pixel_size_is_taken_as_it_is(tmp_path):
    from PIL import Image

    Image.fromarray(np.eye(5, dtype=np.uint8)).save(tmp_path / "hr.png")
    (image,) = load(str(tmp_path / "hr.png"), voxel_size=(3.0, 3.0, 3.0))["hr"]
    np.testing.assert_array_equal(image, np.eye(5))


def test_unknown_labels_are_refused(images):
    with pytest.raises(InputError, match=r"hr\.tif.*values \(2\) where 0, 1 are known.*hr_labels"):
        load(images[0], n_phases=2)


@pytest.mark.parametrize(("edge", "fits"), [(7, True), (8, False)])
def test_images_smaller_than_a_crop_are_refused(images, edge, fits):
    if fits:
        assert len(load(images[0], edge=edge)["hr"]) == 2
    else:
        with pytest.raises(InputError, match=r"hr\.tif.*\(7, 9\) pixels.*take 8"):
            load(images[0], edge=edge)


def test_missing_images_are_named(tmp_path):
    with pytest.raises(InputError, match="absent.tif: no such file"):
        load(str(tmp_path / "absent.tif"))


@pytest.mark.parametrize(("edge", "fits"), [(4, True), (5, False)])
def test_a_volume_smaller_than_a_patch_is_refused(edge, fits):
    data = {"image": lr_volume()}
    if fits:
        assert CheckEdged("image", edge)(data) is data
    else:
        with pytest.raises(InputError, match=r"lr\.tif: \(4, 5, 6\) LR voxels to train on, but the core of a patch takes 5"):
            CheckEdged("image", edge)(data)


@pytest.mark.parametrize("size", [(8.0, 4.0, 2.0), (4.0, 4.0, 4.1)])
def test_voxels_that_are_no_cubes_are_not_turned(tmp_path, size):
    """Images that tell no size would hide that rows become columns of another length."""
    tifffile.imwrite(tmp_path / "hr.tif", np.zeros((2, 7, 9), np.uint8), photometric="minisblack")
    load(str(tmp_path / "hr.tif"), {"hr_xy": ["xy"]}, voxel_size=size, symmetries=4)
    load(str(tmp_path / "hr.tif"), voxel_size=(4.0, 4.0, 4.02), symmetries=8)  # what programs round
    with pytest.raises(InputError, match="symmetries: 8 turns the axes into each other, but the voxels of lr_image are of .* µm; set symmetries to 4"):
        load(str(tmp_path / "hr.tif"), voxel_size=size, symmetries=8)


@pytest.mark.parametrize("pixel", [0.5, None])  # told, or not
def test_one_set_of_images_cannot_teach_planes_of_voxels_that_are_no_cubes(tmp_path, pixel):
    tifffile.imwrite(tmp_path / "hr.tif", np.zeros((2, 7, 9), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match=r"hr.tif\): one set of images .* LR voxels are 8 x 4 x 4 µm; give one set a plane \(\{xy: "):
        load(str(tmp_path / "hr.tif"), voxel_size=(8.0, 4.0, 4.0), pixel_size=pixel, symmetries=4)


def test_images_that_tell_no_pixel_size_are_taken_with_a_warning(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "hr.tif", np.zeros((2, 7, 9), np.uint8), photometric="minisblack")
    load(str(tmp_path / "hr.tif"))
    assert "hr.tif): tell no pixel size; taken to be as large as SR voxels: set hr_voxel_size" in caplog.records[-1].getMessage()
    caplog.clear()
    load(str(tmp_path / "hr.tif"), pixel_size=0.5)
    assert not caplog.records


def test_label_of_a_phase():
    assert label_of("clay", PHASES, "match_phase") == 2
    with pytest.raises(InputError, match=r"match_phase: rock is none of pore, quartz, clay; correct the name, or give null \(on the command line '\$None'\)"):
        label_of("rock", PHASES, "match_phase")
