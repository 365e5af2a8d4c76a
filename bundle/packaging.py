"""The folder that the MONAI model zoo takes, and its zip: the bundle without tests and without what Git alone needs."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from monai.bundle import ConfigParser

from bundle.errors import InputError
from bundle.inference import check_output_dir
from bundle.io.atomic import atomic_path
from bundle.provenance import ROOT, sha256

logger = logging.getLogger(__name__)

NAME = "rock_microct_super_resolution"
PARTS = ("LICENSE", "pyproject.toml", "constraints.txt", "bundle", "configs", "docs", "models", "scripts")
NEEDED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md", "docs/data_license.txt")
LARGEST = 25 * 10**6  # bytes of a file in the zoo's repository
OF_A_PERSON = re.compile(r"(?:/home/|/Users/|/root/|/work/|[A-Z]:\\Users)\w+")
TEXT = {".py", ".yaml", ".json", ".md", ".txt", ".toml", ".conf", ".css", ".js", ".cff", ".ipynb"}


def package(output: Path, root: Path = ROOT, exports: bool = False, url: str | None = None) -> Path:
    """Write `<output>/<NAME>/` and `<output>/<NAME>.zip`, of a Git checkout with the files that Git tracks alone.

    Beside the YAML of training and inference lies the same as JSON, as `monai.bundle.load` asks for `configs/train.json` or `configs/inference.json`.

    Args:
        output: folder; what it holds under these two names is replaced.
        root: of the bundle.
        exports: adds `models/model.ts` and `models/model.onnx`; needs the extra `export`.
        url: folder on the network of files over 25 MB, which are left out of the package and listed in `large_files.yml`.

    Returns:
        the folder.

    Raises:
        InputError: something that the zoo asks for is missing, or a file is too large and there is no `url`.
    """
    folder, tracked = output / NAME, _tracked(root)
    unwanted = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")

    def ignored(source: str, names: Iterable[str]) -> set[str]:
        usual = unwanted(source, names)
        unknown = {name for name in names if tracked and Path(source, name).relative_to(root) not in tracked} - usual
        for name in sorted(unknown):
            logger.warning("%s: not packed, as Git does not track it", Path(source, name))
        return usual | unknown

    check_output_dir(output)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as beside:
        partial = Path(beside) / NAME
        partial.mkdir()
        there = [part for part in PARTS if (root / part).exists()]
        for part in sorted(set(there) - ignored(str(root), there)):
            if (root / part).is_dir():
                shutil.copytree(root / part, partial / part, ignore=ignored)
            else:
                shutil.copy2(root / part, partial / part)
        for name in ("train", "inference"):
            config = ConfigParser.load_config_file(str(partial / "configs" / f"{name}.yaml"))
            (partial / "configs" / f"{name}.json").write_text(json.dumps(config, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
        if exports:
            from bundle.exports import export_onnx, export_torchscript

            export_torchscript(partial / "configs" / "inference.yaml", partial / "models" / "model.pt", partial / "models" / "model.ts")
            export_onnx(partial / "configs" / "inference.yaml", partial / "models" / "model.pt", partial / "models" / "model.onnx")
        _leave_out_large(partial, url)
        found = problems(partial)
        if found:
            raise InputError(f"{root}: cannot be packaged: {'; '.join(found)}")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    _zip(folder, output / f"{NAME}.zip")
    return folder


def problems(folder: Path) -> list[str]:
    """What the zoo would refuse in a packaged folder, a line each: missing files, versions that do not fit, large files, somebody's paths, tests."""
    listed = folder / "large_files.yml"
    elsewhere = {entry["path"] for entry in yaml.safe_load(listed.read_text(encoding="utf-8"))["large_files"]} if listed.is_file() else set()
    found = [f"{name} is missing" for name in NEEDED if not (folder / name).is_file() and name not in elsewhere]
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    version = str(metadata.get("version", ""))
    if version not in metadata.get("changelog", {}):
        found.append(f"configs/metadata.json: changelog does not tell of version {version}")
    if not re.fullmatch(r"\d\.\d\.\d", version):
        found.append(f"configs/metadata.json: version {version} is not of the form 1.2.3 with one digit each, and the zoo sorts versions as texts")
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if file.stat().st_size > LARGEST:
            found.append(f"{name} has {file.stat().st_size / 1e6:.0f} MB, more than 25")
        if name.split("/")[0] == "tests":
            found.append(f"{name} is a test")
        if file.suffix in TEXT and name != "bundle/packaging.py":
            person = OF_A_PERSON.search(file.read_text(encoding="utf-8"))
            if person:
                found.append(f"{name} names a path of a machine ({person[0]})")
    return found


def _tracked(root: Path) -> set[Path]:
    """Files that Git tracks under a folder, and the folders that hold them; none where it is no checkout, or there is no Git."""
    try:
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, encoding="utf-8", check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return set()
    files = {Path(name) for name in listed.split("\0") if name}
    return files.union(*(file.parents for file in files))


def _leave_out_large(folder: Path, url: str | None) -> None:
    """Takes files over 25 MB out of the folder and lists them, as `monai.bundle.download_large_files` reads it."""
    entries = []
    for file in [file for file in _files(folder) if file.stat().st_size > LARGEST]:
        name = file.relative_to(folder).as_posix()
        if url is None:
            raise InputError(f"{name} has {file.stat().st_size / 1e6:.0f} MB, more than 25: give --url, the folder on the network where it will lie")
        entries.append({"path": name, "url": f"{url.rstrip('/')}/{file.name}", "hash_val": sha256(file), "hash_type": "sha256"})
        file.unlink()
    if entries:
        (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False), encoding="utf-8")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _zip(folder: Path, path: Path) -> None:
    """The same bytes for the same files: in order, without times."""
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _files(folder):
            entry = zipfile.ZipInfo((Path(folder.name) / file.relative_to(folder)).as_posix())
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, file.read_bytes())
