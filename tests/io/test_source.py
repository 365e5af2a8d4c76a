"""Labels read box by box against the array that was written."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile

from bundle.errors import InputError
from bundle.io import Volume, write_volume
from bundle.io import labels as label_files
from bundle.io.source import LabelSource
from bundle.store import LabelStore

SHAPE, SIZE, ORIGIN = (9, 11, 13), (3.5, 3.0, 2.0), (10.0, 20.0, 30.0)
WRITTEN = {"labels.tif": {}, "lzw.tif": {"compression": "lzw"}, "labels.nii": {}, "labels.nii.gz": {}, "labels.raw": {}, "labels.mhd": {}}


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(3, size=SHAPE, dtype=np.uint8)


def write(path, labels, **options):
    if options:
        z, y, x = SIZE
        metadata = {"axes": "ZYX", "spacing": z, "unit": "um"}
        tifffile.imwrite(path, labels, imagej=False, photometric="minisblack", resolution=(1 / x, 1 / y), metadata=metadata, **options)
    else:
        write_volume(path, Volume(labels, SIZE, ORIGIN))
    return path


@pytest.mark.parametrize("name", WRITTEN)
def test_boxes_of_every_format(tmp_path, labels, name):
    found = LabelSource(write(tmp_path / name, labels, **WRITTEN[name]), 3)
    assert found.shape == SHAPE and found.voxel_size == pytest.approx(SIZE)
    assert found.origin == pytest.approx((0, 0, 0) if name.endswith(".tif") else ORIGIN)
    padded = np.pad(labels, 20, mode="edge")
    for low, high in [((2, 3, 4), (5, 4, 9)), ((0, 0, 0), SHAPE), ((-4, -20, 5), (3, 20, 14)), ((9, 12, -5), (12, 14, 0)), ((8, 10, 12), (9, 11, 13))]:
        box = found.read(low, high)
        assert box.dtype == np.uint8
        np.testing.assert_array_equal(box, padded[tuple(slice(20 + a, 20 + b) for a, b in zip(low, high))])


def test_the_checksum_is_of_the_labels(tmp_path, labels, monkeypatch):
    """The same in every format and mapping, and however many slabs it takes; another for other labels or another shape."""
    monkeypatch.setattr(label_files, "SLAB", 2 * 11 * 13)
    sums = {LabelSource(write(tmp_path / name, labels, **options), 3).checksum for name, options in WRITTEN.items()}
    monkeypatch.undo()
    mapped = write(tmp_path / "mapped.tif", labels * 100)
    sums.add(LabelSource(mapped, 3, {0: 0, 100: 1, 200: 2}).checksum)
    assert len(sums) == 1
    other = labels.copy()
    other[-1, -1, -1] = (other[-1, -1, -1] + 1) % 3
    for changed in (other, labels.reshape(9, 13, 11)):
        sums.add(LabelSource(write(tmp_path / "other.tif", changed), 3).checksum)
    assert len(sums) == 3


def test_a_region(tmp_path, labels):
    """Places are those of the volume, which goes on around it."""
    found = LabelSource(write(tmp_path / "labels.nii", labels), 3, region=[[2, 7], [0, 11], [5, 6]])
    assert found.shape == (5, 11, 1) and found.start == (2, 0, 5) and found.origin == pytest.approx((17.0, 20.0, 40.0))
    np.testing.assert_array_equal(found[0:5, 3:11, 0:1], labels[2:7, 3:11, 5:6])
    padded = np.pad(labels, 3, mode="edge")
    np.testing.assert_array_equal(found.read((-1, -3, 2), (8, 14, 9)), padded[2:11, :17, 5:12])
    alone = write(tmp_path / "alone.nii", labels[2:7, :, 5:6].copy())
    assert found.checksum == LabelSource(alone, 3).checksum


def test_what_a_region_is_made_from_has_a_checksum_of_its_own(tmp_path, labels):
    region = [[2, 7], [0, 11], [5, 6]]
    found = LabelSource(write(tmp_path / "labels.nii", labels), 3, region=region)
    around = write(tmp_path / "around.nii", labels[0:9, :, 3:8].copy())
    assert found.checksum_around(2) == LabelSource(around, 3).checksum != found.checksum
    assert found.checksum_around(0) == found.checksum and found.checksum_around(99) == LabelSource(tmp_path / "labels.nii", 3).checksum
    for place, same in (((4, 4, 4), False), ((4, 4, 9), True)):
        changed = labels.copy()
        changed[place] = (changed[place] + 1) % 3
        other = LabelSource(write(tmp_path / "changed.nii", changed), 3, region=region)
        assert other.checksum == found.checksum and (other.checksum_around(2) == found.checksum_around(2)) == same


def test_a_label_beside_a_region_that_is_none_shows_before_the_work(tmp_path, labels):
    labels[0, 0, 5] = 7
    found = LabelSource(write(tmp_path / "labels.nii", labels), 3, region=[[2, 7], [0, 11], [5, 6]])
    with pytest.raises(InputError, match="labels.nii: holds values .7. where"):
        found.checksum_around(2)


def test_only_what_is_asked_for_is_read(tmp_path, labels, monkeypatch):
    """Of a compressed stack: the pages of the box, each once as long as they fit in memory."""
    found = LabelSource(write(tmp_path / "labels.tif", labels, compression="lzw"), 3)
    decoded = []
    asarray = tifffile.TiffPage.asarray
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page, *a, **k: decoded.append(page.index) or asarray(page, *a, **k))
    found._array._kept.clear()
    found.read((2, 0, 0), (5, 3, 3))
    found.read((3, 5, 5), (6, 9, 9))
    assert decoded == [2, 3, 4, 5]
    found._array._most = 2
    found.read((0, 0, 0), (3, 2, 2))
    found.read((1, 0, 0), (3, 2, 2))
    assert decoded == [2, 3, 4, 5, 0, 1, 2] and len(found._array._kept) == 2


@pytest.mark.parametrize("name", ["labels.tif", "lzw.tif", "labels.nii", "labels.raw"])
def test_wrong_values_show_at_once(tmp_path, labels, name):
    labels[-1, -1, -1] = 7
    with pytest.raises(InputError, match=f"{name}: holds values .7. where"):
        LabelSource(write(tmp_path / name, labels, **WRITTEN[name]), 3)


def test_a_damaged_last_page_shows_at_once(tmp_path, labels):
    path = write(tmp_path / "lzw.tif", np.repeat(labels, 20, 0), compression="lzw")
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        offset = file.pages[-1].dataoffsets[0]
    path.write_bytes(content[:offset] + bytes(len(content) - offset))
    with pytest.raises(InputError, match="lzw.tif"):
        LabelSource(path, 3)


def test_no_voxel_size(tmp_path, labels):
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    with pytest.raises(InputError, match="labels.tif: does not state its voxel size; set lr_voxel_size"):
        LabelSource(tmp_path / "labels.tif", 3)
    assert LabelSource(tmp_path / "labels.tif", 3, voxel_size=3.5).voxel_size == (3.5, 3.5, 3.5)


@pytest.mark.parametrize("change", ["touched", "replaced", "removed"])
def test_a_file_that_changes_under_way(tmp_path, labels, change):
    path = write(tmp_path / "labels.tif", labels)
    found = LabelSource(path, 3)
    found.read((0, 0, 0), (2, 2, 2))
    if change == "removed":
        path.unlink()
    elif change == "replaced":
        write(path, np.zeros_like(labels))
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="labels.tif: has changed"):
        found.read((0, 0, 0), (2, 2, 2))


@pytest.mark.parametrize("change", ["replaced", "removed", "added"])
def test_a_chunk_that_changes_under_way(tmp_path, labels, change):
    place = {"shard": 8, "voxel_size": SIZE, "origin": ORIGIN, "phases": ["a", "b", "c"], "levels": 1}
    store = LabelStore(tmp_path / "labels.ome.zarr", shape=SHAPE, fingerprint={}, **place)
    for start, shape in store.shards():
        store.write(start, labels[tuple(slice(a, a + n) for a, n in zip(start, shape))])
    found = LabelSource(tmp_path / "labels.ome.zarr", 3)
    found.read((0, 0, 0), (2, 2, 2))
    chunk = next(path for path in (tmp_path / "labels.ome.zarr" / "0").rglob("*") if path.suffix != ".json" and path.is_file())
    if change == "removed":
        chunk.unlink()
    elif change == "replaced":
        os.utime(chunk, ns=(1, 2**62))
    else:
        (chunk.parent / "more").write_bytes(b"0")
    with pytest.raises(InputError, match="labels.ome.zarr: has changed"):
        found.read((0, 0, 0), (2, 2, 2))
