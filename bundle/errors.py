"""Errors that a user can mend: one clear line instead of a traceback."""

import importlib
import re
import sys
from math import inf
from numbers import Real
from types import ModuleType
from typing import Any


NULL = "null (on the command line '$None')"
"""For messages: the command line makes a text of the word null, which is then taken for a file or a name."""


class InputError(ValueError):
    """Input that cannot be used. The message is one line: which file or key, what is wrong with it, what to do."""


def switch(value: bool | str, name: str) -> bool:
    """A setting that is on or off. The command line gives the words true and false as text, of which Python takes both for true.

    Args:
        value: True, False or one of the words.
        name: of the setting, for the message.

    Raises:
        InputError: something else.
    """
    word = str(value).lower()
    if word not in ("true", "false"):
        raise InputError(f"{name}: {value} is neither true nor false")
    return word == "true"


def whole(value: Any, name: str, of: str, least: int = 0, most: int | None = None) -> int:
    """A setting that is a whole number; 16.0 counts as one, a text or true does not.

    Args:
        value: as it was given.
        name: of the setting, for the message.
        of: what it counts and an example, for the message.
        least, most: bounds, included.

    Raises:
        InputError: something else.
    """
    number = value if isinstance(value, Real) and not isinstance(value, bool) and value == value // 1 else None
    if number is None or number < least or (most is not None and number > most):
        raise InputError(f"{name}: {value}; give a whole number of {of}, {least} {'or more' if most is None else f'to {most}'}")
    return int(number)


def number(value: Any, name: str, of: str, least: float = 0.0, most: float = inf) -> float:
    """A setting that is a finite number; a text or true is none.

    Args:
        value: as it was given.
        name: of the setting, for the message.
        of: what it is, for the message.
        least, most: bounds, included.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value <= most or value == inf:
        raise InputError(f"{name}: {value}; give {of}, {least:g} {'or more' if most == inf else f'to {most:g}'}")
    return float(value)


def names(value: Any, name: str) -> list[str]:
    """A setting that is a list of texts, each another one.

    Args:
        value: as it was given.
        name: of the setting, for the message.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
        raise InputError(f"{name}: {value}; give a list of names, such as ['pore', 'quartz']")
    twice = [one for i, one in enumerate(value) if one in value[:i]]
    if twice:
        raise InputError(f"{name}: {', '.join(value)} has {twice[0]} twice; every label needs a name of its own")
    return list(value)


def check_seed(value: Any) -> int:
    """A seed of random numbers: 64 bits, so that each is another realisation.

    Raises:
        InputError: it is none.
    """
    return whole(value, "seed", "any size", 0, 2**64 - 1)


def optional(module: str, what: str, extra: str) -> ModuleType:
    """A library that only some installations have.

    Args:
        module: to import.
        what: needs which library, for the message, e.g. "the permeability needs PyAMG".
        extra: of this package that installs it.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{what}: pip install -e '.[{extra}]'") from error


# MONAI's SaveImage and the workers of a DataLoader keep only the text of what was raised inside them.
_TRACEBACK_LINE = re.compile(rf"^{re.escape(InputError.__module__)}\.{InputError.__name__}: (.*)$", re.MULTILINE)


def first_line(error: BaseException) -> str:
    """The first line that an exception says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def find_input_error(error: BaseException | None) -> str | None:
    """The message of the `InputError` that `error` is, was raised from, or quotes the traceback of; None where there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        quoted = _TRACEBACK_LINE.findall(str(error))
        if quoted:
            return quoted[-1].strip()
        if isinstance(error, InputError):
            return " ".join(str(error).split())
        error = error.__cause__ or error.__context__
    return None


def one_line_errors() -> None:
    """Let an uncaught `InputError` end the program with `error: <message>` on stderr and exit code 1, without a traceback,
    and Ctrl-C with a line and exit code 130.

    MONAI wraps what its transforms raise in a RuntimeError, so the whole chain is searched. Every other exception goes
    to the hook that was there before.
    """
    previous = sys.excepthook

    def hook(kind, error, traceback):
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("stopped; the same command goes on (training: with --resume true)\n")
            sys.exit(130)
        message = find_input_error(error)
        if message is None:
            previous(kind, error, traceback)
        else:
            sys.stderr.write(f"error: {message}\n")

    sys.excepthook = hook
