"""README promises files: they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = ["README.md", "docs/README.md"]
FOLDERS = r"(?:configs|docs|scripts|models|bundle|tests|\.ci)"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_a_page_names_exists(page: str, bundle_root: Path):
    text = re.sub(r"--(filepath|output_dir)\s+\S+", "", (bundle_root / page).read_text())  # what a command makes is not there yet
    named = set(re.findall(rf"(?<![\w/.]){FOLDERS}/[\w./-]*\w", text)) | {"pyproject.toml", "constraints.txt"}
    assert any(name.startswith("configs/") for name in named)
    missing = sorted(name for name in named if not (bundle_root / name).exists())
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str, bundle_root: Path):
    links = re.findall(r"\]\(([^)#]+)", (bundle_root / page).read_text())
    local = [link for link in links if "://" not in link]
    missing = sorted(link for link in local if not ((bundle_root / page).parent / link).exists())
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_config_file_of_a_page_exists(page: str, bundle_root: Path):
    commands = re.findall(r"--config_file\s+(\"\[[^\]]*\]\"|\S+)", (bundle_root / page).read_text())
    configs = {name for command in commands for name in re.findall(r"[\w./-]+\.ya?ml", command)}
    assert configs
    missing = sorted(name for name in configs if not (bundle_root / name).exists())
    assert not missing
