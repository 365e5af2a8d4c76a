import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import LoadImaged, SaveImage, SaveImaged

from bundle.errors import InputError, find_input_error
from bundle.io import Volume, VolumeReader, VolumeWriter, read_volume, super_resolved_affine, write_volume

SIZE, ORIGIN = (3.0, 2.5, 4.0), (10.0, 20.0, -30.0)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 4, (5, 7, 11)).astype(np.uint8)


def load(path, **options):
    return LoadImaged(keys="image", reader=VolumeReader(**options), ensure_channel_first=True)({"image": path})["image"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd", ".raw"])
def test_load_image(tmp_path, array, suffix):
    write_volume(tmp_path / f"a{suffix}", Volume(array, SIZE, ORIGIN))
    image = load(tmp_path / f"a{suffix}")
    assert isinstance(image, MetaTensor)
    assert image.shape == (1, 5, 7, 11)
    np.testing.assert_array_equal(image[0].numpy(), array)
    np.testing.assert_allclose(image.affine @ torch.tensor([1, 1, 1, 1.0], dtype=torch.float64), [13, 22.5, -26, 1])
    assert image.meta["voxel_size"] == SIZE
    assert image.meta["filename_or_obj"] == str(tmp_path / f"a{suffix}")
    assert tuple(image.meta["spatial_shape"]) == (5, 7, 11)


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".raw"])
def test_a_region_is_read_alone_and_with_its_place(tmp_path, array, suffix):
    write_volume(tmp_path / f"a{suffix}", Volume(array, SIZE, ORIGIN))
    image = load(tmp_path / f"a{suffix}", region=[[1, 3], [0, 7], [2, 11]])
    np.testing.assert_array_equal(image[0].numpy(), array[1:3, :, 2:])
    np.testing.assert_allclose(image.affine, [[3, 0, 0, 13], [0, 2.5, 0, 20], [0, 0, 4, -22], [0, 0, 0, 1]])
    values = VolumeReader(region=[[1, 3], [0, 7], [2, 11]]).get_data((tmp_path / f"a{suffix}",))[0]
    assert type(values) is np.ndarray and values.base is None and values.nbytes == 2 * 7 * 9, "a view would keep the whole volume in memory"


@pytest.mark.parametrize(
    "region",
    [[[0, 6], [0, 7], [0, 11]], [[-1, 3], [0, 7], [0, 11]], [[2, 2], [0, 7], [0, 11]], [[3, 1], [0, 7], [0, 11]], [[0, 4], [0, 5]], [0, 4], "all"],
)
def test_a_region_outside_the_volume_is_refused(tmp_path, array, region):
    write_volume(tmp_path / "a.nii", Volume(array, SIZE, ORIGIN))
    with pytest.raises(InputError, match=r"lr_region.*\(5, 7, 11\)"):
        VolumeReader(region=region).get_data((tmp_path / "a.nii",))


def test_reader_chooses_by_suffix():
    assert VolumeReader().verify_suffix(["a.nii.gz", "b.TIF"])
    assert not VolumeReader().verify_suffix("a.npy")


def test_voxel_size_from_the_config_or_an_error_that_names_the_key(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array)
    assert load(tmp_path / "a.tif", voxel_size=2).meta["voxel_size"] == (2.0, 2.0, 2.0)
    with pytest.raises(Exception) as caught:
        load(tmp_path / "a.tif")
    assert "set lr_voxel_size" in find_input_error(caught.value)
    with pytest.raises(InputError, match="lr_voxel_size"):
        VolumeReader(voxel_size=-1)


@pytest.mark.parametrize("name", ["missing.tif", "cut.tif", "flat.tif", "several"])
def test_bad_file_stays_our_error_and_no_other_reader_is_tried(tmp_path, array, name):
    """MONAI goes on to its own readers where `read` fails: one of them reads a broken stack, or one page of it."""
    tifffile.imwrite(tmp_path / "cut.tif", array, compression="zlib")
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    tifffile.imwrite(tmp_path / "flat.tif", array[0])
    path = [tmp_path / "flat.tif", tmp_path / "cut.tif"] if name == "several" else tmp_path / name
    with pytest.raises(Exception) as caught:
        load(path)
    assert find_input_error(caught.value).startswith(str(tmp_path))


def test_batches_keep_the_affine(tmp_path, array):
    write_volume(tmp_path / "a.nii", Volume(array, SIZE, ORIGIN))
    dataset = Dataset([{"image": tmp_path / "a.nii"}] * 2, LoadImaged("image", reader=VolumeReader(), ensure_channel_first=True))
    (batch,) = DataLoader(dataset, batch_size=2)
    assert batch["image"].shape == (2, 1, 5, 7, 11)
    np.testing.assert_array_equal(batch["image"].affine[1], Volume(array, SIZE, ORIGIN).affine)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd", ".tif"])
def test_from_config_to_the_eight_times_finer_file(tmp_path, array, suffix):
    """LoadImaged and SaveImaged as a config makes them; the affine of the finer grid survives the file."""
    write_volume(tmp_path / "in.nii", Volume(array, (4.0,) * 3, ORIGIN))
    parser = ConfigParser(
        {
            "load": {"_target_": "LoadImaged", "keys": "image", "reader": {"_target_": "bundle.io.VolumeReader", "voxel_size": None},
                     "ensure_channel_first": True, "dtype": "$None"},
            "save": {"_target_": "SaveImaged", "keys": "image", "writer": "bundle.io.VolumeWriter", "output_ext": suffix,
                     "resample": False, "separate_folder": False, "output_dir": str(tmp_path / "out"), "output_postfix": "sr",
                     "output_dtype": "$None"},
        }
    )  # fmt: skip
    image = parser.get_parsed_content("load")({"image": tmp_path / "in.nii"})["image"]
    assert image.dtype == torch.uint8
    fine = image.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    fine.affine = torch.as_tensor(super_resolved_affine(image.affine, 8))
    parser.get_parsed_content("save")({"image": fine})
    path = tmp_path / "out" / f"in_sr{suffix}"
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, np.kron(array, np.ones((8, 8, 8), np.uint8)))
    assert volume.array.dtype == np.uint8
    assert volume.voxel_size == (0.5, 0.5, 0.5)
    if suffix == ".tif":
        return  # TIFF has no origin
    assert volume.origin == (8.25, 18.25, -31.75)  # 3.5 fine voxels of 0.5 µm before the coarse voxel's centre
    if suffix == ".nii.gz":
        np.testing.assert_allclose(nib.load(path).affine @ [0, 0, 0, 1], [-31.75, 18.25, 8.25, 1])
    np.testing.assert_allclose(load(path).affine, fine.affine)


def test_output_type_is_saveimages(tmp_path, array):
    image = MetaTensor(torch.from_numpy(array)[None], affine=torch.eye(4))
    options = {"writer": VolumeWriter, "output_ext": ".nii", "separate_folder": False, "output_dir": tmp_path}
    SaveImage(output_dtype=np.float32, **options)(image, filename=tmp_path / "float")
    assert nib.load(tmp_path / "float.nii").get_data_dtype() == np.float32
    SaveImage(output_dtype=np.uint8, **options)(image.float(), filename=tmp_path / "labels")
    assert nib.load(tmp_path / "labels.nii").get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("options", "channels", "affine", "words"),
    [({"resample": True}, 1, np.eye(4), "resample"), ({"scale": 255}, 1, np.eye(4), "scale"), ({}, 2, np.eye(4), "2 channels")]
    + [({}, 1, np.diag([1.0, -1, 1, 1]), "mirrored"), ({"output_ext": ".nrrd"}, 1, np.eye(4), "not written")],
)
def test_what_would_spoil_the_result_is_refused(tmp_path, array, options, channels, affine, words):
    image = MetaTensor(torch.from_numpy(array)[None].repeat(channels, 1, 1, 1), affine=torch.from_numpy(affine))
    image.meta["filename_or_obj"] = "a.tif"
    save = SaveImaged(keys="image", **{"writer": VolumeWriter, "output_ext": ".nii", "resample": False, "output_dir": tmp_path, **options})
    with pytest.raises(RuntimeError) as caught:
        save({"image": image})
    assert words in find_input_error(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_plain_tensor_has_no_voxel_size_to_write(tmp_path, array):
    with pytest.raises(RuntimeError) as caught:
        SaveImage(writer=VolumeWriter, output_ext=".nii", output_dir=tmp_path)(torch.from_numpy(array)[None])
    assert "no affine" in find_input_error(caught.value)
