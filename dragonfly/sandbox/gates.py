"""Sites on one computer: each has a way of its own to the API servers, which leads to some of them, or slowly.

A gate is an HTTP proxy (CONNECT), as sites have them, for replicas that HTTPS_PROXY tells so. API servers have names
that the gates alone know, so that one kubeconfig leads to the server from one site and nowhere from another. What is
kept back are bytes of TLS: the gate sees no requests.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import yaml

from dragonfly.sandbox.ports import LOOPBACK

_CHUNK: Final = 65_536
_STARTING: Final = 10.0
"""Seconds that the gates have until they listen."""


def named(kubeconfig: str, name: str) -> str:
    """Return a sandbox's kubeconfig that leads to its API server by a name that gates know."""
    document = yaml.safe_load(kubeconfig)
    # The server's certificate is for loopback.
    document["clusters"][0]["cluster"] |= {"server": f"https://{host_of(name)}:6443", "tls-server-name": "localhost"}
    return yaml.safe_dump(document)


def host_of(name: str) -> str:
    """Return the host that kubeconfigs name a cluster's API server by."""
    return f"{name}.example"


class Gates:
    """The gates of all sites; in a thread of their own for the length of a block."""

    def __init__(
        self, ports: Mapping[str, int], servers: Mapping[str, str], routes: Mapping[str, Iterable[str]]
    ) -> None:
        """Nothing is served yet.

        Args:
            ports: where each site's gate listens on loopback.
            servers: the URL of each cluster's API server.
            routes: the clusters that each site's gate leads to.
        """
        self._ports = ports
        self._servers = {host_of(name): urlsplit(url).port for name, url in servers.items()}
        self._routes = {site: frozenset(map(host_of, names)) for site, names in routes.items()}
        self.passed: Counter[str] = Counter()
        """How many connections each site's gate let through."""
        self._held: dict[str, tuple[float, asyncio.Event]] = {}
        """How long answers of a server are kept back, in seconds, and what ends that."""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._ending = asyncio.Event()
        self._pipes: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="gates", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_STARTING):
            raise TimeoutError("the gates did not open")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def environment(self, site: str) -> dict[str, str]:
        """Return what a replica of the site is told so that it goes through its gate; etcd is asked directly."""
        way = f"http://{LOOPBACK}:{self._ports[site]}"
        return {"DRAGONFLY_SITE": site, "HTTPS_PROXY": way, "https_proxy": way, "NO_PROXY": "", "no_proxy": ""}

    def slow(self, cluster: str, seconds: float) -> None:
        """Keep back whatever the cluster's API server sends, on every way, until `heal`."""
        self._loop.call_soon_threadsafe(self._held.__setitem__, host_of(cluster), (seconds, asyncio.Event()))

    def heal(self, cluster: str) -> None:
        """Let through what is kept back, and everything from now on."""
        self._loop.call_soon_threadsafe(self._release, host_of(cluster))

    def _release(self, host: str) -> None:
        _, healed = self._held.pop(host)
        healed.set()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for site, port in self._ports.items():
                await stack.enter_async_context(await self._listen(site, port))
            self._started.set()
            await self._ending.wait()
            for pipe in self._pipes:
                pipe.cancel()
            await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _listen(self, site: str, port: int) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._lead(site, reader, writer)
            await _closed(writer)

        return await asyncio.start_server(accept, LOOPBACK, port)

    async def _lead(self, site: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        host = request.split(" ", 2)[1].rpartition(":")[0]
        port = self._servers.get(host) if host in self._routes[site] else None
        if port is None:
            writer.write(b"HTTP/1.1 403 No way from here\r\nContent-Length: 0\r\n\r\n")
            return
        try:
            there, back = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            writer.write(b"HTTP/1.1 502 Nobody is there\r\nContent-Length: 0\r\n\r\n")
            return
        self.passed[site] += 1
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await _until_one_ends(self._questions(reader, back), self._answers(host, there, writer))
        finally:
            await _closed(back)

    async def _questions(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()

    async def _answers(self, host: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            if held := self._held.get(host):
                seconds, healed = held
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(healed.wait(), seconds)
            sink.write(data)
            await sink.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _until_one_ends(*pipes: Coroutine[None, None, None]) -> None:
    """Pump both ways; when one side has ended, the other is no use any more."""
    tasks = [asyncio.create_task(pipe) for pipe in pipes]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
