"""A stand-in for systemctl, for tests alone: the few verbs that the installer uses, for units of type `notify`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_UNITS: Final = Path("/etc/systemd/system")
_WANTS: Final = _UNITS / "multi-user.target.wants"
_STATE: Final = Path("/run/standin")
_GROUPS: Final = tuple(map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/pids", "/sys/fs/cgroup")))
"""Version 1 has one for each controller, version 2 one for all."""
_JOIN: Final = 'echo $$ >"$0"; exec "$@"'
_READY_SECONDS: Final = 180
_STOP_SECONDS: Final = 60


def main(arguments: list[str]) -> int:
    words = [word for word in arguments if not word.startswith("--")]
    match words:
        case ["daemon-reload"] | ["reset-failed", _]:
            return 0
        case ["enable", unit]:
            _WANTS.mkdir(exist_ok=True)
            (_WANTS / unit).unlink(missing_ok=True)
            (_WANTS / unit).symlink_to(_UNITS / unit)
        case ["disable", unit]:
            (_WANTS / unit).unlink(missing_ok=True)
            if _WANTS.is_dir() and not list(_WANTS.iterdir()):
                _WANTS.rmdir()
        case ["restart", unit]:
            _stop(unit)
            return _start(unit)
        case ["stop", unit]:
            _stop(unit)
        case ["is-active", unit]:
            return 0 if _pid(unit) else 3
        case _:
            sys.exit(f"the stand-in knows no {arguments}")
    return 0


def _start(unit: str) -> int:
    text = (_UNITS / unit).read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    _STATE.mkdir(exist_ok=True)
    path = _STATE / f"{unit}.notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (_STATE / f"{unit}.log").open("ab") as log:
        notify.bind(str(path))
        notify.settimeout(0.2)
        child = subprocess.Popen(
            ["sh", "-c", _JOIN, str(_group(unit) / "cgroup.procs"), *command.split()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "NOTIFY_SOCKET": str(path)},
        )
        (_STATE / f"{unit}.pid").write_text(str(child.pid))
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            try:
                if notify.recv(64) == b"READY=1":
                    return 0
            except TimeoutError:
                if child.poll() is not None:
                    break
    sys.stderr.write(f"Job for {unit} failed:\n{(_STATE / f'{unit}.log').read_text()[-2000:]}")
    return 1


def _group(unit: str) -> Path:
    """The unit's control group, where all stays that it starts and that goes nowhere else."""
    top = next(place for place in _GROUPS if (place / "cgroup.procs").exists())
    group = top / "system.slice" / unit
    group.mkdir(parents=True, exist_ok=True)
    return group


def _stop(unit: str) -> None:
    if pid := _pid(unit):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _pid(unit) and time.monotonic() < deadline:
            time.sleep(0.05)
        if _pid(unit):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    for file in _STATE.glob(f"{unit}.*"):
        file.unlink()
    if _STATE.is_dir() and not list(_STATE.iterdir()):
        _STATE.rmdir()


def _pid(unit: str) -> int:
    """Its process, if it runs; 0 if not."""
    file = _STATE / f"{unit}.pid"
    if not file.exists() or not (pid := int(file.read_text() or "0")):
        return 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it may go while it is looked at
    return pid if "\nState:\tZ" not in status else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
