"""The folder for the model zoo: what its CI asks of a bundle, asked of the packaged one; and that it works where it was downloaded to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import tifffile
import torch
import yaml
from monai.bundle import ConfigParser, download, verify_metadata, verify_net_in_out

from bundle import packaging
from bundle.errors import InputError
from bundle.packaging import NAME, package, problems
from tests.test_synthesis_workflow import TINY as TINY_IMAGES
from tests.test_training_workflow import TINY
from tests.test_zoo import SCHEMA_MD5


@pytest.fixture(scope="module")
def packaged(tmp_path_factory) -> Path:
    return package(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def downloaded(packaged, tmp_path_factory) -> Path:
    """As a user gets it: by MONAI's command, from the zip."""
    folder = tmp_path_factory.mktemp("zoo")
    download(name=NAME, url=packaged.with_suffix(".zip").as_uri(), bundle_dir=str(folder), progress=False)
    return folder / NAME


def elsewhere(bundle: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs Python in a folder, with the modules of the downloaded bundle before those of the checkout."""
    environment = os.environ | {"PYTHONPATH": str(bundle)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_it_holds_what_the_zoo_asks_for(packaged):
    assert problems(packaged) == []
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "configs/logging.conf", "models/model.pt", "docs/README.md",
                 "docs/data_license.txt", "docs/sample/lr.tif", "bundle/report.css", "bundle/networks/generator.py", "scripts/experiments.py"):  # fmt: skip
        assert (packaged / name).is_file(), name
    assert not [path for path in packaged.rglob("*") if path.name in ("tests", "__pycache__", ".git", ".ci") or path.name.startswith(".")]
    assert sum(path.stat().st_size for path in packaged.rglob("*") if path.is_file()) < 25e6
    assert "_v" not in NAME


def test_metadata_follows_the_official_schema(packaged, bundle_root):
    pytest.importorskip("jsonschema")
    schema = bundle_root / ".." / "shared" / "zoo" / "meta_schema_20240725.json"
    if not schema.exists():
        pytest.skip("the official schema is not on this machine (../shared/zoo) and tests do not download")
    verify_metadata(str(packaged / "configs" / "metadata.json"), filepath=schema.resolve(), hash_val=SCHEMA_MD5)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_packaged_network_takes_and_gives_what_its_metadata_says(packaged, suffix):
    config, meta = packaged / "configs" / f"inference.{suffix}", packaged / "configs" / "metadata.json"
    verify_net_in_out("network_def", meta_file=str(meta), config_file=str(config), device="cpu", bundle_root=str(packaged))


@pytest.mark.parametrize("name", ["train", "inference"])
def test_the_json_says_what_the_yaml_says(packaged, name):
    assert ConfigParser.load_config_file(str(packaged / "configs" / f"{name}.json")) == ConfigParser.load_config_file(
        str(packaged / "configs" / f"{name}.yaml")
    )


def test_a_zip_of_the_same_files_has_the_same_bytes(packaged, tmp_path):
    package(tmp_path)
    assert (tmp_path / f"{NAME}.zip").read_bytes() == packaged.with_suffix(".zip").read_bytes()
    with zipfile.ZipFile(tmp_path / f"{NAME}.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {NAME}
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, f"{NAME}.zip"]


def test_monai_loads_the_downloaded_model(downloaded, tmp_path):
    script = (
        "import sys, torch; from monai.bundle import load; "
        f"net = load({NAME!r}, bundle_dir={str(downloaded.parent)!r}, workflow_type='inference', key_in_ckpt='model', device='cpu'); "
        "torch.save(net.state_dict(), 'state.pt'); print('from', sys.modules[type(net).__module__].__file__)"
    )
    done = elsewhere(downloaded, tmp_path, "-c", script)
    assert done.returncode == 0, done.stderr
    assert f"from {downloaded / 'bundle' / 'networks' / 'generator.py'}" in done.stdout
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    expected = torch.load(downloaded / "models" / "model.pt", weights_only=True)["model"]
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def test_the_downloaded_bundle_super_resolves_its_sample(downloaded):
    words = ["-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.yaml", "--lr_region", "[[0,4],[0,4],[0,4]]"]
    done = elsewhere(downloaded, downloaded, *words)
    assert done.returncode == 0, done.stderr
    record = json.loads((downloaded / "eval" / "lr_sr_provenance.json").read_text())
    assert record["result"]["shape"] == [32, 32, 32] and Path(record["model"]["file"]) == downloaded / "models" / "model.pt"


@pytest.mark.parametrize(
    ("run", "config", "settings"),
    [
        ("training", "train.yaml", TINY),
        ("inference", "inference.yaml", {"lr_region": [[0, 4]] * 3}),
        ("evaluating", "evaluate.yaml", {"lr_region": [[0, 16]] * 3, "sr_image": "sr.tif"}),
        ("training", "hr_synthesis.yaml", TINY_IMAGES | {"max_epochs": 1}),
    ],
)
def test_outputs_stay_under_output_dir(downloaded, tmp_path, monkeypatch, run, config, settings):
    """Neither the bundle nor the folder where the command is given is touched."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    sr = tifffile.imread(downloaded / "docs" / "sample" / "lr.tif")[:16, :16, :16].repeat(8, 0).repeat(8, 1).repeat(8, 2)
    tifffile.imwrite(tmp_path / "sr.tif", sr)
    options = [f"--{key}={value}" for key, value in settings.items()]
    before = [(path, path.stat().st_mtime_ns) for path in sorted(downloaded.rglob("*"))]
    words = ["-m", "monai.bundle", "run", run, "--config_file", str(downloaded / "configs" / config), "--output_dir", "results", *options]
    done = elsewhere(downloaded, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert [(path, path.stat().st_mtime_ns) for path in sorted(downloaded.rglob("*"))] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "sr.tif"] and len(list((tmp_path / "results").iterdir())) > 1


def test_all_files_tell_one_version(bundle_root):
    version = json.loads((bundle_root / "configs" / "metadata.json").read_text())["version"]
    assert tomllib.loads((bundle_root / "pyproject.toml").read_text())["project"]["version"] == version
    assert yaml.safe_load((bundle_root / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (.*)$", (bundle_root / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


@pytest.fixture
def small(tmp_path) -> Path:
    """A bundle of the fewest files."""
    root = tmp_path / "small"
    for name in ("LICENSE", "models/model.pt", "docs/README.md", "docs/data_license.txt", "bundle/a.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")
    (root / "configs").mkdir()
    for name in ("train", "inference"):
        (root / "configs" / f"{name}.yaml").write_text("a: 1  # µm\n")
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0", "changelog": {"0.1.0": "first"}}))
    return root


@pytest.mark.parametrize("git", ["tracked", "nothing tracked", "no checkout", "no git"])
def test_of_a_checkout_what_git_tracks_is_packed(small, tmp_path, monkeypatch, caplog, git):
    """Weights of a trial or notes beside the bundle stay here; what the command makes itself goes along."""
    own = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.is_file()}
    if git != "no checkout":
        subprocess.run(["git", "-C", str(small), "init", "-q"], check=True)
    if git in ("tracked", "no git"):
        subprocess.run(["git", "-C", str(small), "add", "."], check=True)
    others = {"models/trial.pt", "docs/notes/a.md", "configs/train.json", "scripts/mine.py"}
    for name in others:
        (small / name).parent.mkdir(exist_ok=True)
        (small / name).write_text("{}")
    if git == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    folder = package(tmp_path / "dist", small)
    packed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert packed == own | {"configs/train.json", "configs/inference.json"} | (set() if git == "tracked" else others)
    assert json.loads((folder / "configs" / "train.json").read_text()) == {"a": 1}
    told = ("scripts", "configs/train.json", "docs/notes", "models/trial.pt") if git == "tracked" else ()
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [str(small / name) for name in told]


def test_large_files_are_left_out_and_listed(small, tmp_path, monkeypatch):
    monkeypatch.setattr(packaging, "LARGEST", 1000)
    (small / "models" / "large.bin").write_bytes(b"a" * 1001)
    with pytest.raises(InputError, match="models/large.bin .* give --url"):
        package(tmp_path / "dist", small)
    assert list((tmp_path / "dist").iterdir()) == []
    folder = package(tmp_path / "dist", small, url="https://example.org/files/")
    listed = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert [(one["path"], one["url"], one["hash_type"]) for one in listed] == [
        ("models/large.bin", "https://example.org/files/large.bin", "sha256")
    ]
    assert not (folder / "models" / "large.bin").exists() and (small / "models" / "large.bin").exists()
    (small / "models" / "model.pt").write_bytes(b"a" * 1001)  # which the zoo asks for: there, or listed
    folder = package(tmp_path / "dist", small, url="https://example.org/files/")
    listed = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert [one["path"] for one in listed] == ["models/large.bin", "models/model.pt"] and not (folder / "models" / "model.pt").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "docs" / "data_license.txt").unlink(), "docs/data_license.txt is missing"),
        (lambda root: (root / "bundle" / "a.py").write_text("path = '/home/somebody/data'"), "bundle/a.py names a path of a machine"),
        (lambda root: (root / "configs" / "metadata.json").write_text('{"version": "0.2.0", "changelog": {}}'), "does not tell of version 0.2.0"),
        (lambda root: (root / "configs" / "metadata.json").write_text('{"version": "0.10.0", "changelog": {"0.10.0": ""}}'), "sorts versions as texts"),
    ],
)
def test_what_the_zoo_would_refuse_is_not_packaged(small, tmp_path, change, words):
    kept = package(tmp_path / "dist", small)
    before = sorted(kept.rglob("*"))
    change(small)
    with pytest.raises(InputError, match=words):
        package(tmp_path / "dist", small)
    assert sorted(kept.rglob("*")) == before  # what was there stays
