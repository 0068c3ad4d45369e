"""Programs that come from Debian or Ubuntu: found on PATH, or installed with apt-get."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from dragonfly.sandbox.progress import Progress
from dragonfly.sandbox.toolchain import ToolMissing

# Debian puts servers where an ordinary user's PATH does not look.
_SYSTEM_DIRECTORIES: Final = "/usr/local/sbin:/usr/sbin:/sbin"


def program(name: str, progress: Progress) -> Path:
    """The path of `name`, which its Debian package of the same name brings.

    Raises:
        ToolMissing: it is not there and can't be installed.
    """
    found = _which(name)
    if found is None:
        with progress.step(f"Installing {name} with apt-get"):
            _install(name)
        found = _which(name)
    if found is None:
        raise ToolMissing(f"apt-get installed {name}, but it is not on PATH. Add its directory to PATH")
    return found


def _install(name: str) -> None:
    if shutil.which("apt-get") is None:
        raise ToolMissing(
            f"{name} is not on PATH, and there is no apt-get here. Install {name} with your package manager"
        )
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", name]):
        done = subprocess.run(
            [*_as_root(), "apt-get", "-qq", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ToolMissing(
                f"{name} is not on PATH, and `apt-get {arguments[0]}` failed: {done.stderr.strip()[-500:]}\n"
                f"Install it yourself (as root: `apt-get install {name}`) and try again"
            )


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def _which(name: str) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_DIRECTORIES)
    return Path(found) if found else None
