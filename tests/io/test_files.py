"""What every format has in common."""

import nibabel as nib
import numpy as np
import pytest
import tifffile

from bundle.errors import InputError
from bundle.io import Volume, read_volume, write_volume
from bundle.io.files import READERS, WRITERS, suffix_of

SIZE = (3.0, 2.5, 0.4375)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 4, (5, 7, 11)).astype(np.uint8)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", ["plain", "memory map", "view"])
def test_round_trip(tmp_path, array, suffix, kind):
    if kind == "memory map":
        np.save(tmp_path / "source.npy", array)
        source = np.load(tmp_path / "source.npy", mmap_mode="r")
    else:
        source = array if kind == "plain" else np.asfortranarray(array)
    write_volume(tmp_path / f"a{suffix.upper()}", Volume(source, SIZE))
    volume = read_volume(tmp_path / f"a{suffix.upper()}")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == np.uint8
    assert volume.voxel_size == SIZE


@pytest.mark.parametrize("suffix", WRITERS)
def test_given_voxel_size_overrides_the_file(tmp_path, array, suffix):
    write_volume(tmp_path / f"a{suffix}", Volume(array, SIZE))
    assert read_volume(tmp_path / f"a{suffix}", voxel_size=7).voxel_size == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".raw"])
@pytest.mark.parametrize(
    ("given", "origin"),
    [(SIZE, (10.0, 20.0, -30.0)), ([3e-3, 2.5e-3, 0.4375e-3], (0.01, 0.02, -0.03)), ([6.0, 5.0, 0.875], (20.0, 40.0, -60.0)), (3.0, (0.0, 0.0, 0.0))],
)
def test_a_given_voxel_size_takes_the_origin_along(tmp_path, array, caplog, suffix, given, origin):
    """A wrong unit is wrong of both; a change of the axes' relation tells nothing of the origin."""
    write_volume(tmp_path / f"a{suffix}", Volume(array, SIZE, (10.0, 20.0, -30.0)))
    assert read_volume(tmp_path / f"a{suffix}", voxel_size=given).origin == pytest.approx(origin)
    warned = f"a{suffix}: voxels of 3 x 2.5 x 0.4375 µm, but 3 µm are given, which is no change of unit; its origin is dropped" in caplog.text
    assert warned == (given == 3.0) and len(caplog.records) == warned


def test_millimetres_that_are_micrometres(tmp_path, array):
    """A NIfTI whose unit is wrong, written by nibabel: its affine holds the numbers that are meant."""
    image = nib.Nifti1Image(array.T, np.array([[3.5, 0, 0, 350], [0, 3.5, 0, 700], [0, 0, 3.5, 1050], [0, 0, 0, 1]]))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii", voxel_size=3.5)
    assert volume.voxel_size == (3.5, 3.5, 3.5) and volume.origin == pytest.approx((1050.0, 700.0, 350.0))


def test_no_warning_where_there_is_no_origin(tmp_path, array, caplog):
    write_volume(tmp_path / "a.tif", Volume(array, SIZE))
    assert read_volume(tmp_path / "a.tif", voxel_size=7).origin == (0.0, 0.0, 0.0) and not caplog.records


def test_the_origin_of_raw_without_a_voxel_size_is_in_micrometres(tmp_path, array):
    write_volume(tmp_path / "a.raw", Volume(array, None, (10.0, 20.0, -30.0)))
    assert read_volume(tmp_path / "a.raw", voxel_size=7).origin == (10.0, 20.0, -30.0)


def test_float_values_survive(tmp_path):
    array = np.random.default_rng(0).random((5, 7, 11)).astype(np.float32)
    for suffix in WRITERS:
        write_volume(tmp_path / f"a{suffix}", Volume(array, SIZE))
        np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, array)


@pytest.mark.parametrize("suffix", [suffix for suffix in READERS if suffix != ".zarr"])  # a folder: test_ome_zarr
def test_missing_empty_and_garbage_files_are_one_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(InputError, match=r"a\..*: no such file"):
        read_volume(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        read_volume(path)
    path.write_bytes(b"no image at all" * 100)
    with pytest.raises(InputError, match=r"a\.") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="not a file"):
        read_volume(path)


def test_unknown_format_and_shape(tmp_path, array):
    (tmp_path / "a.xyz").write_text("1")
    with pytest.raises(InputError, match=r"\.xyz is not read.*\.nrrd"):
        read_volume(tmp_path / "a.xyz")
    with pytest.raises(InputError, match=r"\.nrrd is not written.*\.mhd"):
        write_volume(tmp_path / "a.nrrd", Volume(array, SIZE))
    with pytest.raises(InputError, match="shape"):
        write_volume(tmp_path / "a.tif", Volume(array[0], SIZE))
    with pytest.raises(InputError, match="int64"):
        write_volume(tmp_path / "a.tif", Volume(array.astype(np.int64), SIZE))
    assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("shape", [(7, 11), (2, 3, 7, 11)])
def test_not_3d(tmp_path, shape, compression):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="minisblack", compression=compression)
    with pytest.raises(InputError, match=rf"a\.tif: {len(shape)}D"):
        read_volume(tmp_path / "a.tif")


def test_an_axis_of_no_voxels(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((11, 7, 0), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"an empty volume \(0 x 7 x 11\)"):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(InputError, match="shape"):
        write_volume(tmp_path / "a.tif", Volume(np.zeros((0, 7, 11), np.uint8)))


@pytest.mark.parametrize("suffix", WRITERS)
def test_unwritable_place(tmp_path, array, suffix):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_volume(tmp_path / "file" / f"a{suffix}", Volume(array, SIZE))


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_array_on_disk_is_written_some_planes_at_a_time(tmp_path, array, suffix, monkeypatch):
    """The same bytes as of an array in memory, each plane asked for once."""
    monkeypatch.setattr("bundle.io.raw.DEPTH", 2)
    asked = []

    class OnDisk:
        shape, dtype, size, ndim = array.shape, array.dtype, array.size, array.ndim

        def __getitem__(self, box):
            asked.extend(range(*box[0].indices(len(array))))
            assert len(array[box]) <= 2
            return array[box]

    for folder, values in (("memory", array), ("disk", OnDisk())):
        write_volume(tmp_path / folder / f"a{suffix}", Volume(values, SIZE, (1.0, 2.0, 3.0)))
    assert asked == list(range(len(array)))
    for file in (tmp_path / "memory").iterdir():
        np.testing.assert_array_equal(*(read_volume(tmp_path / f / f"a{suffix}").array for f in ("memory", "disk")))
        assert suffix == ".nii.gz" or file.read_bytes() == (tmp_path / "disk" / file.name).read_bytes()  # gzip notes the time


@pytest.mark.parametrize("suffix", WRITERS)
def test_failure_half_way_leaves_the_old_file(tmp_path, array, suffix, monkeypatch):
    """The data end with an error after the first slice, as on a full disk."""
    write_volume(tmp_path / f"a{suffix}", Volume(array, SIZE))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    class Full(OSError):
        pass

    def write_some(path, *args, **kwargs):
        with open(path, "wb") as file:
            file.write(b"half")
        raise Full(28, "No space left on device")

    monkeypatch.setattr("tifffile.imwrite", write_some)
    for module in ("raw", "itk_formats", "nifti"):
        monkeypatch.setattr(f"bundle.io.{module}.write_voxels", lambda file, array: (file.write(b"half"), write_some(file.name)))
    with pytest.raises(InputError, match="No space left"):
        write_volume(tmp_path / f"a{suffix}", Volume(array + 1, SIZE))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_suffix_of():
    assert [suffix_of(n) for n in ("a/b.NII.GZ", "b.3.5um.Tif", "noend", "x.gz")] == [".nii.gz", ".tif", "", ".gz"]
