"""README promises files: they exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bundle.arguments import check_arguments

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/README.md"]
ALL_PAGES = ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FOLDERS = r"(?:configs|docs|scripts|models|bundle|tests|\.ci)"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_a_page_names_exists(page: str, bundle_root: Path):
    text = re.sub(r"--(filepath|output_dir)\s+\S+", "", (bundle_root / page).read_text())  # what a command makes is not there yet
    named = set(re.findall(rf"(?<![\w/.]){FOLDERS}/[\w./-]*\w", text)) | {"pyproject.toml", "constraints.txt"}
    assert any(name.startswith("configs/") for name in named)
    missing = sorted(name for name in named if not (bundle_root / name).exists())
    assert not missing


@pytest.mark.parametrize("page", ALL_PAGES)
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
    kept = ["".join(c for c in heading.strip().lower() if c.isalpha() or c.isdecimal() or c in "-_ ") for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES)
def test_every_config_file_of_a_page_exists(page: str, bundle_root: Path):
    commands = re.findall(r"--config_file\s+(\"\[[^\]]*\]\"|\S+)", (bundle_root / page).read_text())
    configs = {name for command in commands for name in re.findall(r"[\w./-]+\.ya?ml", command)}
    assert configs
    missing = sorted(name for name in configs if not (bundle_root / name).exists())
    assert not missing


@pytest.mark.parametrize("page", [page for page in ALL_PAGES if page != "CHANGELOG.md"])
def test_every_setting_of_a_command_is_one(page: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "separator.yaml").write_text("{}")  # a user's own
    checked = 0
    for block in re.findall(r"^ *```(?:bash)?\n(.*?)^ *```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        variables = dict(match.groups() for line in lines if (match := re.fullmatch(r'(\w+)="(.*)"', line)))
        for line in lines:
            for command in re.findall(r"-m monai\.bundle (run .*?)(?:$|&&|>)", line):
                command = command.rstrip("'") if command.count("'") % 2 else command  # the end of bash -c '...'
                for name, value in reversed(variables.items()):
                    command = command.replace(f"${name}", value)
                check_arguments(["monai/bundle/__main__.py", *shlex.split(command, comments=True)])
                checked += 1
    assert checked or page == "docs/trials.md"
