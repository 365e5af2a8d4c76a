"""What is written on the command line: MONAI takes any name, so a misspelt one would be a training of hours without the setting that was meant."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from ast import literal_eval
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser, run

from bundle.errors import InputError

logger = logging.getLogger(__name__)

MONAI = set(inspect.signature(run).parameters)
"""Names that belong to `python -m monai.bundle run`, not to a config."""

INSTANCES = ("_target_", "_disabled_", "_mode_")
"""Names that say how MONAI makes a component."""

PATHS = re.compile("(.*_)?(image|images|dir)|model_file|start_from")
"""Names of settings that are paths, and never empty: an empty one would be taken for the current folder, or for none."""

FLAG = re.compile("--|-[a-zA-Z]")
"""What python-fire takes for a name; -3.5 is a number."""


def check_arguments(arguments: Sequence[str] | None = None) -> None:
    """Checks that every setting on the command line of `python -m monai.bundle run` is one of the config files that it names, and that every word but
    what is to be run belongs to one: python-fire takes a name with one dash, too, and further words for arguments of `run` that do nothing here.

    Args:
        arguments: program and its arguments; those of this process unless given. Nothing is checked where another program runs the config.

    Raises:
        InputError: a name that no config file has, with the most similar one that there is; a word that belongs to no name; a folder whose name is
            read as a number; a path that is empty.
    """
    program, *words = sys.argv if arguments is None else arguments
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or words[:1] != ["run"]:
        return
    given, alone = _given(words[1:])
    if alone[1:]:
        raise InputError(f"{alone[1]}: belongs to no setting; write --name value, and a value that has spaces in quotes")
    if "args_file" in given:  # what is given beside it counts more
        given = ConfigParser.load_config_file(given["args_file"]) | given
    if isinstance(_literal(str(given.get("output_dir", ""))), (int, float)):
        raise InputError(f"--output_dir {given['output_dir']}: is read as a number; write ./{given['output_dir']}")
    files = given.get("config_file") or []
    for name, value in given.items():
        if value == "" and PATHS.fullmatch(re.split("#|::", name)[0]):
            raise InputError(f"--{name}: is empty, as of a shell variable that is not set; give a path, or leave it out")
    config = ConfigParser.load_config_files(files)
    shown = files if isinstance(files, str) else ", ".join(map(str, files))
    for name in given:
        first, *parts = name.replace("::", "#").split("#")
        if first in MONAI:
            continue
        place, known = config, set(config)
        for part in (first, *parts):
            if known is None:
                break
            if part not in known:
                similar = get_close_matches(part, map(str, known), n=1)
                meant = f"did you mean {similar[0]}?" if similar else "see the file for those that there are"
                raise InputError(f"--{name}: {shown} has no such setting; {meant}")
            place, known = _within(place, part)


def warn_of_sample(lr_image: Any, hr_images: Any, sample: str) -> None:
    """A warning where one of scan and images is that of the shipped sample, which a config has where nothing is given, and the other is not.

    Args:
        lr_image, hr_images: of the config.
        sample: folder of the shipped sample, as the config writes it.
    """
    stands_in = {"lr_image": str(lr_image) == f"{sample}/lr.tif", "hr_images": str(hr_images) == f"{sample}/hr.tif"}
    if stands_in["lr_image"] != stands_in["hr_images"]:
        if stands_in["lr_image"]:
            logger.warning("lr_image: not given, so that of the shipped synthetic sample stands in; it is of another rock")
        else:
            logger.warning("hr_images: not given, so those of the shipped synthetic sample stand in; they are of another rock")


def _within(place: Any, part: str) -> tuple[Any, set[str] | None]:
    """What a part of a config holds under a name, and the names that may be given within that; None where any may."""
    place = place.get(part) if isinstance(place, Mapping) else place[int(part)]
    if isinstance(place, Mapping):
        table = "_target_" not in str(place)  # such as that of the costs
        return place, None if table else _names(place)
    if isinstance(place, list):
        return place, {str(i) for i in range(len(place))}
    return place, None if isinstance(place, str) else set()  # an expression may make anything


def _names(component: Mapping[str, Any]) -> set[str] | None:
    """What a component of a config has, and what its class takes; None where it takes anything, or cannot be asked."""
    known = {*component, *INSTANCES}
    if "_target_" not in component:
        return known
    target = locate(component["_target_"])  # None for the short names that MONAI knows
    try:
        arguments = inspect.signature(target).parameters.values() if callable(target) else None
    except ValueError:  # of a class that is not written in Python
        arguments = None
    if arguments is None or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments):
        return None
    return known | {one.name for one in arguments}


def _given(words: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """Options, as python-fire takes them, and what follows each: a list where it is written as one, else a text; and the words that follow none."""
    given: dict[str, Any] = {}
    alone, following = [], list(words)
    while following:
        word = following.pop(0)
        if word == "--":  # what follows is for python-fire itself
            break
        if not FLAG.match(word):
            alone.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals and following and not FLAG.match(following[0]):
            value = following.pop(0)
        given[name.replace("-", "_")] = _value(value)
    return given, alone


def _value(text: str) -> Any:
    value = _literal(text)
    return value if isinstance(value, (list, tuple)) else text


def _literal(text: str) -> Any:
    """What python-fire makes of it."""
    try:
        return literal_eval(text)
    except (SyntaxError, ValueError):
        return text
