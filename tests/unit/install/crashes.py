"""A process that is killed at its n-th touch of the file system, with nothing tidied up: what kill -9 does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

TOUCHES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def killed_at(touch: int, work: Callable[[], None]) -> bool:
    """Do it in a child that dies before its n-th touch (from 1); return whether it died of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        child = os.fork()
    if child == 0:
        _die_at(touch)
        try:
            work()
        except BaseException as error:
            os.write(2, f"the child failed: {error!r}\n".encode())
            os._exit(3)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 9}, f"the child ended with {code}"
    return code == 9


def _die_at(touch: int) -> None:
    left = touch

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in TOUCHES or is_write:
            left -= 1
            if left == 0:
                os._exit(9)

    sys.addaudithook(hook)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below, with mode and content."""
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }
