"""The store against zarr itself: what is written is there, finished is sound, and no two runs mix."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from bundle import store as store_module
from bundle.errors import InputError
from bundle.pyramid import majority_pyramid, mean_pyramid
from bundle.store import LabelStore, PercentStore

zarr = pytest.importorskip("zarr")

PHASES = ("pore", "quartz", "clay")
SHAPE, SHARD = (40, 16, 23), 16
OPTIONS = {
    "shape": SHAPE,
    "shard": SHARD,
    "voxel_size": (0.5, 1.0, 2.0),
    "origin": (10.0, 20.0, 30.0),
    "phases": PHASES,
    "fingerprint": {"seed": 1, "model": {"sha256": "ab", "scale": 8}},
    "levels": 2,
}


def make(folder: Path, **changes) -> LabelStore:
    return LabelStore(folder / "rock_sr.ome.zarr", **OPTIONS | changes)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(3, size=SHAPE, dtype=np.uint8)


def cut(labels: np.ndarray, start, shape) -> np.ndarray:
    return labels[tuple(slice(a, a + n) for a, n in zip(start, shape))]


def fill(store: LabelStore, labels: np.ndarray) -> None:
    for start, shape in store.shards():
        store.write(start, cut(labels, start, shape))


def files(store: LabelStore) -> dict[Path, tuple[int, bytes]]:
    """Every shard of every level: when it was written, and what it holds."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(store.path.rglob("*")) if p.is_file() and p.name != "zarr.json"}


def test_shards_cover_the_volume_once(tmp_path):
    covered = np.zeros(SHAPE, int)
    shards = list(make(tmp_path).shards())
    for start, shape in shards:
        cut(covered, start, shape)[...] += 1
    assert (covered == 1).all() and len(shards) == 6


def test_labels_and_pyramid_are_read_back_by_zarr(tmp_path, labels):
    """Shard by shard it is the pyramid of the whole."""
    store = make(tmp_path)
    fill(store, labels)
    group = zarr.open_group(str(store.path), mode="r")
    for level, expected in enumerate([labels, *majority_pyramid(labels, 3, 2)]):
        array = group[str(level)]
        assert array.dtype == np.uint8 and array.shards == (SHARD >> level,) * 3
        np.testing.assert_array_equal(array[:], expected)
    volume = store.volume()
    np.testing.assert_array_equal(volume.array[3:9, :, 5], labels[3:9, :, 5])
    assert volume.voxel_size == (0.5, 1.0, 2.0) and volume.origin == (10.0, 20.0, 30.0)


def test_a_shard_is_one_file_a_level(tmp_path, labels):
    store = make(tmp_path)
    start, shape = list(store.shards())[3]
    store.write(start, cut(labels, start, shape))
    assert [str(p.relative_to(store.path)) for p in files(store)] == ["0/c/1/0/1", "1/c/1/0/1", "2/c/1/0/1"]


def test_levels_are_aligned_to_the_corner(tmp_path):
    """The outer corner of the first voxel is the same on all levels: half a voxel before its centre."""
    ome = json.loads((make(tmp_path).path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [(axis["name"], axis["unit"]) for axis in image["axes"]] == [("z", "micrometer"), ("y", "micrometer"), ("x", "micrometer")]
    for level, dataset in enumerate(image["datasets"]):
        scale, shift = (t[t["type"]] for t in dataset["coordinateTransformations"])
        assert dataset["path"] == str(level) and scale == [0.5 * 2**level, 1.0 * 2**level, 2.0 * 2**level]
        np.testing.assert_allclose(np.array(shift) - np.array(scale) / 2, [9.75, 19.5, 29.0])
    label = ome["image-label"]
    assert [c["label-value"] for c in label["colors"]] == [0, 1, 2] and all(len(c["rgba"]) == 4 for c in label["colors"])
    assert [p["phase"] for p in label["properties"]] == list(PHASES)


def test_a_shard_of_the_first_label_is_written_too(tmp_path):
    """It is all zeros, which zarr would leave out if that were its fill value."""
    store = make(tmp_path)
    fill(store, np.zeros(SHAPE, np.uint8))
    assert len(files(store)) == 18 and all(store.finished(start) for start, _ in store.shards())


def test_finished_is_what_was_written(tmp_path, labels):
    store = make(tmp_path)
    written = list(store.shards())[1::2]
    for start, shape in written:
        store.write(start, cut(labels, start, shape))
    again = make(tmp_path)
    assert [s for s in again.shards() if again.finished(s[0])] == written


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("spoil", ["truncate", "empty", "remove", "flip"])
def test_a_damaged_shard_is_not_finished_and_can_be_made_again(tmp_path, labels, level, spoil, caplog):
    store = make(tmp_path)
    fill(store, labels)
    before = files(store)
    victim = store.path / str(level) / "c" / "1" / "0" / "0"
    content = bytearray(victim.read_bytes())
    if spoil == "remove":
        victim.unlink()
    else:
        content[len(content) // 3] ^= 4
        victim.write_bytes({"truncate": content[:-7], "empty": b"", "flip": content}[spoil])
    again = make(tmp_path)
    damaged = [s for s in again.shards() if not again.finished(s[0])]
    assert damaged == [((16, 0, 0), (16, 16, 16))]
    assert (str(victim) in caplog.text) == (spoil != "remove")
    again.write(damaged[0][0], cut(labels, *damaged[0]))
    assert again.finished(damaged[0][0])
    assert {p: content for p, (_, content) in files(again).items()} == {p: content for p, (_, content) in before.items()}


@pytest.mark.parametrize(("failure", "raised", "message"), [
    (MemoryError("Unable to allocate 16.0 MiB"), MemoryError, "Unable to allocate"),
    (OSError(errno.EMFILE, "Too many open files"), InputError, r"rock_sr.ome.zarr/0/c/0/0/0: cannot be read \(Too many open files\); start again"),
    (OSError(errno.EIO, "Input/output error"), InputError, r"cannot be read \(Input/output error\)"),
    (OSError(errno.ESTALE, "Stale file handle"), InputError, r"cannot be read \(Stale file handle\)"),
])  # fmt: skip
def test_a_shard_that_cannot_be_read_is_not_taken_for_damaged(tmp_path, labels, monkeypatch, caplog, failure, raised, message):
    """It would be taken away and made again."""
    store = make(tmp_path)
    fill(store, labels)

    def fail(*args, **kwargs):
        raise failure

    with monkeypatch.context() as patch, pytest.raises(raised, match=message):
        patch.setattr("zarr.storage._local._get", fail)
        store.finished((0, 0, 0))
    assert not caplog.records and store.finished((0, 0, 0))


@pytest.mark.parametrize("failure", [OSError("no such codec"), FileNotFoundError(errno.ENOENT, "taken away meanwhile")])
def test_what_a_codec_says_is_damage(tmp_path, labels, monkeypatch, failure):
    store = make(tmp_path)
    fill(store, labels)

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr("zarr.storage._local._get", fail)
    assert not store.finished((0, 0, 0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": {"seed": 2, "model": {"sha256": "ab", "scale": 8}}}, "seed is 1, now 2"),
        ({"fingerprint": {"seed": 1, "model": {"sha256": "cd", "scale": 8}}}, "model sha256 is ab, now cd"),
        ({"fingerprint": {"seed": 1}}, "model is {.*}, now None"),
        ({"shape": (40, 16, 24)}, "shape is .40, 16, 23., now .40, 16, 24."),
        ({"shard": 8}, "shard is 16, now 8"),
    ],
)
def test_a_store_of_another_run_is_refused(tmp_path, labels, changes, words):
    store = make(tmp_path)
    fill(store, labels)
    before = files(store)
    with pytest.raises(InputError, match=f"rock_sr.ome.zarr: was made otherwise: {words}; move it away"):
        make(tmp_path, **changes)
    assert files(store) == before


def test_the_difference_alone_is_named(tmp_path):
    make(tmp_path)
    with pytest.raises(InputError) as caught:
        make(tmp_path, fingerprint={"seed": 3, "model": {"sha256": "ab", "scale": 8}})
    assert "sha256" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["folder", "file", "other zarr"])
def test_what_is_no_store_is_left_alone(tmp_path, content):
    path = tmp_path / "rock_sr.ome.zarr"
    if content == "file":
        path.write_text("mine")
    elif content == "folder":
        path.mkdir()
        (path / "mine").write_text("mine")
    else:
        zarr.open_group(str(path), mode="w")
    with pytest.raises(InputError, match="rock_sr.ome.zarr: (no store of this program|was made otherwise).*move it away"):
        make(tmp_path)
    assert path.exists() and (content != "folder" or (path / "mine").exists())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make(tmp_path / "file")


def test_a_full_disk_says_so(tmp_path, labels, monkeypatch):
    store = make(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zarr.storage._local._put", full)
    start, shape = next(store.shards())
    with pytest.raises(InputError, match="No space left on device.*it goes on"):
        store.write(start, cut(labels, start, shape))


def test_two_processes_that_start_at_once_share_the_store(tmp_path, labels):
    """The second found no store, and finds one when it wants to put its own there."""
    first = make(tmp_path)
    fill(first, labels)
    first._create()
    second = make(tmp_path)
    assert all(second.finished(start) for start, _ in second.shards())
    assert [p.name for p in tmp_path.iterdir()] == ["rock_sr.ome.zarr"]


def test_a_shard_must_hold_whole_blocks_of_the_pyramid(tmp_path):
    with pytest.raises(ValueError, match="no multiple"):
        make(tmp_path, shard=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("edge", [67, 71, 101, 127])
def test_a_shard_with_a_large_prime_factor_is_not_cut_into_single_voxels(tmp_path, edge):
    """A million of them take minutes. Read back in parts, which need not be chunks."""
    shape = (edge * 2, edge, 5)
    labels = np.random.default_rng(0).integers(3, size=shape, dtype=np.uint8)
    store = make(tmp_path, shape=shape, shard=2 * edge, levels=1)
    assert [array.chunks for array in store.arrays] == [(edge,) * 3] * 2
    for start, size in store.shards():
        store.write(start, cut(labels, start, size))
    assert all(store.finished(start) for start, _ in store.shards())
    np.testing.assert_array_equal(store.volume().array[edge - 3 : edge + 4, 5:60, 1:], labels[edge - 3 : edge + 4, 5:60, 1:])


@pytest.mark.parametrize(("edge", "chunk"), [(1, 1), (8, 8), (64, 64), (96, 48), (100, 50), (256, 64), (536, 67), (252, 63), (502, 251)])
def test_chunks_are_about_as_large_as_a_viewer_wants(edge, chunk):
    assert store_module._chunk(edge) == chunk


def test_a_store_of_per_cent_with_a_channel_for_each_phase(tmp_path):
    """Shard by shard the mean pyramid of the whole; one file a shard and level; half a missing shard is damage."""
    percent = np.random.default_rng(0).integers(101, size=(3, *SHAPE), dtype=np.uint8)
    store = PercentStore(tmp_path / "p.ome.zarr", channels=3, **OPTIONS)
    for start, shape in store.shards():
        store.write(start, np.stack([cut(channel, start, shape) for channel in percent]))
    assert all(store.finished(start) for start, _ in store.shards()) and store.missing() == 0
    group = zarr.open_group(str(store.path), mode="r")
    for level, expected in enumerate(zip(*([channel, *mean_pyramid(channel, 2)] for channel in percent))):
        np.testing.assert_array_equal(group[str(level)][:], np.stack(expected))
    assert len(files(store)) == 18 and (store.path / "0" / "c" / "0" / "1" / "0" / "1").is_file()
    ome = group.attrs["ome"]
    (image,) = ome["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"] and image["axes"][0]["type"] == "channel"
    assert image["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 2.0, 4.0]
    assert [c["label"] for c in ome["omero"]["channels"]] == list(PHASES)


def test_a_store_of_per_cent_without_channels(tmp_path):
    percent = np.random.default_rng(0).integers(101, size=SHAPE, dtype=np.uint8)
    store = PercentStore(tmp_path / "u.ome.zarr", **OPTIONS)
    fill(store, percent)
    np.testing.assert_array_equal(store.volume().array[:], percent)
    np.testing.assert_array_equal(zarr.open_array(str(store.path / "2"), mode="r")[:], mean_pyramid(percent, 2)[1])


@pytest.fixture
def marked(tmp_path) -> LabelStore:
    """A store that holds a cube of label 2, its corner at voxel (8, 4, 12), in label 1."""
    labels = np.ones(SHAPE, np.uint8)
    labels[8:24, 4:12, 12:20] = 2
    store = make(tmp_path)
    fill(store, labels)
    return store


def test_the_validator_of_ome_zarr_models(marked, tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05", reason="the validator ome-zarr-models is not installed")
    labels = models.ImageLabel.from_zarr(zarr.open_group(str(marked.path), mode="r"))
    assert [c.label_value for c in labels.ome_attributes.image_label.colors] == [0, 1, 2]
    percent = PercentStore(tmp_path / "p.ome.zarr", channels=3, **OPTIONS)
    image = models.Image.from_zarr(zarr.open_group(str(percent.path), mode="r"))
    assert [axis.name for axis in image.ome_attributes.multiscales[0].axes] == ["c", "z", "y", "x"]


def test_ome_zarr_py_shows_the_levels_at_one_place(marked):
    """The reader that napari uses: the centre of the cube, µm, is the same on every level, to half a voxel of the finest."""
    reader = pytest.importorskip("ome_zarr.reader", reason="the reader ome-zarr is not installed")
    from ome_zarr.io import parse_url

    (node,) = list(reader.Reader(parse_url(str(marked.path)))())
    expected = np.array([10.0, 20.0, 30.0]) + np.array([0.5, 1.0, 2.0]) * ([15.5, 7.5, 15.5])
    assert len(node.data) == 3
    for level, transformations in zip(node.data, node.metadata["coordinateTransformations"]):
        scale, shift = (np.array(t[t["type"]]) for t in transformations)
        centre = np.argwhere(np.asarray(level) == 2).mean(0) * scale + shift
        assert (np.abs(centre - expected) <= np.array([0.5, 1.0, 2.0]) / 2).all()
