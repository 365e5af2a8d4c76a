import json

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.io import Volume, read_volume, write_volume


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 400, (5, 7, 11)).astype(np.uint16)


def test_written_file(tmp_path, array):
    write_volume(tmp_path / "a.raw", Volume(array, (3.0, 2.5, 0.4375), (1.0, 2.0, 3.0)))
    header = json.loads((tmp_path / "a.json").read_text())
    assert (header["shape"], header["dtype"], header["byte_order"]) == ([5, 7, 11], "uint16", "little")
    assert header["voxel_size_um"] == [3.0, 2.5, 0.4375]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.raw", "<u2").reshape(5, 7, 11), array)
    volume = read_volume(tmp_path / "a.raw")
    np.testing.assert_array_equal(volume.array, array)
    assert (volume.voxel_size, volume.origin) == ((3.0, 2.5, 0.4375), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(("order", "dtype"), [("little", "<u2"), ("big", ">u2"), (None, "<u2")])
def test_byte_order(tmp_path, array, order, dtype):
    array.astype(dtype).tofile(tmp_path / "a.raw")
    header = {"shape": array.shape, "dtype": "uint16"} | ({"byte_order": order} if order else {})
    (tmp_path / "a.json").write_text(json.dumps(header))
    volume = read_volume(tmp_path / "a.raw")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype.isnative
    assert (volume.voxel_size, volume.origin) == (None, (0.0, 0.0, 0.0))


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_byte_order_of_the_dtype(tmp_path, array, dtype):
    array.astype(dtype).tofile(tmp_path / "a.raw")
    (tmp_path / "a.json").write_text(json.dumps({"shape": array.shape, "dtype": dtype}))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.raw").array, array)


def test_missing_json(tmp_path, array):
    array.tofile(tmp_path / "a.raw")
    with pytest.raises(InputError, match=r"a\.json"):
        read_volume(tmp_path / "a.raw")
    (tmp_path / "a.mhd").write_text("")
    with pytest.raises(InputError, match=r"read a\.mhd"):
        read_volume(tmp_path / "a.raw")


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"shape": [5, 7, 11]}', '{"shape": [5, 7, 11], "dtype": "voxel"}', '{"shape": 5, "dtype": "uint16"}']
    + ['{"shape": [5, 7, 11], "dtype": "uint16", "byte_order": "middle"}'],
)
def test_unusable_json(tmp_path, array, text):
    array.tofile(tmp_path / "a.raw")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: not usable") as caught:
        read_volume(tmp_path / "a.raw")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (1, "too long")])
def test_size_that_does_not_fit(tmp_path, array, change, word):
    write_volume(tmp_path / "a.raw", Volume(array))
    data = (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(data[:-1] if change < 0 else data + b"0")
    with pytest.raises(InputError, match=rf"a\.raw: {word}, {770 + change} bytes where a\.json says 770"):
        read_volume(tmp_path / "a.raw")


def test_wrong_voxel_size(tmp_path, array):
    write_volume(tmp_path / "a.raw", Volume(array))
    header = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(header | {"voxel_size_um": [1, 2]}))
    with pytest.raises(InputError, match="voxel_size_um"):
        read_volume(tmp_path / "a.raw")


@pytest.mark.parametrize("origin", [[1, 2], [1, 2, 3, 4], ["nan", 2, 3], [1, float("inf"), 3], [[1, 2, 3]], 5, None])
def test_an_origin_that_is_none_is_one_line(tmp_path, array, origin):
    write_volume(tmp_path / "a.raw", Volume(array, (1.0, 1.0, 1.0)))
    header = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(header | {"origin_um": origin}))
    with pytest.raises(InputError, match=r"a\.json: not usable \(.*\); write it as {\"shape\"") as caught:
        read_volume(tmp_path / "a.raw")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("most", "depth"), [(1 << 30, 5), (3 * 77, 3), (1, 1)])
def test_large_planes_are_read_a_few_at_a_time(tmp_path, array, monkeypatch, most, depth):
    read = []

    class OnDisk:
        shape, ndim, size, dtype = array.shape, array.ndim, array.size, array.dtype

        def __getitem__(self, box):
            read.append(box[0].stop - box[0].start)
            return array[box]

    monkeypatch.setattr("bundle.io.raw.MOST", most)
    write_volume(tmp_path / "a.raw", Volume(OnDisk(), (1.0, 1.0, 1.0)))
    assert max(read) == depth
    np.testing.assert_array_equal(read_volume(tmp_path / "a.raw").array, array)
