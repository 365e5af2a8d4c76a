"""README promises files: they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/README.md"]
FOLDERS = r"(?:configs|docs|scripts|models|bundle|tests|\.ci)"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_a_page_names_exists(page: str, bundle_root: Path):
    text = re.sub(r"--(filepath|output_dir)\s+\S+", "", (bundle_root / page).read_text())  # what a command makes is not there yet
    named = set(re.findall(rf"(?<![\w/.]){FOLDERS}/[\w./-]*\w", text)) | {"pyproject.toml", "constraints.txt"}
    assert any(name.startswith("configs/") for name in named)
    missing = sorted(name for name in named if not (bundle_root / name).exists())
    assert not missing


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_link_of_a_page_leads_somewhere(page: str):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text())
    missing = []
    for link in links:
        if "://" in link:
            continue
        name, _, place = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (place and place not in places(path)):
            missing.append(link)
    assert not missing


def places(page: Path) -> set[str]:
    """What links may name behind the #: headings as GitHub writes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)  # of code a # is a comment
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_config_file_of_a_page_exists(page: str, bundle_root: Path):
    commands = re.findall(r"--config_file\s+(\"\[[^\]]*\]\"|\S+)", (bundle_root / page).read_text())
    configs = {name for command in commands for name in re.findall(r"[\w./-]+\.ya?ml", command)}
    assert configs
    missing = sorted(name for name in configs if not (bundle_root / name).exists())
    assert not missing
