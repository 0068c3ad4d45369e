"""`Kube` for one process: the model of the API server behind a network, with watches that stall, break and end."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from random import Random
from typing import Any

from dragonfly.kube.errors import KubeError, ServerFailed, Throttled, Unreachable
from dragonfly.kube.port import MAY_SEND, Listing, WatchEvent
from dragonfly.kube.resources import BMC_JOB, Object, Ref, Resource
from tests.simulation.apiserver import ApiServer
from tests.simulation.loop import TICK, Process
from tests.simulation.wire import Lost, Wire

PATIENCE = 10.0
"""Seconds that a client waits for an answer; `kube.channel.Limits.deadline`."""

NOTICED = 20.0
"""Seconds after which TCP has noticed at the latest that a watch's peer is gone."""


class Streams:
    """All watches of all processes, as the server has them open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: ApiServer, wire: Wire, random: Random) -> None:
        self.loop = loop
        self.server = server
        self.wire = wire
        self.random = random
        self.open: list[Stream] = []

    def stall(self, process: Process) -> None:
        """What the server sends on these from now on is lost; the process notices late."""
        for stream in [stream for stream in self.open if stream.process is process]:
            stream.stall()

    def end(self, process: Process | None = None) -> None:
        """The server ends the streams (of one process): a restart, or its plan."""
        for stream in [stream for stream in self.open if process in {None, stream.process}]:
            stream.end(None)


class Stream:
    """One watch. Events come in order, each with a delay of its own; after a stall nothing does."""

    def __init__(self, streams: Streams, process: Process, resource: Resource, namespace: str, selector: str) -> None:
        self.process = process
        self._streams = streams
        self._selection = (resource, namespace, selector)
        self._items: deque[WatchEvent | KubeError | None] = deque()
        self._waiter: Any = None
        self._at = 0.0
        self._from = 0
        self._is_over = False
        self._stop: Callable[[], None] = lambda: None

    def begin(self, version: int) -> None:
        """At the server.

        Raises:
            Gone: `version` is too old.
        """
        self._from = version
        for event in self._streams.server.events_after(*self._selection[:2], version, self._selection[2]):
            self._send(event)
        self._stop = self._streams.server.watch(self._selection[0], self._happened)
        self._streams.open.append(self)

    async def next(self) -> WatchEvent | None:
        """The next event, or None at the end of the stream."""
        while not self._items:
            self._waiter = self._streams.loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, KubeError):
            raise item
        return item

    def stall(self) -> None:
        self.close()
        error = Unreachable("the watch broke", maybe_done=False)
        patience = 0.5 + (NOTICED - 0.5) * self._streams.random.random() ** 2
        self._streams.loop.call_later(patience, self._arrive, error, context=self.process.context)

    def end(self, error: KubeError | None) -> None:
        self.close()
        self._send(error)

    def close(self) -> None:
        self._is_over = True
        self._stop()
        if self in self._streams.open:
            self._streams.open.remove(self)

    def _happened(self, event: Any) -> None:
        if self._streams.wire.is_cut(self.process, "kube"):
            self.stall()
            return
        if event.version <= self._from:
            return  # of another history, which has not come as far again as the watch began
        told = self._streams.server.told(event, *self._selection)
        if told is not None:
            self._send(told)

    def _send(self, item: WatchEvent | KubeError | None) -> None:
        loop, wire = self._streams.loop, self._streams.wire
        lag = self._streams.random.random() if "kube" in wire.slow_servers else 0.0
        self._at = max(self._at + TICK, loop.time() + wire.latency() + lag)
        loop.call_at(self._at, self._arrive, item, context=self.process.context)

    def _arrive(self, item: WatchEvent | KubeError | None) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class KubeClient:
    """`Kube` of one process."""

    def __init__(self, server: ApiServer, streams: Streams, process: Process) -> None:
        self._server = server
        self._streams = streams
        self._process = process
        self.on_send: Callable[[str, Ref | Object], None] = lambda _verb, _what: None
        """Told of each write when it is sent."""
        self.on_look: Callable[[Ref], None] = lambda _ref: None
        """Told of each object that is asked for, at the server."""

    async def get(self, ref: Ref) -> Object:
        def look() -> Object:
            self.on_look(ref)
            return self._server.get(ref)

        found: Object = await self._ask(look, write=False)
        return found

    async def list(self, resource: Resource, namespace: str, *, label_selector: str = "") -> Listing:
        listing: Listing = await self._ask(
            lambda: self._server.listing(resource, namespace, label_selector), write=False
        )
        return listing

    async def create(self, obj: Object) -> Object:
        await self._send("create", obj)
        return await self._write(lambda: self._server.create(obj, by=self._process.name))

    async def apply(self, obj: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        if not dry_run:
            await self._send("apply", obj)
        return await self._write(lambda: self._server.apply(obj, force=force, dry_run=dry_run, by=self._process.name))

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        await self._send("arm" if _arms(ref, body) else "patch", ref)
        return await self._write(lambda: self._server.patch(ref, body, subresource=subresource, by=self._process.name))

    async def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "") -> None:
        await self._send("delete", ref)
        await self._ask(
            lambda: self._server.delete(ref, uid=uid, resource_version=resource_version, by=self._process.name),
            write=True,
        )

    async def version(self) -> str:
        await self._ask(lambda: None, write=False)
        return "v1.36.3"

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        del verb, resource, namespace
        return True

    async def watch(
        self,
        resource: Resource,
        namespace: str,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout: float = 300,
        silence: float = 150,
    ) -> AsyncGenerator[WatchEvent, None]:
        del timeout, silence
        stream = Stream(self._streams, self._process, resource, namespace, label_selector)
        await self._ask(lambda: stream.begin(int(resource_version)), write=False)
        try:
            yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": resource_version}})
            while (event := await stream.next()) is not None:
                yield event
        finally:
            stream.close()

    async def _send(self, verb: str, what: Ref | Object) -> None:
        """Wait for one's turn, and ask again whether one may still send."""
        await self._streams.wire.turn()
        MAY_SEND.get()()
        self.on_send(verb, what)

    async def _write(self, execute: Callable[[], Object]) -> Object:
        answer: Object = await self._ask(execute, write=True)
        return answer

    async def _ask(self, execute: Callable[[], Any], *, write: bool) -> Any:
        def error_of(lost: Lost) -> KubeError:
            return _error_of(lost, write=write)

        return await self._streams.wire.request(
            self._process, "kube", execute, write=write, patience=PATIENCE, lost=error_of
        )


def _arms(ref: Ref, body: Mapping[str, Any]) -> bool:
    """Whether the patch lets a staged Workflow or Job run."""
    spec = body.get("spec", {})
    if ref.resource == BMC_JOB:
        return "machineRef" in spec and "." not in spec["machineRef"]["name"]
    return spec.get("disabled") is False


def _error_of(lost: Lost, *, write: bool) -> KubeError:
    if lost.status == 429:
        return Throttled("too many requests", retry_after=1.0, status=429, reason="TooManyRequests")
    if lost.status:
        return ServerFailed("the server gave up", status=lost.status, maybe_done=write)
    return Unreachable(lost.words, maybe_done=write and lost.maybe_done)
