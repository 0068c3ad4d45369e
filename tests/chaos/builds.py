"""Builds of Dragonfly that a replica can be started from: the one under test, and the one before it.

The previous one is what `DRAGONFLY_PREVIOUS` names, a commit or the directory of a checkout; without it the commit
before HEAD. It is run by the same interpreter with the same dependencies.
"""

import os
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import dragonfly

_ROOT: Final = Path(dragonfly.__file__).parents[1]
_PREVIOUS: Final = "0.0.0+previous"
"""Its version, whatever it says itself: two commits mostly say the same."""


class Build(NamedTuple):
    """Where the package lies, and the version by which its replicas show themselves as members."""

    directory: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to import this build and no other."""
        return {"PYTHONPATH": str(self.directory), "PYTHONSAFEPATH": "1"}


def current() -> Build:
    return Build(_ROOT, dragonfly.__version__)


def previous(directory: Path) -> Build:
    """Unpack the build before this one.

    Raises:
        RuntimeError: the history is not there; says how to name another build.
    """
    wanted = os.environ.get("DRAGONFLY_PREVIOUS") or "HEAD~1"
    if (checkout := Path(wanted).resolve()).is_dir():
        for part in ("dragonfly", "deploy"):
            (directory / part).symlink_to(checkout / part)
    else:
        # Not by tarfile: its safe filters came with Python 3.11.4, and Debian 12 has 3.11.2.
        subprocess.run(("tar", "-x", "-C", str(directory)), input=_archive(wanted), check=True, timeout=60)
    # What `dragonfly.__version__` is read from: the first on the path counts.
    metadata = directory / f"dragonfly-{_PREVIOUS}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dragonfly\nVersion: {_PREVIOUS}\n")
    return Build(directory, _PREVIOUS)


def _archive(commit: str) -> bytes:
    # The clone may belong to another user than the one who runs the tests.
    command = ("git", "-c", f"safe.directory={_ROOT}", "-C", str(_ROOT), "archive", "--format=tar", commit)
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(
            f"There is no build of {commit} to mix with this one: {done.stderr.decode().strip()}. It needs a git clone "
            "with history (`git fetch --unshallow`), or DRAGONFLY_PREVIOUS with the directory of another checkout."
        )
    return done.stdout
