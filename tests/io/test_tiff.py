import re

import numpy as np
import pytest
import tifffile

from bundle.errors import InputError
from bundle.io import Volume, read_volume, tiff, write_volume

SIZE = (3.0, 2.5, 0.4375)  # µm (z, y, x)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 4, (6, 9, 13)).astype(np.uint8)


def imagej(unit, scale=1.0):
    """Options that make tifffile write SIZE as ImageJ does, in another unit."""
    z, y, x = (v * scale for v in SIZE)
    return {"imagej": True, "resolution": (1 / x, 1 / y), "metadata": {"axes": "ZYX", "spacing": z, "unit": unit}}


def ome(unit, scale=1.0, **options):
    sizes = {f"PhysicalSize{a}": v * scale for a, v in zip("ZYX", SIZE)}
    units = {f"PhysicalSize{a}Unit": unit for a in "ZYX"}
    return {"ome": True, "metadata": {"axes": "ZYX", **sizes, **units}, **options}


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", ">u2"])
def test_reads_what_tifffile_writes(tmp_path, array, compression, dtype):
    byteorder = ">" if dtype == ">u2" else None
    tifffile.imwrite(tmp_path / "a.tif", array.astype(dtype), compression=compression, photometric="minisblack", byteorder=byteorder)
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype.isnative
    assert volume.voxel_size is None


@pytest.mark.parametrize(
    "options",
    [imagej("um"), imagej("\\u00B5m"), imagej("micron"), imagej("nm", 1e3), imagej("mm", 1e-3)]
    + [ome("µm"), ome("nm", 1e3), ome("mm", 1e-3), ome("µm", bigtiff=True)]
    + [{**imagej("um"), "imagej": False}, {**imagej("um"), "imagej": False, "compression": "lzw"}],
)
def test_voxel_size_of_imagej_ome_and_tifffile(tmp_path, array, options):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.voxel_size == pytest.approx(SIZE, rel=1e-6)


def test_tifffile_json_spacing_alone_counts_for_every_axis(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", metadata={"axes": "ZYX", "spacing": 3.5, "unit": "um"})
    assert read_volume(tmp_path / "a.tif").voxel_size == (3.5, 3.5, 3.5)


def test_imagej_without_spacing_is_one_unit_and_warned_of(tmp_path, array, caplog):
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, resolution=(0.5, 0.5), metadata={"axes": "ZYX", "unit": "um"})
    assert read_volume(tmp_path / "a.tif").voxel_size == (1.0, 2.0, 2.0)
    assert "no spacing" in caplog.text


@pytest.mark.parametrize(
    ("unit", "per_unit", "size"), [("INCH", 72, None), ("INCH", 300, None), ("CENTIMETER", 118.11, None), ("NONE", 2, None)]
    + [("CENTIMETER", 10000 / 3.5, 3.5), ("INCH", 25400 / 3.5, 3.5)]
)  # fmt: skip
def test_plain_resolution_counts_unless_made_for_a_printer(tmp_path, array, unit, per_unit, size):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", metadata=None, resolution=(per_unit,) * 2, resolutionunit=unit)
    assert read_volume(tmp_path / "a.tif").voxel_size == (None if size is None else pytest.approx((size,) * 3))


@pytest.mark.parametrize("imagej", [True, False])
@pytest.mark.parametrize(("unit", "per_unit", "pixel"), [("CENTIMETER", 10000 / 3.5, 3.5), ("INCH", 25400 / 3.5, 3.5), ("NONE", 1 / 3.5, 3.5)])
def test_beside_a_unit_the_resolution_has_its_own(tmp_path, array, imagej, unit, per_unit, pixel):
    given = {"photometric": "minisblack", "metadata": {"unit": "um", "spacing": 7.0}, "resolution": (per_unit,) * 2, "resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=imagej, **given)
    assert read_volume(tmp_path / "a.tif").voxel_size == pytest.approx((7.0, pixel, pixel))


@pytest.mark.parametrize("planes", [3, 4])
def test_pages_written_as_colour_planes_are_pages(tmp_path, planes):
    array = np.random.default_rng(0).integers(0, 4, (planes, 9, 13)).astype(np.uint8)
    for metadata in ({}, None):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate", metadata=metadata)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, array)


def test_pages_written_one_by_one_are_a_stack(tmp_path, array):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in array:
            file.write(page, photometric="minisblack")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, array)


def test_axes_of_length_one_are_dropped(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array[None, :, None], ome=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, array)


def test_colour_and_unequal_pages_are_refused(tmp_path, array):
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="colour"):
        read_volume(tmp_path / "colour.tif")
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as file:
        file.write(array[0], photometric="minisblack")
        file.write(array[0, :4], photometric="minisblack")
    with pytest.raises(InputError, match="differ in size"):
        read_volume(tmp_path / "mixed.tif")


@pytest.mark.parametrize("pages", [1, 3, 4, 6])  # 3 and 4 are what tifffile takes for colours
def test_written_for_imagej(tmp_path, array, pages):
    array = np.resize(array, (pages, 9, 13))
    write_volume(tmp_path / "a.tif", Volume(array, SIZE))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_imagej and not file.is_bigtiff
        assert len(file.pages) == pages
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        np.testing.assert_array_equal(file.asarray().reshape(array.shape), array)
        assert (file.imagej_metadata["spacing"], file.imagej_metadata["unit"]) == (3.0, "um")
        for tag, size in (("XResolution", 0.4375), ("YResolution", 2.5)):
            pixels, microns = file.pages[0].tags[tag].value
            assert microns / pixels == pytest.approx(size)
    if pages > 1:
        assert read_volume(tmp_path / "a.tif").voxel_size == pytest.approx(SIZE)


@pytest.mark.parametrize("pages", [3, 4, 6])
def test_written_as_ome_bigtiff_above_the_limit(tmp_path, array, monkeypatch, pages):
    array = np.resize(array, (pages, 9, 13))
    monkeypatch.setattr(tiff, "IMAGEJ_MAX_BYTES", array.nbytes - 1)
    write_volume(tmp_path / "a.tif", Volume(array, SIZE))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff and file.is_ome
        assert (file.series[0].axes, file.series[0].shape) == ("ZYX", array.shape)
        np.testing.assert_array_equal(file.asarray(), array)
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{a}"] for a in "ZYX"] == list(SIZE)
        assert {pixels[f"PhysicalSize{a}Unit"] for a in "ZYX"} == {"µm"}
    assert read_volume(tmp_path / "a.tif").voxel_size == SIZE


def test_type_that_imagej_lacks_is_written_as_ome(tmp_path, array):
    write_volume(tmp_path / "a.tif", Volume(array.astype(np.int32), SIZE))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_ome
        np.testing.assert_array_equal(file.asarray(), array)


def test_unknown_voxel_size_stays_unknown(tmp_path, array, monkeypatch):
    write_volume(tmp_path / "a.tif", Volume(array))
    assert read_volume(tmp_path / "a.tif").voxel_size is None
    monkeypatch.setattr(tiff, "IMAGEJ_MAX_BYTES", 0)
    write_volume(tmp_path / "b.tif", Volume(array))
    assert read_volume(tmp_path / "b.tif").voxel_size is None


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "options",
    [{}, imagej("um"), ome("µm"), ome("µm", bigtiff=True), {"compression": "lzw"}, {"compression": "zlib"}, {"metadata": None}]
    + [{"metadata": None, "compression": "lzw"}],
)
def test_truncated_file_is_an_error_not_fewer_pages(tmp_path, array, options, part):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(part * len(data))])
    try:
        read = read_volume(tmp_path / "a.tif").array
    except InputError as error:
        assert re.search(r"a\.tif: .*(damaged|cannot be read)", str(error))
        assert "\n" not in str(error)
    else:  # of an ImageJ file the directories of the later pages come last, and nothing needs them
        assert part == 0.9 and options.get("imagej")
        np.testing.assert_array_equal(read, array)


def test_berea(shared_data):
    low = read_volume(shared_data / "berea" / "lr_3.5um.tif")
    assert low.array.shape == (192, 257, 257)
    assert low.voxel_size == (3.5, 3.5, 3.5)
    assert np.unique(low.array).tolist() == [0, 1, 2, 3]
    high = read_volume(shared_data / "berea" / "hr_real_0.4375um.tif")  # four pages as colour planes
    assert high.array.shape == (4, 1024, 1024)
