"""What is written on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from bundle.arguments import check_arguments
from bundle.errors import InputError

PROGRAM = ["/somewhere/monai/bundle/__main__.py", "run", "training"]


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize(("given", "words"), [
    ({}, None), ({"lr_image": "a.tif", "hr_images": ["b.tif"]}, None),
    ({"lr_image": "a.tif"}, "hr_images: not given, so those of the shipped synthetic sample stand in; they are of another rock"),
    ({"hr_images": {"xy": "b.tif"}}, "lr_image: not given, so that of the shipped synthetic sample stands in; it is of another rock"),
])  # fmt: skip
def test_a_sample_that_stands_in_for_one_of_scan_and_images_is_told(bundle_root, caplog, name, given, words):
    """Each config as it is, with what is given."""
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / f"{name}.yaml"))
    parser.update(given)
    step = next(i for i, line in enumerate(parser["training" if name == "train" else "evaluating"]) if "warn_of_sample" in line)
    parser.get_parsed_content(f"{'training' if name == 'train' else 'evaluating'}#{step}")
    assert [record.getMessage() for record in caplog.records] == ([words] if words else [])


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / "first.yaml").write_text("max_epochs: 2\nnetwork_def: {channels: [1], blocks: 2}\nn: null\ncosts: {pore: {clay: 1}}\nlist: [{a: 1}]\nmade: $@x\n"
        "source: {_target_: bundle.io.source.LabelSource, path: a}\npart: {source: {_target_: bundle.io.source.LabelSource}}\n"
        "short: {_target_: Compose}\ncompiled: {_target_: torch.Generator}\n")  # fmt: skip
    (tmp_path / "second.yaml").write_text("critics: 1\n")
    (tmp_path / "args.yaml").write_text(f"config_file: {tmp_path / 'first.yaml'}\n")
    return str(tmp_path / "first.yaml")


def test_what_the_files_have_and_what_is_monais_is_taken(config):
    both = str([config, str(Path(config).with_name("second.yaml"))])
    check_arguments([*PROGRAM, "--config_file", both, "--max_epochs", "3", "--critics=2", "--logging_file", "a.conf", "--meta_file=b"])
    as_fire_takes_them = ["--max-epochs", "-3", "--network_def#channels", "[2]", "--network_def::anything=2", "--part::source::region=1"]
    check_arguments([*PROGRAM, f"--config_file={both}", *as_fire_takes_them])
    check_arguments([*PROGRAM, "-config_file", both, "-max-epochs", "-3", "--costs", "-1"])
    check_arguments([*PROGRAM[:2], "--config_file", both, "--critics", "1", "training"])  # fire finds what is to be run wherever it stands
    known = ["--source#region=1", "--source#_disabled_=1", "--list#0#a=2", "--costs#calcite#dolomite=1"]
    unknowable = ["--made#anything", "--made#any#thing=1", "--source#path#x=1", "--short#anything=1", "--compiled#anything=1"]
    check_arguments([*PROGRAM, f"--config_file={config}", *known, *unknowable])
    check_arguments([*PROGRAM, "--config_file", both.strip("[]").replace("'", "").replace(" ", ""), "--critics", "--max_epochs", "3"])  # MONAI parts them
    check_arguments([*PROGRAM, f"--config_file={config}", "--n", "", "--made="])  # no paths: empty may mean none
    check_arguments([*PROGRAM, "--args_file", str(Path(config).with_name("args.yaml")), "--max_epochs", "3"])


@pytest.mark.parametrize(("words", "message"), [
    (["--max_epoch", "3"], r"--max_epoch: {} has no such setting; did you mean max_epochs\?"),
    (["--max_epochs", "3", "--max-epoch=3"], r"--max_epoch: {} has no such setting; did you mean max_epochs\?"),
    (["--critics", "2"], r"--critics: {} has no such setting"), (["--network#channels", "[2]"], r"--network#channels: {} has no such"),
    (["--part#source#labels", "[2]"], r"--part#source#labels: {} has no such setting; did you mean n_labels\?"), (["--part#sauce#path=1"], "source"),
    (["--source#regoin=1"], r"--source#regoin: .* did you mean region\?"), (["--n#a=1"], "--n#a: "), (["--list#1#a=1"], "--list#1#a: "),
    (["--max_epochs#a=1"], "--max_epochs#a: "),
    (["-max_epoch", "3"], r"--max_epoch: {} has no such setting; did you mean max_epochs\?"), (["-max-epoch=3"], r"--max_epoch: {} has no such"),
    (["max_epochs=3"], "max_epochs=3: belongs to no setting; write --name value"), (["--max_epochs", "3", "4"], "4: belongs to no setting"),
    (["--costs", "[pore,", "clay]"], r"clay\]: belongs to no setting; .* a value that has spaces in quotes"),
    (["--zzz"], r"--zzz: {} has no such setting; see the file for those that there are"),
    (["--output_dir", "2024"], r"--output_dir 2024: is read as a number; write ./2024"), (["--output-dir=1e3"], "write ./1e3"),
    (["--hr_images", ""], "--hr_images: is empty, as of a shell variable that is not set"),
    (["--lr-image=", "--max_epochs", "3"], "--lr_image: is empty"),
    (["--output_dir", "--max_epochs", "3"], "--output_dir: is empty"),
    (["--start_from="], "--start_from: is empty"), (["--hr_images#xy="], "#xy: is empty"),
])  # fmt: skip
@pytest.mark.parametrize("by", ["config_file", "args_file"])
def test_another_name_is_refused(config, words, message, by):
    path = config if by == "config_file" else str(Path(config).with_name("args.yaml"))
    with pytest.raises(InputError, match=message.format(config)):
        check_arguments([*PROGRAM, f"--{by}", path, *words])


def test_of_a_config_in_args_file_the_one_given_beside_it_counts(config):
    second = str(Path(config).with_name("second.yaml"))
    with pytest.raises(InputError, match=f"--max_epochs: {second} has no such setting"):
        check_arguments([*PROGRAM, "--args_file", str(Path(config).with_name("args.yaml")), "--config_file", second, "--max_epochs", "3"])


@pytest.mark.parametrize("arguments", [["/bin/pytest", "run", "--zzz"], ["monai/bundle/__main__.py", "ckpt_export", "network_def", "--filepath", "a"]])
def test_other_programs_have_arguments_of_their_own(arguments):
    check_arguments(arguments)


@pytest.mark.parametrize(("workflow", "run", "wrong"), [
    ("train", "training", "max_epoch"), ("inference", "inference", "hidden"), ("evaluate", "evaluating", "sr_imagez"),
    ("gates", "gating", "imagez"), ("hr_synthesis", "training", "resolutions"), ("hr_synthesis_inference", "inference", "n_image"),
])  # fmt: skip
def test_every_workflow_refuses_a_name_before_anything_is_written(bundle_root, tmp_path, workflow, run, wrong):
    file = bundle_root / "configs" / f"{workflow}.yaml"
    command = [sys.executable, "-m", "monai.bundle", "run", run, "--config_file", str(file), "--output_dir", str(tmp_path / "out"), f"--{wrong}", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=bundle_root, check=False)
    assert ended.returncode == 1 and f"\nerror: --{wrong}: {file} has no such setting" in "\n" + ended.stderr
    assert "Traceback" not in ended.stderr and not list(tmp_path.iterdir())
