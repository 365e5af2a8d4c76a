"""`python -m monai.bundle run inference` as a user runs it, on a tiny volume with a tiny network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import itk
import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from bundle.checkpoint import save_model
from bundle.errors import find_input_error
from bundle.evaluation_files import Place, open_percent
from bundle.inference import check_voxel_size
from bundle.inferer import WindowInferer
from bundle.io import as_voxel_size, read_volume
from bundle.io.source import LabelSource
from bundle.networks.generator import LevelGenerator
from bundle.trust import Trust

PHASES = ["pore", "quartz", "feldspar", "clay"]
SHAPE = (5, 4, 6)


@pytest.fixture
def case(tmp_path, bundle_root) -> SimpleNamespace:
    """A volume of 3.5 µm voxels as TIFF, a network of 8x with its model.pt, and the settings that belong to them."""
    labels = np.random.default_rng(1).integers(4, size=SHAPE, dtype=np.uint8)
    options = {"imagej": True, "resolution": (1 / 3.5, 1 / 3.5), "metadata": {"axes": "ZYX", "spacing": 3.5, "unit": "um"}}
    tifffile.imwrite(tmp_path / "rock.tif", labels, **options)
    torch.manual_seed(0)
    network = LevelGenerator(5, 4, channels=(4, 3, 2, 2), blocks=0, grain_radius=1).eval()
    save_model(tmp_path / "model.pt", network, PHASES, PHASES)
    settings = {
        "lr_image": str(tmp_path / "rock.tif"),
        "model_file": str(tmp_path / "model.pt"),
        "output_dir": str(tmp_path / "out"),
        "network_def#channels": [4, 3, 2, 2],
        "network_def#blocks": 0,
        "network_def#grain_radius": 1,
        "core": 4,
        "amp": False,
        "device": "cpu",
    }
    config = str(bundle_root / "configs" / "inference.yaml")
    return SimpleNamespace(labels=labels, network=network, settings=settings, out=tmp_path / "out", folder=tmp_path, config=config)


def command(case, run_id: str | None = "inference", **changes) -> subprocess.CompletedProcess:
    """The command line, from a folder that is not the bundle's."""
    settings = [f"--{key}={value}" for key, value in (case.settings | changes).items()]
    words = [sys.executable, "-m", "monai.bundle", "run", *([run_id] if run_id else []), "--config_file", case.config, *settings]
    return subprocess.run(words, cwd=case.folder, capture_output=True, text=True)


def in_process(case, **changes) -> None:
    workflow = ConfigWorkflow(case.config, logging_file=False, run_id="inference", workflow_type="infer", **(case.settings | changes))
    workflow.initialize()
    workflow.run()


def super_resolved(case, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    return WindowInferer(seed=seed)(torch.from_numpy(labels)[None, None], case.network)[0, 0].numpy()


def test_tiff_by_the_command_line(case):
    done = command(case)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in case.out.iterdir()) == ["rock_sr.ome.zarr", "rock_sr.png", "rock_sr.tif", "rock_sr_provenance.json"]
    assert "voxel/s" in done.stderr
    with tifffile.TiffFile(case.out / "rock_sr.tif") as file:
        result = file.asarray()
        assert file.imagej_metadata["unit"] == "um"
        assert file.imagej_metadata["spacing"] == pytest.approx(3.5 / 8)
        pixels, micrometres = file.pages[0].tags["XResolution"].value
        assert micrometres / pixels == pytest.approx(3.5 / 8)
    assert result.shape == tuple(8 * n for n in SHAPE) and result.dtype == np.uint8
    assert (result != super_resolved(case, case.labels)).mean() < 1e-3  # cores of 4 against one: ties only
    record = json.loads((case.out / "rock_sr_provenance.json").read_text())
    assert record["input"]["labels_sha256"] == LabelSource(case.folder / "rock.tif", 4).checksum
    stored = read_volume(case.out / "rock_sr.ome.zarr")
    np.testing.assert_array_equal(stored.array, result)
    assert stored.voxel_size == pytest.approx([3.5 / 8] * 3) and stored.origin == pytest.approx([-3.5 * 7 / 16] * 3)
    assert record["model"]["sha256"] == hashlib.sha256((case.folder / "model.pt").read_bytes()).hexdigest()
    assert record["result"] == {
        "shape": [40, 32, 48],
        "voxel_size_um": [3.5 / 8] * 3,
        "origin_um": pytest.approx([-3.5 * 7 / 16] * 3),
        "phases": PHASES,
    }
    assert record["settings"]["seed"] == 0 and record["settings"]["core"] == 4
    assert record["versions"]["torch"] == torch.__version__


def test_nifti_with_other_settings_by_the_command_line(case):
    """Another rock: 4x, other phases and file values, a region, anisotropic voxels with an origin, another seed; default run id."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])  # (x, y, z)
    affine[:3, 3] = (10.0, 20.0, 30.0)
    values = np.array([0, 128, 255], np.int16)[case.labels % 3]
    image = nib.Nifti1Image(values.T, affine)
    image.header.set_xyzt_units("micron")
    nib.save(image, case.folder / "other.nii.gz")
    case.network = LevelGenerator(4, 5, channels=(4, 3, 2), blocks=0, grain_radius=1).eval()
    phases = ["void", "metal", "ceramic", "crack", "glass"]
    save_model(case.folder / "other.pt", case.network, phases, phases[:3])
    changes = {
        "lr_image": case.folder / "other.nii.gz",
        "model_file": case.folder / "other.pt",
        "phases": phases,
        "lr_phases": phases[:3],
        "lr_labels": {0: 0, 128: 1, 255: 2},
        "lr_region": [[1, 4], [0, 4], [2, 6]],
        "scale_factor": 4,
        "hr_voxel_size": [1.0, 0.75, 0.5],
        "network_def#channels": [4, 3, 2],
        "output_ext": ".nii.gz",
        "seed": 5,
    }
    done = command(case, run_id=None, **changes)
    assert done.returncode == 0, done.stderr
    result = nib.load(case.out / "other_sr.nii.gz")
    assert result.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(result.affine.diagonal(), [0.5, 0.75, 1.0, 1.0])
    # the region starts at (x, y, z) = (2, 0, 1); a fine voxel's centre lies 3/8 of a coarse voxel before the coarse one's
    np.testing.assert_allclose(result.affine[:3, 3], [10 + 2 * (2 - 3 / 8), 20 + 3 * (0 - 3 / 8), 30 + 4 * (1 - 3 / 8)])
    array = np.asarray(result.dataobj).T
    assert array.dtype == np.uint8 and array.shape == (12, 16, 16)
    expected = super_resolved(case, case.labels % 3, seed=5)[4:16, 0:16, 8:24]  # the region is a part of the whole
    assert (array != expected).mean() < 1e-3
    assert len(np.unique(array)) > 1


def place(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Corner of the first voxel of a file and direction of its axes in the world of ITK, µm."""
    image = itk.imread(str(path))
    unit = 1000 if path.name.endswith((".nii", ".nii.gz")) else 1  # ITK turns the microns of NIfTI into mm
    directions = itk.array_from_matrix(image.GetDirection())
    steps = directions @ np.diag(list(image.GetSpacing()))
    return unit * (np.array(list(image.GetOrigin())) - steps.sum(axis=1) / 2), directions


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize(("scan", "result"), [(".nii.gz", ".nii.gz"), (".mha", ".nii.gz"), (".nrrd", ".nii"), (".nii", ".mha"), (".nrrd", ".mhd")])
def test_the_result_overlays_the_scan(case, scan, result, signs):
    """In a viewer: whichever way the axes of the scan run, and in formats whose worlds are mirrored; also of a part of the scan."""
    path = case.folder / f"scan{scan}"
    if scan.startswith(".nii"):
        image = nib.Nifti1Image(np.ascontiguousarray(case.labels.T), np.diag([*(3.5 * np.array(signs)), 1.0]))
        image.affine[:3, 3] = [100, 200, 300]
        image.header.set_xyzt_units("micron")
        nib.save(image, path)
    else:
        image = itk.image_from_array(case.labels)
        image.SetSpacing([3.5] * 3)
        image.SetOrigin([100.0, 200.0, 300.0])
        image.SetDirection(itk.matrix_from_array(np.diag(signs).astype(float)))
        itk.imwrite(image, str(path))
    in_process(case, lr_image=str(path), output_ext=result, lr_region=[[1, 4], [0, 4], [2, 6]])
    corner, directions = place(path)
    found, axes = place(case.out / f"scan_sr{result}")
    np.testing.assert_allclose(found, corner + directions @ [2 * 3.5, 0, 3.5], atol=1e-3)
    np.testing.assert_array_equal(axes, directions)


@pytest.mark.parametrize("told", ["model", "record", "no one"])
def test_a_scan_of_other_voxels_than_the_models_is_told(case, caplog, told):
    """Within a tenth nothing is said, nor where neither the model nor its record knows."""
    if told == "model":
        save_model(case.folder / "model.pt", case.network, PHASES, PHASES, [3.5] * 3)
    if told == "record":
        (case.folder / "model.json").write_text(json.dumps({"settings": {"lr_voxel_size": 3.5}}))
    scan = case.folder / "rock.tif"
    for size, text in ((3500, "3500"), (0.0035, "0.0035"), ([3.5, 3.5, 7], "3.5 x 3.5 x 7"), (3.3, None)):
        caplog.clear()
        check_voxel_size(case.settings["model_file"], scan, as_voxel_size(size))
        words = f"{scan}: voxels of {text} µm, but the model learned from voxels of 3.5 µm; if the unit is wrong give lr_voxel_size in µm"
        assert [record.getMessage() for record in caplog.records] == ([words] if text and told != "no one" else [])


def test_a_scan_in_millimetres_is_told_by_the_command_line(case):
    save_model(case.folder / "model.pt", case.network, PHASES, PHASES, [3.5] * 3)
    done = command(case, lr_voxel_size=0.0035)
    assert done.returncode == 0, done.stderr
    assert "rock.tif: voxels of 0.0035 µm, but the model learned from voxels of 3.5 µm" in done.stdout + done.stderr


@pytest.mark.parametrize(("model", "size"), [("model", 3.5), ("model_16x", 7)])
def test_the_shipped_models_tell_their_voxels(bundle_root, caplog, model, size):
    check_voxel_size(bundle_root / "models" / f"{model}.pt", "scan.tif", [size] * 3)
    assert not caplog.records
    check_voxel_size(bundle_root / "models" / f"{model}.pt", "scan.tif", [1.2 * size] * 3)
    assert f"voxels of {size} µm" in caplog.text


def test_the_store_alone(case):
    in_process(case, output_ext=None)
    assert sorted(p.name for p in case.out.iterdir()) == ["rock_sr.ome.zarr", "rock_sr.png", "rock_sr_provenance.json"]


def test_processes_share_the_work_and_the_last_writes_the_rest(case):
    """Twice with the settings of torchrun: the first leaves shards and no pictures; again alone it only writes what is not there."""
    in_process(case, shard=2, rank=1, world_size=2)
    assert [p.name for p in case.out.iterdir()] == ["rock_sr.ome.zarr"]
    before = {p: p.stat().st_mtime_ns for p in (case.out / "rock_sr.ome.zarr").rglob("c/*/*/*")}
    assert 0 < len(before) < 4 * 3 * 2 * 3
    (case.out / "rock_sr.ome.zarr" / "0" / "c" / "0.abc.partial").parent.mkdir(parents=True, exist_ok=True)
    (case.out / "rock_sr.ome.zarr" / "0" / "c" / "0.abc.partial").write_text("of a killed process")
    (case.out / ".partial-0123456789ab-rock_sr.ome.zarr").mkdir()
    in_process(case, shard=2, rank=0, world_size=2)
    assert (case.out / "rock_sr.png").exists() and (case.out / "rock_sr.tif").exists()
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert not list(case.out.rglob("*.partial")) and not list(case.out.glob(".partial*"))
    assert (tifffile.imread(case.out / "rock_sr.tif") != super_resolved(case, case.labels)).mean() < 1e-3


def test_what_a_killed_run_left_of_other_formats_goes_with_the_next(case):
    """Also of a format that is no longer asked for; not what may be of another process that writes now, even where this one found all there, nor
    of another volume."""
    left = [case.out / f".partial-0123456789ab-rock_sr{end}" for end in (".tif", ".mhd", ".raw", ".json", ".png", "_provenance.json")]
    others = [case.out / f".partial-0123456789ab-{name}" for name in ("a-rock_sr.tif", "rock_sr_sr.tif", "rock.tif")]
    in_process(case, shard=2, rank=0, world_size=2)
    for path in [*left, *others]:
        path.write_text("half")
    in_process(case, shard=2, rank=1, world_size=2)
    assert (case.out / "rock_sr.tif").exists() and all(path.exists() for path in left)
    in_process(case, shard=2, rank=0, world_size=2)
    assert all(path.exists() for path in [*left, *others])
    in_process(case, shard=2)
    assert sorted(case.out.glob(".partial*")) == sorted(others)
    left[0].write_text("half")
    in_process(case, shard=2, uncertainty=2)  # alone, also where it has made something
    assert sorted(case.out.glob(".partial*")) == sorted(others)


def test_when_all_was_there_before_the_first_process_writes_what_lacks(case):
    in_process(case, shard=2)
    (case.out / "rock_sr.png").unlink()
    in_process(case, shard=2, rank=1, world_size=2)
    assert not (case.out / "rock_sr.png").exists()
    in_process(case, shard=2, rank=0, world_size=2)
    assert (case.out / "rock_sr.png").exists()


def test_probabilities_uncertainty_and_trust(case, tmp_path):
    Trust(PHASES, np.full((len(PHASES), 2, 4), 0.7)).save(tmp_path / "chances.json")
    done = command(case, probabilities=True, uncertainty=3, trust_file=tmp_path / "chances.json", core=None, amp=None)
    assert done.returncode == 0, done.stderr
    names = {f"rock_sr{what}.ome.zarr" for what in ("", "_probabilities", "_uncertainty", "_majority", "_trust")}
    assert names < {p.name for p in case.out.iterdir()}
    assert (read_volume(case.out / "rock_sr_trust.ome.zarr").array == 70).all()
    percent = read_volume(case.out / "rock_sr_uncertainty.ome.zarr")
    assert percent.voxel_size == pytest.approx([3.5 / 8] * 3) and 0 < percent.array.mean() < 100
    record = json.loads((case.out / "rock_sr_provenance.json").read_text())
    assert record["settings"]["uncertainty"] == 3 and record["settings"]["precision"] in ("bfloat16", "float32")
    # The record beside the TIFF tells the stores of the same inference from those of another.
    whole = Place(SHAPE, tuple(slice(0, n) for n in SHAPE), 8, tuple(8 * n for n in SHAPE))
    for what in ("uncertainty", "trust"):
        assert open_percent(None, what, case.out / "rock_sr.tif", case.out, whole) is not None
    record["fingerprint"]["seed"] = 1
    (case.out / "rock_sr_provenance.json").write_text(json.dumps(record))
    assert open_percent(None, "trust", case.out / "rock_sr.tif", case.out, whole) is None


def test_single_precision_by_the_command_line(case):
    done = command(case, amp="false", probabilities="false")
    assert done.returncode == 0, done.stderr
    assert json.loads((case.out / "rock_sr_provenance.json").read_text())["settings"]["precision"] == "float32"
    assert not (case.out / "rock_sr_probabilities.ome.zarr").exists()


def test_stopped_at_a_coarser_level(case):
    """Voxels of 3.5 / 2 µm by the command line; oracle: the network without its further levels, on the volume in memory."""
    done = command(case, output_scale=2, output_ext=".tif")
    assert done.returncode == 0, done.stderr
    volume = read_volume(case.out / "rock_sr.tif")
    assert volume.voxel_size == pytest.approx([1.75] * 3)
    case.network.stop_at(2)
    np.testing.assert_array_equal(volume.array, super_resolved(case, case.labels))
    assert json.loads((case.out / "rock_sr_provenance.json").read_text())["settings"]["scale_factor"] == 2


def test_each_process_takes_a_gpu_of_its_own(case, monkeypatch):
    """The fourth process of a machine with two GPUs takes the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    parser = ConfigParser()
    parser.read_config(case.config)
    assert parser.get_parsed_content("device") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parser = ConfigParser()
    parser.read_config(case.config)
    assert parser.get_parsed_content("device") == torch.device("cpu")


@pytest.mark.parametrize(("device", "sharing"), [("cpu", 5), (torch.device("cpu"), 5), ("cuda:1", 3), (None, 3)])  # None: as the config has it
def test_memory_is_shared_by_the_processes_on_the_same_device(case, monkeypatch, device, sharing):
    """Five on a machine with two GPUs, three of them on the first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    parser = ConfigParser()
    parser.read_config(case.config)
    if device:
        parser["device"] = device
    assert parser.get_parsed_content("window").processes == sharing


def float_volume(folder: Path) -> None:
    tifffile.imwrite(folder / "rock.tif", np.full(SHAPE, np.nan, np.float32), photometric="minisblack")


def unknown_label(folder: Path) -> None:
    tifffile.imwrite(folder / "rock.tif", np.full(SHAPE, 9, np.uint8), photometric="minisblack")


def truncated(folder: Path) -> None:
    content = (folder / "rock.tif").read_bytes()
    (folder / "rock.tif").write_bytes(content[: len(content) // 2])


def corrupt_model(folder: Path) -> None:
    (folder / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:1000])


def nothing(folder: Path) -> None:
    (folder / "file").write_text("")


def long(folder: Path) -> None:
    tifffile.imwrite(folder / "rock.tif", np.zeros((2, 1, 4097), np.uint8), photometric="minisblack")


BAD = {
    "volume missing": (nothing, {"lr_image": "{}/no.tif"}, "no.tif: no such file"),
    "several volumes": (nothing, {"lr_image": ["a.tif", "b.tif"]}, "lr_image: ['a.tif', 'b.tif']; one volume is read at a time: give one path"),
    "volume truncated": (truncated, {}, "rock.tif: "),
    "NaN": (float_volume, {"lr_voxel_size": 3.5}, "NaN"),
    "unknown label": (unknown_label, {"lr_voxel_size": 3.5}, "lr_labels"),
    "region outside": (nothing, {"lr_region": [[0, 4], [0, 4], [0, 7]]}, "lr_region"),
    "region no region": (nothing, {"lr_region": [4, 4, 4]}, "lr_region"),
    "voxel size forgotten": (nothing, {"lr_voxel_size": True}, "lr_voxel_size: True is not a voxel size"),
    "voxel size no size": (nothing, {"lr_voxel_size": -1}, "lr_voxel_size"),
    "ratio": (nothing, {"hr_voxel_size": 0.5}, "7 times the HR pixels (0.5 µm), but scale_factor is 8"),
    "ratio of pixels": (nothing, {"hr_voxel_size": [0.4375, 0.5]}, "8 x 7 times the HR pixels (0.4375 x 0.5 µm), but scale_factor is 8"),
    "model missing": (nothing, {"model_file": "{}/no.pt"}, "no.pt: no such file"),
    "model corrupt": (corrupt_model, {}, "damaged or incomplete"),
    "model of another network": (nothing, {"network_def#channels": [5, 3, 2, 2]}, "another network than network_def"),
    "model of other phases": (nothing, {"phases": ["pore", "a", "b", "c"]}, "trained with phases"),
    "model of another scale": (nothing, {"scale_factor": 4}, "scale_factor is 4"),
    "no such level": (nothing, {"output_scale": 6}, "output_scale: no level of the model makes voxels 6 times finer; give 2, 4, 8 or null (on the command line '$None')"),
    "core": (nothing, {"core": 0}, "core"),
    "shard": (nothing, {"shard": 0}, "shard"),
    "format": (nothing, {"output_ext": ".png"}, "output_ext .png: format .png is not written"),
    "axis of NIfTI": (long, {"lr_voxel_size": 3.5, "output_ext": ".nii"}, "NIfTI holds 32767"),
    "seeds": (nothing, {"uncertainty": 1}, "uncertainty"),
    "output folder": (nothing, {"output_dir": "{}/file/out"}, "cannot be written"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_written(case, name, monkeypatch):
    spoil, changes, words = BAD[name]
    spoil(case.folder)
    changes = {k: v.format(case.folder) if isinstance(v, str) else v for k, v in changes.items()}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the workflow sets it
    before = sorted(case.folder.rglob("*"))
    with pytest.raises(Exception) as caught:
        in_process(case, **changes)
    message = find_input_error(caught.value)
    assert message and words in message and "\n" not in message
    assert sorted(case.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["volume missing", "several volumes", "model of other phases", "output folder"])
def test_bad_input_by_the_command_line(case, name):
    spoil, changes, words = BAD[name]
    spoil(case.folder)
    before = sorted(case.folder.rglob("*"))
    done = command(case, **{k: v.format(case.folder) if isinstance(v, str) else v for k, v in changes.items()})
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and words in last
    assert "Traceback" not in done.stderr + done.stdout and done.stderr.count("error:") == 1
    assert sorted(case.folder.rglob("*")) == before
