"""Fixtures of every test: where the bundle, its sample and, on a developer's machine, the real data are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: workers side by side share the cores, one each, and so do the commands that they run
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The repository root, which is the bundle root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real rocks, beside the checkout; the test skips where it is absent."""
    folder = ROOT / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data are not on this machine (../shared/data)")
    return folder.resolve()


@pytest.fixture(scope="session")
def sample_paths() -> dict[str, Path]:
    """The shipped sample's files: 'lr' (64^3 voxels of 3.5 µm) and 'hr' (4 images of 512^2 pixels of 0.4375 µm)."""
    return {name: ROOT / "docs" / "sample" / f"{name}.tif" for name in ("lr", "hr")}


@pytest.fixture
def sample(sample_paths: dict[str, Path]) -> dict[str, np.ndarray]:
    """The shipped sample's labels, read by tifffile: 'lr' (z, y, x) and 'hr' (image, y, x), uint8 0 to 3."""
    return {name: tifffile.imread(path) for name, path in sample_paths.items()}
