"""Replaces a file so that a crash, of the process or the computer, leaves the old or the new, never half of either."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")


def beside(path: Path) -> Path:
    """Return where a file's new content grows; a crash may leave it there."""
    return path.with_name(f".{path.name}.new")


def replace(path: Path, mode: int, write: Callable[[IO[bytes]], T]) -> T:
    """Have a file with what `write` writes, and return what that returns; if it raises, the file stays as it is.

    Raises:
        OSError: it cannot be written.
    """
    new = beside(path)
    new.unlink(missing_ok=True)
    try:
        # Private from the first moment on: it may be a token.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            result = write(file)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    new.replace(path)
    sync(path.parent)
    return result


def sync(directory: Path) -> None:
    """Have the names in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
