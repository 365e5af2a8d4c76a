import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose
from torch.utils.data import DataLoader

from bundle.errors import InputError, check_seed, find_input_error, first_line, switch, whole

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "raising",
    [
        "raise InputError('lr.tif: no such file; check lr_image')",
        # as MONAI's apply_transform does
        "\ntry:\n    raise InputError('lr.tif: no such file; check lr_image')\nexcept Exception as e:\n"
        "    raise RuntimeError('a\\nb') from e",
        # raised while another error was handled
        "\ntry:\n    raise InputError('lr.tif: no such file; check lr_image')\nexcept Exception:\n    raise KeyError('image')",
        # as MONAI's SaveImage does: only the text of the traceback is left
        "\nimport traceback\ntry:\n    raise InputError('lr.tif: no such file; check lr_image')\nexcept Exception:\n"
        "    text = traceback.format_exc()\nraise RuntimeError('no writer.\\n' + text)",
    ],
)
def test_uncaught_input_error_is_one_line_and_exit_code_1(raising):
    done = run_python("from bundle.errors import InputError, one_line_errors\none_line_errors()\none_line_errors()\n" + raising)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: lr.tif: no such file; check lr_image\n"


def test_an_interrupt_is_one_line_and_exit_code_130():
    done = run_python("from bundle.errors import one_line_errors\none_line_errors()\nraise KeyboardInterrupt")
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr == "stopped; the same command goes on (training: with --resume true)\n"


def test_other_errors_go_to_the_previous_hook():
    done = run_python(
        "import sys\nsys.excepthook = lambda *a: print('previous', a[0].__name__)\n"
        "from bundle.errors import one_line_errors\none_line_errors()\nraise ValueError('a bug')"
    )
    assert done.returncode == 1
    assert done.stdout == "previous ValueError\n"
    assert done.stderr == ""


class Failing:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        def fail(item):
            raise InputError("lr.tif: truncated")

        return Compose([fail])(index)


def test_found_in_what_a_data_loader_worker_raises():
    with pytest.raises(Exception) as caught:
        list(DataLoader(Failing(), num_workers=1))
    assert not isinstance(caught.value, InputError) or str(caught.value) != "lr.tif: truncated"  # the worker's text, not the error itself
    assert find_input_error(caught.value) == "lr.tif: truncated"


def test_message_becomes_one_line():
    assert find_input_error(InputError("a.tif:\n  two\n lines")) == "a.tif: two lines"
    assert find_input_error(ValueError("lr.tif")) is None


def test_first_line():
    assert first_line(ValueError("\n one \n two")) == "one"
    assert first_line(EOFError()) == "EOFError"


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), ("true", True), ("false", False), ("False", False)])
def test_switches_of_the_command_line(value, expected):
    """Where `--amp false` is the text "false", which Python takes for true."""
    assert switch(value, "amp") is expected


@pytest.mark.parametrize("value", ["no", "", 2, None])
def test_a_switch_is_on_or_off(value):
    with pytest.raises(InputError, match="amp: .* is neither true nor false"):
        switch(value, "amp")


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (16.0, 16), (254, 254), (np.int64(3), 3), (np.float32(4), 4)])
def test_whole_numbers(value, expected):
    found = whole(value, "shard", "LR voxels", 1, 254)
    assert found == expected and type(found) is int


@pytest.mark.parametrize("value", [0, 255, 1.5, True, "16", None, float("nan"), float("inf"), [1]])
def test_what_is_no_whole_number_is_one_line(value):
    with pytest.raises(InputError, match=r"^shard: .*; give a whole number of LR voxels, 1 to 254$"):
        whole(value, "shard", "LR voxels", 1, 254)


def test_seeds_are_of_64_bits():
    assert check_seed(2**64 - 1) == 2**64 - 1
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match=f"seed: {seed}"):
            check_seed(seed)
