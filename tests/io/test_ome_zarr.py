"""OME-Zarr of others: written here by zarr with metadata as the specifications 0.4 and 0.5 have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from bundle.errors import InputError
from bundle.io import Volume, VolumeReader, read_volume, write_volume
from bundle.io.files import open_volume, stem_of
from bundle.io.source import LabelSource
from bundle.store import store_path

LABELS = np.random.default_rng(0).integers(3, size=(5, 6, 7), dtype=np.uint8)


def write(path: Path, array: np.ndarray, axes: str, unit: str | None = "micrometer", version: str = "0.5", **multiscale) -> Path:
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("s0", data=array)
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": a, "type": kinds.get(a, "space")} | ({"unit": unit} if unit and a in "zyx" else {}) for a in axes]
    scale = [{"t": 9.0, "c": 1.0, "z": 2.0, "y": 3.0, "x": 4.0}[a] for a in axes]
    datasets = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    content = {"multiscales": [{"version": version, "axes": described, "datasets": datasets} | multiscale]}
    group.attrs.update({"ome": {"version": version} | content} if version == "0.5" else content)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions(tmp_path, version):
    volume = read_volume(write(tmp_path / "a.ome.zarr", LABELS, "zyx", version=version))
    np.testing.assert_array_equal(volume.array, LABELS)
    assert volume.voxel_size == (2.0, 3.0, 4.0) and volume.origin == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("version", "within"), [("0.4", "labels/rock_3.5um"), ("0.5", "labels/rock_3.5um"), ("0.4", "0"), ("0.5", "0")])
def test_an_image_within_a_hierarchy(tmp_path, version, within):
    """Labels of another image, or what bioformats2raw writes; its own name is that of the results."""
    outer = zarr.open_group(str(tmp_path / "scan.zarr"), mode="w", zarr_format=3 if version == "0.5" else 2)
    outer.attrs["bioformats2raw.layout"] = 3
    path = write(tmp_path / "scan.zarr" / within, LABELS[None, None], "tczyx", version=version)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, LABELS)
    assert volume.voxel_size == (2.0, 3.0, 4.0) and VolumeReader().verify_suffix(path)
    np.testing.assert_array_equal(LabelSource(path, 3).read((0, 0, 0), LABELS.shape), LABELS)
    name = within.split("/")[-1]
    assert stem_of(path) == name and store_path(path, "out") == Path("out") / f"{name}_sr.ome.zarr"
    assert stem_of(tmp_path / "scan.zarr") == "scan" and stem_of(write(tmp_path / "a_1.5.ome.zarr", LABELS, "zyx", version=version)) == "a_1.5"
    with pytest.raises(InputError, match="scan.zarr: .*multiscales, such as 0 or labels/"):
        read_volume(tmp_path / "scan.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_within_a_hierarchy(tmp_path, zarr_format):
    group = zarr.open_group(str(tmp_path / "scan.zarr"), mode="w", zarr_format=zarr_format)
    group.create_array("labels", data=LABELS)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.zarr" / "labels").array, LABELS)


def test_axes_without_a_type(tmp_path):
    """0.4 wants it, and not all write it: then the names tell, here of time and channel before space."""
    path = write(tmp_path / "a.zarr", LABELS[None, None], "tczyx", version="0.4")
    group = zarr.open_group(str(path), mode="r+")
    (image,) = group.attrs["multiscales"]
    for axis in image["axes"]:
        del axis["type"]
    group.attrs["multiscales"] = [image]
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, LABELS)
    assert volume.voxel_size == (2.0, 3.0, 4.0)


def test_axes_that_are_names_alone(tmp_path):
    """As in 0.3, which has no units and no sizes either."""
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=LABELS[None, None])
    group.attrs["multiscales"] = [{"version": "0.3", "axes": ["t", "c", "z", "y", "x"], "datasets": [{"path": "0"}]}]
    volume = read_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.array, LABELS)
    assert volume.voxel_size is None


def test_a_folder_of_slices_is_one_line(tmp_path):
    for i, plane in enumerate(LABELS):
        write_volume(tmp_path / "slices" / f"{i}.tif", Volume(plane[None]))
    for read in (read_volume, lambda path: LabelSource(path, 3)):
        with pytest.raises(InputError, match="slices: not a file; .*slices save them as one stack"):
            read(tmp_path / "slices")


@pytest.mark.parametrize(("unit", "factor"), [("nanometer", 1e-3), ("micrometer", 1.0), ("millimeter", 1e3)])
def test_units(tmp_path, unit, factor):
    assert read_volume(write(tmp_path / "a.zarr", LABELS, "zyx", unit)).voxel_size == pytest.approx([2 * factor, 3 * factor, 4 * factor])


def test_units_that_differ_between_axes(tmp_path):
    path = write(tmp_path / "a.zarr", LABELS, "zyx", unit=None)
    group = zarr.open_group(str(path))
    ome = group.attrs["ome"]
    for axis, unit in zip(ome["multiscales"][0]["axes"], ["nanometer", "micrometer", "millimeter"]):
        axis["unit"] = unit
    group.attrs["ome"] = ome
    assert read_volume(path).voxel_size == (0.002, 3.0, 4000.0)


@pytest.mark.parametrize("unit", ["micrometer", None])
def test_an_image_with_a_channel_is_no_volume(tmp_path, unit):
    with pytest.raises(InputError, match=r"a\.zarr: 2D \(6 x 7\); one 3D volume"):
        read_volume(write(tmp_path / "a.zarr", LABELS[:1], "cyx", unit=unit))


def test_without_a_unit_there_is_no_voxel_size(tmp_path):
    assert read_volume(write(tmp_path / "a.zarr", LABELS, "zyx", None)).voxel_size is None


def test_transformations_of_the_image_come_after_those_of_its_level(tmp_path):
    """Enlarged by 10 and moved: origin 10 * 0 + 5."""
    more = [{"type": "scale", "scale": [10.0, 10.0, 10.0]}, {"type": "translation", "translation": [5.0, 6.0, 7.0]}]
    volume = read_volume(write(tmp_path / "a.zarr", LABELS, "zyx", coordinateTransformations=more))
    assert volume.voxel_size == (20.0, 30.0, 40.0) and volume.origin == (5.0, 6.0, 7.0)


def test_time_and_channel_of_length_one(tmp_path):
    volume = read_volume(write(tmp_path / "a.zarr", LABELS[None, None], "tczyx"))
    np.testing.assert_array_equal(volume.array, LABELS)
    assert volume.voxel_size == (2.0, 3.0, 4.0)


def test_several_channels_are_refused(tmp_path):
    with pytest.raises(InputError, match="a.zarr: .*single time and channel"):
        read_volume(write(tmp_path / "a.zarr", np.stack([LABELS, LABELS]), "czyx"))


def test_a_plain_array_has_no_voxel_size(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), data=LABELS)
    volume = open_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.array[1:3, :, 2:5], LABELS[1:3, :, 2:5])
    assert volume.voxel_size is None


def test_what_is_none_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no.zarr: no such"):
        read_volume(tmp_path / "no.zarr")
    (tmp_path / "file.zarr").write_bytes(b"no image")
    with pytest.raises(InputError, match="file.zarr: .*folder"):
        read_volume(tmp_path / "file.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="empty.zarr") as caught:
        read_volume(tmp_path / "empty.zarr")
    assert "\n" not in str(caught.value)
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    with pytest.raises(InputError, match="group.zarr: .*multiscales"):
        read_volume(tmp_path / "group.zarr")


@pytest.mark.parametrize("axes", ["xyz", "yxz", "zxy"])
def test_axes_in_another_order_are_brought_into_ours(tmp_path, axes):
    stored = LABELS.transpose(["zyx".index(axis) for axis in axes])
    volume = open_volume(write(tmp_path / "a.zarr", stored, axes))
    assert tuple(volume.array.shape) == LABELS.shape and volume.voxel_size == (2.0, 3.0, 4.0)
    np.testing.assert_array_equal(volume.array[1:3, 2:6, 0:5], LABELS[1:3, 2:6, 0:5])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr").array, LABELS)
