import gzip

import itk
import nibabel as nib
import numpy as np
import pytest

from bundle.errors import InputError
from bundle.io import Volume, read_volume, write_volume

SIZE, ORIGIN = (3.0, 2.5, 0.4375), (10.0, 20.0, -30.0)  # µm (z, y, x)
AFFINE_XYZ = np.array([[0.4375, 0, 0, -30], [0, 2.5, 0, 20], [0, 0, 3, 10], [0, 0, 0, 1]])


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 4, (5, 7, 11)).astype(np.uint8)


def save(path, array, affine, unit, kind=nib.Nifti1Image):
    image = kind(np.ascontiguousarray(array.T), affine, dtype=array.dtype)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_written_file_is_what_nibabel_reads(tmp_path, array, name):
    write_volume(tmp_path / name, Volume(array, SIZE, ORIGIN))
    image = nib.load(tmp_path / name)
    assert image.shape == (11, 7, 5)
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), array)
    np.testing.assert_allclose(image.affine, AFFINE_XYZ)
    np.testing.assert_allclose(image.get_qform(coded=True)[0], AFFINE_XYZ)  # some programs read this one
    np.testing.assert_allclose(image.header.get_zooms(), SIZE[::-1])


def test_written_file_is_what_itk_reads(tmp_path, array):
    write_volume(tmp_path / "a.nii.gz", Volume(array, SIZE, ORIGIN))
    image = itk.imread(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(itk.array_from_image(image), array)
    np.testing.assert_allclose(list(image.GetSpacing()), np.array(SIZE[::-1]) / 1000)  # ITK turns microns into mm


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("unit", "factor"), [("micron", 1), ("mm", 1e-3), ("meter", 1e-6)])
def test_reads_what_nibabel_writes(tmp_path, array, unit, factor, kind):
    affine = AFFINE_XYZ * factor
    affine[3, 3] = 1
    save(tmp_path / "a.nii.gz", array, affine, unit, kind)
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.voxel_size == pytest.approx(SIZE)
    assert volume.origin == pytest.approx(ORIGIN)


def test_reads_what_itk_writes(tmp_path, array):
    image = itk.image_from_array(array)
    image.SetSpacing([v / 1000 for v in SIZE[::-1]])
    image.SetOrigin([v / 1000 for v in ORIGIN[::-1]])
    itk.imwrite(image, str(tmp_path / "a.nii.gz"))  # in mm, with x and y running backward
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.voxel_size == pytest.approx(SIZE)
    assert volume.origin == pytest.approx(ORIGIN)


def test_a_header_that_tells_sizes_alone_starts_at_0_as_in_itk(tmp_path, array):
    image = nib.Nifti1Image(np.ascontiguousarray(array.T), None, dtype=array.dtype)
    image.header.set_zooms((2.0, 3.0, 4.0))
    image.header.set_xyzt_units("micron")
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    expected = itk.imread(str(tmp_path / "a.nii"))
    assert found.voxel_size == (4.0, 3.0, 2.0) and found.origin == tuple(itk.origin(expected))[::-1] == (0.0, 0.0, 0.0)


def test_unknown_unit_is_no_voxel_size_unless_given(tmp_path, array):
    save(tmp_path / "a.nii", array, AFFINE_XYZ, "unknown")
    assert read_volume(tmp_path / "a.nii").voxel_size is None
    assert read_volume(tmp_path / "a.nii", voxel_size=[1, 2, 3]).voxel_size == (1.0, 2.0, 3.0)
    write_volume(tmp_path / "b.nii", Volume(array))
    assert nib.load(tmp_path / "b.nii").header.get_xyzt_units()[0] == "unknown"


def test_turned_image_is_read_in_file_order_with_a_warning(tmp_path, array, caplog):
    turned = AFFINE_XYZ[[1, 0, 2, 3]]
    save(tmp_path / "a.nii", array, turned, "micron")
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array, array)
    assert (volume.voxel_size, volume.origin) == (SIZE, (0.0, 0.0, 0.0))
    assert "turned" in caplog.text


def test_voxel_sizes_that_single_precision_rounds_come_back(tmp_path, array):
    write_volume(tmp_path / "a.nii", Volume(array, (5.345, 0.3, 1.1)))
    assert read_volume(tmp_path / "a.nii").voxel_size == (5.345, 0.3, 1.1)


def test_last_axis_of_length_one_is_dropped(tmp_path, array):
    nib.save(nib.Nifti1Image(array.T[..., None], AFFINE_XYZ), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, array)


def test_axis_over_the_limit_names_it_and_writes_nothing(tmp_path):
    write_volume(tmp_path / "fits.nii.gz", Volume(np.zeros((1, 32767, 1), np.uint8), SIZE))
    assert nib.load(tmp_path / "fits.nii.gz").shape == (1, 32767, 1)
    with pytest.raises(InputError, match=r"32768 .*32767.*\.tif or \.mhd"):
        write_volume(tmp_path / "a.nii.gz", Volume(np.zeros((1, 32768, 1), np.uint8), SIZE))
    assert [p.name for p in tmp_path.iterdir()] == ["fits.nii.gz"]


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated(tmp_path, array, name, part):
    write_volume(tmp_path / name, Volume(array, SIZE))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"a\.nii.*cannot be read") as caught:
        read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_gzip_of_a_truncated_file(tmp_path, array):
    write_volume(tmp_path / "a.nii", Volume(array, SIZE))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()[:-1]))
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(tmp_path / "a.nii.gz")
