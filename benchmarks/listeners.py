"""Many clients of endless answers, in a process of their own: how soon do they get what is written?

    python -m benchmarks.listeners SPEC.json

Says `ready` when each has got its first bytes, and what was received, as JSON, when its standard input ends. What is
written carries the monotonic clock's nanoseconds of its writing as `"at": "…"`, in etcd's answers in base64.
"""

import asyncio
import base64
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from benchmarks.harness import percentile

_MARK: Final = re.compile(rb'"at": ?"(\d+)"')
_VALUE: Final = re.compile(rb'"value":"([^"]+)"')
_AT_ONCE: Final = 200


class Spec(msgspec.Struct, frozen=True):
    """What the clients do."""

    host: str
    port: int
    requests: list[str]
    """One for each client, as it goes over the wire."""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    base64: bool = False
    """The marks are in etcd's values."""


class Heard(msgspec.Struct, frozen=True):
    """What they got."""

    connected: int
    events: int
    p50: float
    """Seconds from writing to receipt."""
    p99: float
    lost: int
    """Connections that ended."""


class _Listener(asyncio.Protocol):
    def __init__(self, request: bytes, marks: Callable[[bytes], Iterator[bytes]], crowd: "_Crowd") -> None:
        self._request = request
        self._marks = marks
        self._crowd = crowd
        self._rest = b""
        self.heard = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.heard.set()
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            # 0 marks what was there before.
            self._crowd.lags.extend((now - int(mark)) / 1e9 for mark in self._marks(whole) if mark != b"0")

    def connection_lost(self, _error: Exception | None) -> None:
        self._crowd.lost += 1


class _Crowd:
    def __init__(self, spec: Spec) -> None:
        self.lags: list[float] = []
        self.lost = 0
        self._spec = spec
        self._tls = tls_of(spec)

    async def connect(self) -> None:
        for start in range(0, len(self._spec.requests), _AT_ONCE):
            await asyncio.gather(*map(self._one, self._spec.requests[start : start + _AT_ONCE]))

    async def _one(self, request: str) -> None:
        loop, spec = asyncio.get_running_loop(), self._spec
        marks = _in_values if spec.base64 else _in_text
        _, listener = await loop.create_connection(
            lambda: _Listener(request.encode(), marks, self), spec.host, spec.port, ssl=self._tls
        )
        await listener.heard.wait()


def _in_text(data: bytes) -> Iterator[bytes]:
    return (found[1] for found in _MARK.finditer(data))


def _in_values(data: bytes) -> Iterator[bytes]:
    for value in _VALUE.finditer(data):
        yield from _in_text(base64.b64decode(value[1]))


def tls_of(spec: Spec) -> ssl.SSLContext | None:
    """How the spec's server is spoken to; None for plain HTTP."""
    if not spec.ca:
        return None
    context = ssl.create_default_context(cafile=spec.ca)
    if spec.certificate:
        context.load_cert_chain(spec.certificate, spec.key)
    return context


async def listen(spec: Spec) -> Heard:
    """Connect, and listen until standard input ends."""
    crowd = _Crowd(spec)
    await crowd.connect()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    lags = crowd.lags or [0.0]
    return Heard(len(spec.requests), len(crowd.lags), percentile(lags, 0.5), percentile(lags, 0.99), crowd.lost)


if __name__ == "__main__":
    _heard = uvloop.run(listen(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Spec)))
    print(msgspec.json.encode(_heard).decode())
