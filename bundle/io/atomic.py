"""Files that are there whole or not at all."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from bundle.errors import InputError


def partial_path(path: Path) -> Path:
    """A new name for what is made before it is moved to `path`: hidden, beside it, and with its end, since libraries choose the format by the suffix."""
    return path.with_name(f".partial-{uuid4().hex[:12]}-{path.name}")


def left_partials(path: Path) -> list[Path]:
    """What was on its way to `path`, and to no other name, when a process was killed; or still is, where one is at work."""
    return sorted(path.parent.glob(f".partial-{'[0-9a-f]' * 12}-{glob.escape(path.name)}"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it to `path` when the block ends well, remove it when it fails.

    Missing folders are made.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    path = Path(path)
    temporary = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another output_dir or free it") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a file of text (UTF-8), whole or not at all.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
