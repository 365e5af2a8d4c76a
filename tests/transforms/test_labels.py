import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from bundle.errors import find_input_error
from bundle.io import VolumeReader
from bundle.transforms.labels import MapLabelsd

TABLE = {0: 1, 128: 0}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_maps_and_keeps_the_metadata(dtype):
    values = torch.tensor([[[[0, 128], [128, 128]]]], dtype=dtype)
    affine = torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64))
    data = {"image": MetaTensor(values, affine=affine, meta={"filename_or_obj": "a.tif"}), "name": "x"}
    result = MapLabelsd("image", n_labels=2, table=TABLE)(data)
    image = result["image"]
    assert isinstance(image, MetaTensor)
    assert image.dtype == torch.uint8
    assert image.tolist() == [[[[1, 0], [0, 0]]]]
    assert torch.equal(image.affine, affine)
    assert image.meta["filename_or_obj"] == "a.tif"
    assert result["name"] == "x"
    assert torch.equal(data["image"].as_tensor(), values)  # the input is not changed


@pytest.mark.parametrize("image", [np.array([[[0, 1]]], np.uint8), torch.tensor([[[0, 1]]])])
def test_plain_arrays_become_metatensors(image):
    result = MapLabelsd("image", n_labels=2)({"image": image})["image"]
    assert isinstance(result, MetaTensor) and result.dtype == torch.uint8
    assert result.tolist() == [[[0, 1]]]


def test_missing_key_only_where_allowed():
    assert MapLabelsd("image", n_labels=2, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        MapLabelsd("image", n_labels=2)({})


def test_unknown_label_names_the_file_and_the_table(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((5, 6, 7), 255, np.uint8), photometric="minisblack")
    chain = Compose(
        [
            LoadImaged("image", reader=VolumeReader(voxel_size=1), ensure_channel_first=True),
            MapLabelsd("image", n_labels=2, table_key="hr_labels"),
        ]
    )
    with pytest.raises(RuntimeError) as caught:
        chain({"image": tmp_path / "a.tif"})
    message = find_input_error(caught.value)
    assert message.startswith(f"{tmp_path / 'a.tif'}: ") and "255" in message and "set hr_labels" in message
