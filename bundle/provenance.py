"""Where a result comes from: checksums, versions, processor, commit; and the record beside trained weights."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from ignite.engine import Engine, Events

from bundle.errors import InputError
from bundle.io import write_text
from bundle.io.images import image_files
from bundle.io.labels import labels_sha256

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
METADATA = ROOT / "configs" / "metadata.json"


def sha256(path: str | Path) -> str:
    """Checksum of a file, or of the names and the checksums of all files of a folder (OME-Zarr), hexadecimal."""
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str | None]:
    """Of the bundle and of what it computes with."""
    return {
        "bundle": json.loads(METADATA.read_text(encoding="utf-8"))["version"] if METADATA.is_file() else None,
        "monai": monai.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """Name of the processor and its cores, as far as the system says."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{names[0] if names else platform.processor()}, {len(names) or 'unknown number of'} cores"


def commit() -> str | None:
    """Of the repository that the bundle lies in, with a + where files differ from it; None outside a repository."""
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def ancestor(path: str | Path) -> dict[str, Any]:
    """The file that a training starts from: name, checksum and, where its record lies beside it, how long it was trained and from what."""
    path = Path(path)
    found: dict[str, Any] = {"file": path.name, "sha256": sha256(path)}
    beside = path.with_name("model.json") if path.name == "checkpoint.pt" else path.with_suffix(".json")
    known = read_record(beside)
    return found | {key: known[key] for key in ("commit", "generator_steps", "hours", "started_from") if key in known}


def read_record(path: Path) -> dict[str, Any]:
    """What a record says; empty where there is none, or a file that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class TrainingRecord:
    """Writes a JSON beside the weights, and beside each snapshot, at the end of every epoch: data, settings, commit, seed, steps, hours and hardware.

    A training that is resumed goes on with its record: what it started from, and under `resumed` which settings and commit it had until which epoch, where
    they were others.

    Args:
        path: of the JSON.
        data: file names by entry, as `training_files` gives them; only names and checksums are noted, no folders.
        settings: of the config, to be noted.
        checkpoint: the `TrainingCheckpoint`, which counts the seconds over resumed runs and knows the snapshot; put it before this handler.
        start: the file that the training starts from, if any.
        labels: (z, y, x), what the training sees of the scan: their checksum does not depend on the format, whose header may name another file.
    """

    def __init__(
        self,
        path: str | Path,
        data: Mapping[str, Any],
        settings: Mapping[str, Any],
        checkpoint: Any,
        start: str | Path | None = None,
        labels: np.ndarray | None = None,
    ):
        self.path, self.data, self.settings, self.checkpoint, self.start = Path(path), data, dict(settings), checkpoint, start
        self.labels = labels

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.STARTED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        """Notes what stays the same over the epochs.

        Raises:
            InputError: a training that is resumed learned from other files until now.
        """
        files = {entry: image_files(paths) if entry != "image" else [Path(paths)] for entry, paths in self.data.items()}
        data = {entry: [{"file": path.name, "sha256": sha256(path)} for path in paths] for entry, paths in files.items()}
        if self.labels is not None:
            data["image"][0]["labels_sha256"] = labels_sha256(self.labels)
        before = read_record(self.path) if engine.state.iteration else {}  # of the run that this one resumes
        learned = before.get("data", data)
        for entry in {**learned, **data}:  # one set of images and one a plane have entries of their own
            known, found = learned.get(entry, []), data.get(entry, [])
            if all(_checksums(known, kind) != _checksums(found, kind) for kind in ("sha256", "labels_sha256")):
                names = (", ".join(item["file"] for item in files) or f"no images of {entry}" for files in (known, found))
                raise InputError(
                    "resume: until now the training learned from other data ({}) than is given ({}); give the same files, or begin a new one in another "
                    "output_dir with start_from".format(*names)
                )
        # a training that is resumed has its weights from its checkpoint, whatever start_from names by now
        started = before.get("started_from") if before else ancestor(self.start) if self.start else None
        made_at = commit()
        resumed = self._resumed(before, made_at)
        self.fixed = {
            "data": data,
            **({"started_from": started} if started else {}),
            **({"resumed": resumed} if resumed else {}),
            "settings": self.settings,
            "commit": made_at,
            "versions": versions(),
            "hardware": torch.cuda.get_device_name() if engine.state.device.type == "cuda" else processor(),
        }

    def _resumed(self, before: Mapping[str, Any], made_at: str | None) -> list[dict[str, Any]]:
        """What was otherwise until now, by run; a warning where it is the settings."""
        told = list(before.get("resumed", []))
        now = json.loads(json.dumps(self.settings, default=str))
        former = {name: value for name, value in before.get("settings", {}).items() if now.get(name) != value}
        if former.keys() - {"max_epochs"}:  # a training may be made longer
            changes = ", ".join(f"{name} {value}, now {now.get(name)}" for name, value in former.items())
            logger.warning("resumed with other settings than until epoch %s: %s", before.get("epochs"), changes)
        if before and (former or before.get("commit") != made_at):
            told.append({"epochs": before.get("epochs"), "commit": before.get("commit"), "settings": former})
        return told

    def _write(self, engine: Engine) -> None:
        steps = {
            "epochs": engine.state.epoch,
            "iterations": engine.state.iteration,
            "generator_steps": engine.generator_steps,
            "hours": round(self.checkpoint.seconds / 3600, 3),
        }
        for path in (self.path, *([self.checkpoint.snapshot.with_suffix(".json")] if self.checkpoint.snapshot else [])):
            write_text(path, json.dumps({**self.fixed, **steps}, indent=2, default=str) + "\n")


def _checksums(files: list[dict[str, str]], kind: str) -> list[str | None]:
    """Of files, in order: of one kind, or of the bytes where that was not noted."""
    return [file.get(kind, file["sha256"]) for file in files]
