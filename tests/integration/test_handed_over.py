"""A real replica on a socket that somebody else opened and keeps, as systemd does."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dragonfly.sandbox.ports import PortLease

pytestmark = pytest.mark.slow

DEADLINE = 90.0
# As systemd does it: the socket at file descriptor 3, and told to this very process.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="dragonfly.socket")
os.execv(sys.executable, [sys.executable, "-m", "dragonfly", "server"])
"""


@contextmanager
def replica(listening: socket.socket, log: Path, etcd: int) -> Iterator[subprocess.Popen[bytes]]:
    """One whose etcd is away, which it does not need in order to answer."""
    told = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY_", "KUBE"))},
        "DRAGONFLY_ETCD_ENDPOINTS": f"http://127.0.0.1:{etcd}",
        "DRAGONFLY_LISTEN": f"127.0.0.1:{listening.getsockname()[1]}",
    }
    command = [sys.executable, "-c", HAND_OVER, str(listening.fileno())]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=told, pass_fds=(listening.fileno(),), stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_connection_waits_for_the_next_process_and_is_answered(tmp_path: Path) -> None:
    with PortLease() as ports, socket.create_server(("127.0.0.1", 0)) as listening:
        address, etcd = listening.getsockname(), ports.take()
        with replica(listening, tmp_path / "first.log", etcd) as first:
            assert status(address) == 200
            first.terminate()
            assert first.wait(DEADLINE) == 0, (tmp_path / "first.log").read_text()

        waiting = http.client.HTTPConnection(address[0], address[1], timeout=DEADLINE)
        waiting.request("GET", "/healthz")
        with replica(listening, tmp_path / "second.log", etcd):
            answer = waiting.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
        waiting.close()


def status(address: tuple[str, int]) -> int:
    """The kernel takes the connection at once, so this waits until the replica answers."""
    connection = http.client.HTTPConnection(address[0], address[1], timeout=DEADLINE)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()
