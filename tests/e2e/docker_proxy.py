"""A proxy on the Docker socket that asks for ordinary containers where the client asks for privileged ones.

tink-agent runs every action privileged, as metal needs it. A daemon inside of a container or a sandbox may not give
that; everything else about the agent, the daemon and the container stays real.
"""

import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from types import TracebackType
from typing import Final, Self

_CREATE: Final = re.compile(rb"POST (/v[0-9.]+)?/containers/create[? ]")
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
_UPGRADE: Final = re.compile(rb"\r\nUpgrade:", re.IGNORECASE)
_CONNECTION: Final = re.compile(rb"\r\nConnection:[^\r]*", re.IGNORECASE)
_CHUNK: Final = 65_536


class DockerProxy:
    """Listens on `socket` while the block runs, and passes everything on to the daemon's socket."""

    def __init__(self, path: Path, daemon: Path) -> None:
        self.socket = path
        self._server = _Server(str(path), _Handler)
        self._server.daemon_socket = str(daemon)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.socket.unlink()


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    daemon_socket = ""


class _Handler(StreamRequestHandler):
    """One request for each connection: what comes after its head is passed on as it is, streams too."""

    server: _Server

    def handle(self) -> None:
        head = self._head()
        if not head:
            return
        body = b""
        if _CREATE.match(head):
            head, body = unprivileged(head, self.rfile.read(_length(head)))
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(self.server.daemon_socket)
            daemon.sendall(single(head) + body)
            upwards = threading.Thread(target=_pump, args=(self.rfile.read1, daemon), daemon=True)
            upwards.start()
            with daemon.makefile("rb") as answers:
                _pump(answers.read1, self.connection)
            _close(self.connection)
            upwards.join()

    def _head(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
            lines.append(line)
        return b"".join(lines) + b"\r\n" if lines else b""


def unprivileged(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The request to create a container, without the wish for privileges."""
    wanted = json.loads(body)
    wanted.get("HostConfig", {})["Privileged"] = False
    changed = json.dumps(wanted).encode()
    return _LENGTH.sub(b"\r\nContent-Length: %d" % len(changed), head), changed


def single(head: bytes) -> bytes:
    """The head of the only request of its connection, so that none follows that is not looked at."""
    if _UPGRADE.search(head):
        return head
    return _CONNECTION.sub(b"", head).removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


def _pump(read: Callable[[int], bytes], to: socket.socket) -> None:
    """Pass on until the end; whoever goes away first ends it."""
    try:
        while chunk := read(_CHUNK):
            to.sendall(chunk)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
