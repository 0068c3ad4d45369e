"""What runs in a unit's control groups: whether anything does; ends it, with its containers.

systemd leaves it to others (KillMode=process).
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

_DYING_SECONDS: Final = 10
_PAUSE: Final = 0.05


def end_all(hierarchies: Path, unit: str) -> None:
    """Kill all that runs there, and wait up to ten seconds until it is gone: what it has mounted stays busy till then.

    Args:
        hierarchies: where control groups are mounted, of version 1 or 2.
        unit: of systemd.
    """
    deadline = time.monotonic() + _DYING_SECONDS
    while (left := _running(hierarchies, unit)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def is_running(hierarchies: Path, unit: str) -> bool:
    """Whether anything runs in the group of a unit of this host's own systemd; those of containers don't count.

    Args:
        hierarchies: as above.
        unit: as above.
    """
    groups = (hierarchies / place / "system.slice" / unit for place in ("", "systemd", "unified"))
    return any(_processes(group / "cgroup.procs") for group in groups)


def _running(hierarchies: Path, unit: str) -> set[int]:
    patterns = ("kubepods*", "*/kubepods*", f"**/system.slice/{unit}")
    groups = (group for pattern in patterns for group in hierarchies.glob(pattern))
    return {pid for group in groups for file in group.rglob("cgroup.procs") for pid in _processes(file)}


def _processes(file: Path) -> list[int]:
    try:
        return [int(pid) for pid in file.read_text(encoding="ascii").split()]
    except OSError:
        return []  # The group has gone meanwhile.
