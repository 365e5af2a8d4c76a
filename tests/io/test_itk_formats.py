import itk
import numpy as np
import pytest

from bundle.errors import InputError
from bundle.io import Volume, read_volume, write_volume

SIZE, ORIGIN = (3.0, 2.5, 0.4375), (10.0, 20.0, -30.0)  # µm (z, y, x)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 4, (5, 7, 11)).astype(np.uint8)


def save(path, array, direction=None, compression=False):
    image = itk.image_from_array(array)
    image.SetSpacing(SIZE[::-1])
    image.SetOrigin(ORIGIN[::-1])
    if direction is not None:
        image.SetDirection(itk.matrix_from_array(np.array(direction, dtype=float)))
    itk.imwrite(image, str(path), compression=compression)


@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_written_file_is_what_itk_reads(tmp_path, array, name, dtype):
    write_volume(tmp_path / name, Volume(array.astype(dtype), SIZE, ORIGIN))
    image = itk.imread(str(tmp_path / name))
    read = itk.array_from_image(image)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)
    assert list(image.GetSpacing()) == list(SIZE[::-1])
    assert list(image.GetOrigin()) == list(ORIGIN[::-1])
    np.testing.assert_array_equal(itk.array_from_matrix(image.GetDirection()), np.eye(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == (["a.mha"] if name == "a.mha" else ["a.mhd", "a.raw"])


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_reads_what_itk_writes(tmp_path, array, name, compression):
    save(tmp_path / name, array, compression=compression)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, array)
    assert (volume.voxel_size, volume.origin) == (SIZE, ORIGIN)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_axes_that_run_backward_or_are_turned_stay_in_file_order(tmp_path, array, name, caplog):
    save(tmp_path / name, array, np.diag([-1, -1, 1]))
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, array)
    assert (volume.voxel_size, volume.origin) == (SIZE, (10.0, -20.0, 30.0))
    assert not caplog.text
    save(tmp_path / name, array, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, array)
    assert (volume.voxel_size, volume.origin) == (SIZE, (0.0, 0.0, 0.0))
    assert "turned" in caplog.text


def check_size(path, header: str, size) -> None:
    """A header over 4 x 3 x 2 bytes that count up is read as those voxels, of this size."""
    path.write_bytes(header.encode() + bytes(range(24)))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, np.arange(24).reshape(2, 3, 4))
    assert volume.voxel_size == size


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        ("", None), ("spacings: 1 1 1\n", (1.0, 1.0, 1.0)), ('spacings: 2 1 1\nunits: "mm" "mm" "mm"\n', (1000.0, 1000.0, 2000.0)),
        ('spacings: 2 3 0.005\nunits: "um" "um" "mm"\n', (5.0, 3.0, 2.0)), ('spacings: 2 3 4\nunits: "" "" ""\n', (4.0, 3.0, 2.0)),
        ("spacings: nan nan nan\n", None), ("spacings: 2 3 nan\n", None), ("# " + 5000 * "x" + "\nspacings: 2 3 4\n", (4.0, 3.0, 2.0)),
        ('space: scanner-xyz\nspace directions: (0.002,0,0) (0,3,0) (0,0,4)\nspace units: "mm" "um" "um"\n', (4.0, 3.0, 2.0)),
    ],
)  # fmt: skip
def test_nrrd_without_spacing_is_unknown_and_with_units_honoured(tmp_path, lines, size):
    header = f"NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 3 2\n{lines}encoding: raw\n\n"
    check_size(tmp_path / "a.nrrd", header, size)


@pytest.mark.parametrize(("line", "size"), [("", (4.0, 3.0, 2.0)), ("DistanceUnits = um\n", (4.0, 3.0, 2.0)), ("DistanceUnits = mm\n", (4e3, 3e3, 2e3))])
def test_metaimage_that_names_its_unit(tmp_path, line, size):
    header = f"ObjectType = Image\nNDims = 3\n{line}ElementSpacing = 2 3 4\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    check_size(tmp_path / "a.mha", header, size)


def test_nrrd_of_an_unknown_unit(tmp_path):
    header = 'NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 3 2\nspacings: 1 1 1\nunits: "px" "px" "px"\nencoding: raw\n\n'
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(24))
    with pytest.raises(InputError, match="'px'"):
        read_volume(tmp_path / "a.nrrd")


def test_metaimage_needs_a_voxel_size(tmp_path, array):
    with pytest.raises(InputError, match="lr_voxel_size"):
        write_volume(tmp_path / "a.mhd", Volume(array))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("name", "compression"), [("a.nrrd", False), ("a.nrrd", True), ("a.mha", False), ("a.mha", True), ("a.raw", False)]
)  # fmt: skip
def test_truncated(tmp_path, array, name, compression, part):
    target = tmp_path / ("a.mhd" if name == "a.raw" else name)
    save(target, array, compression=compression)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=rf"{target.name}: .*cannot be read") as caught:
        read_volume(target)
    assert "\n" not in str(caught.value)
    assert ".cxx" not in str(caught.value), "a place in the source of ITK is no reason"


def test_header_without_its_voxels(tmp_path, array):
    save(tmp_path / "a.mhd", array)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match=r"a\.mhd: only the header; a\.raw"):
        read_volume(tmp_path / "a.mhd")


@pytest.mark.parametrize("shape", [(7, 11), (2, 5, 7, 11)])
def test_not_3d(tmp_path, shape):
    itk.imwrite(itk.image_from_array(np.zeros(shape, np.uint8)), str(tmp_path / "a.mha"))
    with pytest.raises(InputError, match=f"{len(shape)}D"):
        read_volume(tmp_path / "a.mha")
