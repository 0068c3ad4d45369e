"""Plays the load balancer of a Service: forwards connections at its address to replicas that are ready."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

_SECONDS: Final = 10


class Balancer:
    """Forwards from the moment on that it is made, to each of the ports in turn, until it is closed."""

    def __init__(self, address: str, port: int, ready: Callable[[], Sequence[int]], *, is_floating: bool) -> None:
        """`is_floating`: whether the address is to be had first, as kube-vip does."""
        self.address = address
        self._ready = ready
        self._is_floating = is_floating
        self._turn = 0
        self._hold("add")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._forward, address, port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(_SECONDS)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._hold("delete")

    def _hold(self, verb: str) -> None:
        if self._is_floating:
            subprocess.run(["ip", "address", verb, f"{self.address}/32", "dev", "cluster"], check=False)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports = await asyncio.to_thread(self._ready)
        if not ports:
            writer.close()
            return
        self._turn += 1
        inner = await asyncio.open_connection("127.0.0.1", ports[self._turn % len(ports)])
        await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
