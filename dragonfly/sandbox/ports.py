"""Loopback ports that nobody else takes between choosing and binding.

Asking the kernel for port 0 and closing the socket again is a race: before the child binds it, another test, or any
outgoing connection, may have the same number. So a port is drawn below the kernel's ephemeral range, and held by an
abstract Unix socket of that name for as long as the lease lives. Whoever could bind the port sees those names too, for
both belong to the network namespace. They leave no files, and the kernel lets go of them however this process dies.
"""

import errno
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"
_LOWEST: Final = 20_000
_ATTEMPTS: Final = 500


class NoFreePort(Exception):
    """No free loopback port was found; too many sandboxes run on this computer, or a firewall forbids binding."""


class PortLease:
    """Ports that belong to this process until `release`."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random(os.urandom(8))  # noqa: S311 - numbers to try, not secrets
        self._locks: list[int] = []

    def take(self) -> int:
        """A port that is free now and that no other lease has.

        Raises:
            NoFreePort: none was found.
        """
        for _ in range(_ATTEMPTS):
            port = self._rng.randrange(_LOWEST, _ephemeral_start())
            lock = _lock(port)
            if lock is None:
                continue
            if is_free(port):
                self._locks.append(lock)
                return port
            os.close(lock)
        raise NoFreePort(f"no free port on {LOOPBACK} from {_LOWEST} up after {_ATTEMPTS} attempts")

    def release(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def listener(port: int) -> str | None:
    """Which process listens on this port, as `name (pid 123)`; None if that can't be seen.

    Linux only, by /proc; other users' processes are seen by root alone.
    """
    socket_names = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            name = str(descriptor.readlink())
        except OSError:  # it ended, or is somebody else's
            continue
        if name in socket_names:
            process = descriptor.parents[1]
            return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, lines):
            is_listening = fields[3] == "0A"  # TCP_LISTEN
            if is_listening and int(fields[1].rsplit(":", 1)[1], 16) == port:
                yield fields[9]


def _lock(port: int) -> int | None:
    """The descriptor that holds the port's lock; None if another lease has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0dragonfly-port-{port}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        return lock.detach()


def _ephemeral_start() -> int:
    """First port that the kernel gives to outgoing connections (Linux: 32768 unless changed)."""
    setting = Path("/proc/sys/net/ipv4/ip_local_port_range")
    start = int(setting.read_text().split()[0]) if setting.exists() else 32_768
    return start if start > _LOWEST + 1_000 else 60_999
