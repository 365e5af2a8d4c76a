"""Settings that cannot be end in one line before anything is read or written, by the table and by the configs that hand theirs over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from bundle.errors import InputError, find_input_error
from bundle.settings import SETTINGS, check

ELSEWHERE = {  # what is read, made or drawn says what is wrong with these
    "lr_image", "hr_images", "lr_labels", "hr_labels", "lr_voxel_size", "hr_voxel_size", "lr_region", "scale_factor", "gates_file", "accept_failed",
    "symmetries", "output_dir", "resume", "parallel", "amp", "compile", "checkpointing", "hard_labels", "match_phase", "held_out", "crops_per_plane",
    "separate_planes", "coarsening", "ada",
}  # fmt: skip


@pytest.fixture
def parse(bundle_root, tmp_path, monkeypatch) -> Callable[..., ConfigParser]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the workflows set their own

    def build(files: list[str], **overrides: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(bundle_root / "configs" / name) for name in files])
        parser.update({"bundle_root": str(bundle_root), "output_dir": str(tmp_path / "out")} | overrides)
        return parser

    return build


def line_of(parser: ConfigParser, run: str) -> str:
    """The one line that the command ends with."""
    with pytest.raises(Exception) as caught:
        parser.get_parsed_content(run)
    message = find_input_error(caught.value)
    assert message, caught.value
    return message


SPOILING = [  # taken without a word before, or an exit code of 0
    ("tolerance", 45, "a share, 0 to 1"), ("costs", {"pore": {"clay": 80}}, "costs: pore: clay: 80; give a cost, 0 to 1"),
    ("ema_decay", 2.0, "a share"), ("decay", -1, "a share"), ("noise_std", -1, "0 or more"), ("slices_per_plane", -3, "1 or more"),
    ("rim_share", 50, "a share"),
    ("hidden", {"quartz": ["feldspar"]}, "a table of a name"), ("phases", ["pore", "quartz", "pore", "clay"], "has pore twice"),
    ("phases", "clay", "a list of names"), ("epoch_length", 0, "1 or more"),
]  # fmt: skip
TRACEBACKS = [
    ("seed", -1, "a whole number"), ("seed", "abc", "a whole number"), ("seed", 2.0, "a whole number"), ("batch_size", 0, "1 or more"),
    ("batch_size", 16.0, "a whole number"), ("device", "cuda:99", "is not there"), ("device", "gpu", "is not there"), ("max_epochs", 0, "1 or more"),
    ("watch_interval", -1, "0 or more"), ("boxes", 8, "a list of edges"), ("boxes", [], "a list of edges"), ("boxes", [14, 7.5, 5], "a whole number"),
    ("grain_radius", 0, "1 or more"), ("buffer_slices", 0, "1 or more"), ("border", -1, "0 or more"), ("n_critic", 0, "1 or more"),
    ("costs", {"pore": 0.5}, "a table of costs"), ("rims", ["clay"], "a table of a name"), ("slices_per_plane", 0, "1 or more"),
    ("max_grad_norm", "null", "null is a text here; give null (on the command line '$None')"), ("start_from", "null", "'$None'"),
    ("betas", 0.9, "Adam"), ("betas", [0.5, 1], "two shares"), ("g_learning_rate", "1e-4", "a learning rate"), ("seen", "clay", "a list of names"),
    ("lr_phases", "null", "'$None'"), ("start_phases", "solid", "a table of a name"), ("lone_voxels", 2, "neither true nor false"),
    ("start_phases", {"quartz": "solid"}, "give start_from"),
    ("consistency_weight", float("inf"), "a weight"),
    ("patch_weight", True, "a weight"),
]  # fmt: skip
IMAGES = [
    ("mixing", 3, "a share"), ("cutout", 2, "a share"), ("rotation", -5, "0 to 180"), ("channels", 0, "1 or more"),
    ("resolution", "32", "a whole number"), ("batch_size", 2.5, "a whole number"), ("batch_size", 0, "1 or more"), ("max_epochs", 0, "1 or more"),
    ("seed", -1, "a whole number"),
    ("watch_interval", -1, "0 or more"), ("epoch_length", 0, "1 or more"), ("phases", "clay", "a list of names"), ("start_from", "null", "'$None'"),
    ("device", "cuda:99", "is not there"),
]  # fmt: skip
STACK = [("seed", -1, "a whole number"), ("seed", "abc", "a whole number"), ("truncation", "x", "a share"), ("channels", 0, "1 or more"),
         ("device", "cuda:99", "is not there")]  # fmt: skip
INFERENCE = [("device", "cuda:99", "is not there"), ("device", "gpu", "is not there"), ("phases", "clay", "a list of names"), ("lr_phases", "clay", "a list of")]


@pytest.mark.parametrize(
    ("config", "run", "name", "value", "words"),
    [("train.yaml", "training", *case) for case in SPOILING + TRACEBACKS]
    + [("hr_synthesis.yaml", "training", *case) for case in IMAGES]
    + [("hr_synthesis_inference.yaml", "inference", *case) for case in STACK]
    + [("inference.yaml", "inference", *case) for case in INFERENCE],
)
def test_a_setting_that_cannot_be_is_one_line_and_nothing_is_written(parse, tmp_path, config, run, name, value, words):
    message = line_of(parse([config], **{name: value}), run)
    assert message.startswith(f"{name}: ") and words in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train.yaml", "critics.yaml", "patches_and_critics.yaml", "paper.yaml", "mse_only.yaml", "zero_noise.yaml"])
def test_what_the_configs_set_can_be(parse, name):
    check(parse(["train.yaml", name]).get_parsed_content("settings"))


def test_what_else_can_be():
    check({"slices_per_plane": None, "max_grad_norm": None, "hidden": {}, "rims": None, "seen": [], "costs": {}, "buffer_volumes": 0, "ema_decay": 1,
           "lone_voxels": "true", "device": torch.device("cpu"), "unknown": "of another module"})  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "spelt"),
    [("hidden", {"quartz": "Solid"}, "quartz"), ("rims", {"clay": "Pore", "Solid": "pore"}, "pore"), ("seen", ["clay", "SOLID"], "SOLID"),
     ("costs", {"Pore": {"clay": 0.8}, "clay": {"solid": 0.5}}, "solid")],
)  # fmt: skip
def test_a_phase_spelt_with_other_capitals_is_told(name, value, spelt):
    """It would be taken for a phase of other rocks, and passed over."""
    with pytest.raises(InputError, match=f"^{name}: {spelt}, but the phases are Pore, Quartz, Solid; write names alike$"):
        check({"phases": ["Pore", "Quartz", "Solid"], name: value})


def test_names_of_other_rocks_are_passed_over():
    """The defaults of train.yaml serve them, too."""
    check({"phases": ["pore", "solid"], "hidden": {"Quartz": "feldspar"}, "rims": None, "seen": ["solid", "mica"], "costs": {"clay": {"pore": 0.5}}})


@pytest.mark.parametrize(("config", "end"), [("train.yaml", "levels"), ("hr_synthesis.yaml", "settings")])
def test_every_setting_is_in_the_table_or_checked_elsewhere(parse, config, end):
    parser = parse([config])
    names = list(parser.config)
    given = set(names[names.index("phases") : names.index(end)]) | {"boxes"} & set(names)
    assert given - set(SETTINGS) <= ELSEWHERE and not ELSEWHERE & set(SETTINGS)
    handed = set(parser["settings"]) | {name for step in parser["training"] for name in SETTINGS if f"'{name}': @{name}" in step}
    assert given & set(SETTINGS) <= handed and all(value == f"@{name}" for name, value in parser["settings"].items())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("crops_per_plane", 0, "crops_per_plane: 0; give a whole number")]
    + [(name, "null", "null (on the command line '$None')") for name in ("match_phase", "lr_region", "lr_labels", "gates_file")],
)
def test_what_is_checked_where_it_is_used(parse, tmp_path, name, value, words):
    assert words in line_of(parse(["train.yaml"], **{name: value}), "training")
    assert not (tmp_path / "out").exists()


def test_the_command_ends_in_the_line_wherever_the_bundle_is(bundle_root, tmp_path):
    """Also where no path leads to the bundle before MONAI has set it: the seed was drawn before."""
    code = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
sys.path[:] = [path for path in sys.path if not path or {str(bundle_root)!r} != path.rstrip("/")]
from monai.bundle import run
run(run_id="training", config_file={str(bundle_root / "configs" / "train.yaml")!r}, seed="abc", output_dir={str(tmp_path / "out")!r})
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "out").exists(), done.stderr[-2000:]
    assert done.stderr.strip().splitlines()[-1].startswith("error: seed: abc; give a whole number of any size")
