"""An HTTP proxy between replicas and a real server, that does to single requests what bad days do.

It ends TLS, so that it sees requests and not bytes: it can answer in the server's place, throw an answer away after the
server has carried the request out, keep a request back, or end a watch in the middle of a line. What it does to which
request is a plan's decision. Each replica has a port of its own, which is how the plan knows who asks.
"""

import asyncio
import contextlib
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from dragonfly.kube.transport import _Connector
from dragonfly.sandbox.ports import LOOPBACK

_HOP_BY_HOP: Final = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "content-length"})
_EPOCH: Final = "dragonfly.io/epoch"
_MACHINE: Final = "dragonfly.io/machine"


class Call(NamedTuple):
    """A request on its way from a replica to the server."""

    replica: str
    method: str
    target: str
    """Path and query."""
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def is_watch(self) -> bool:
        """Whether the answer is a stream without an end."""
        return "watch=true" in self.target or self.path.endswith("/watch")

    @property
    def document(self) -> Any:
        """What is sent; None for nothing that is JSON."""
        try:
            return msgspec.json.decode(self.body)
        except ValueError:
            return None

    @property
    def object(self) -> str:
        """Of a request to an API server, `resource/name` of what it is about; without the name if it has none."""
        parts = self.path.partition("/namespaces/")[2].split("/")[1:]
        if len(parts) == 1 and self.method == "POST":
            parts.append(self._metadata.get("name", ""))
        return "/".join(parts[:2])

    @property
    def epoch(self) -> int:
        """The one that a write to an API server comes with; 0 for none."""
        return int((self._metadata.get("annotations") or {}).get(_EPOCH, 0))

    @property
    def machine(self) -> str:
        """The one that a write to an API server says that its object is of; empty if it says nothing."""
        return str((self._metadata.get("labels") or {}).get(_MACHINE, ""))

    @property
    def _metadata(self) -> dict[str, Any]:
        document = self.document
        return (document.get("metadata") or {}) if isinstance(document, dict) else {}


class Answered(msgspec.Struct, frozen=True):
    """The proxy answers instead of the server; if `after` is set, after the server has carried the request out."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    after: bool = False


class Lost(msgspec.Struct, frozen=True):
    """The server carries the request out, and the connection breaks before its answer."""


class Late(msgspec.Struct, frozen=True):
    """The request reaches the server `seconds` later."""

    seconds: float


class Cut(msgspec.Struct, frozen=True):
    """A watch breaks in the middle of the line after so many; if `last` is set, that is its last line instead."""

    lines: int
    last: bytes = b""


class Held:
    """The request is kept back, either before it reaches the server or before its answer reaches the replica."""

    def __init__(self, *, after: bool) -> None:
        self.after = after
        self.reached = threading.Event()
        """Set when the request has come that far."""
        self.done = threading.Event()
        """Set when the server has answered."""
        self.status = 0
        self.answer = b""
        self._gate = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        """Let it go on; only what has been reached can be released."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._gate.set)

    async def wait(self) -> None:
        """For the proxy: wait here until it is released."""
        self._loop = asyncio.get_running_loop()
        self.reached.set()
        await self._gate.wait()


Fault: TypeAlias = Answered | Lost | Late | Cut | Held
Plan = Callable[[Call], Fault | None]
"""Called in the proxy's thread, once for each request."""


class FaultProxy:
    """Runs in a thread of its own for the length of a block."""

    def __init__(
        self,
        upstream: str,
        upstream_tls: ssl.SSLContext,
        ports: Mapping[str, int],
        plan: Plan,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing is served yet.

        Args:
            upstream: the server's URL.
            upstream_tls: how to talk to it.
            ports: where each replica connects, by its id.
            plan: what is done to which request.
            tls: the proxy's own certificate; plain HTTP without it.
        """
        scheme = "https" if tls else "http"
        self.urls = {replica: f"{scheme}://{LOOPBACK}:{port}" for replica, port in ports.items()}
        self.counts: Counter[str] = Counter()
        """How often each fault was done, by its type or status, and `forwarded`."""
        self.delayed: set[tuple[str, int]] = set()
        """Object and epoch of each write that was kept back."""
        self._upstream = upstream
        self._upstream_tls = upstream_tls
        self._ports = ports
        self._tls = tls
        self._plan = plan
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            connector = _Connector(self._upstream_tls)  # leaves no socket behind
            self._session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(None))
            )
            for replica, port in self._ports.items():
                await self._listen(stack, replica, port)
            self._started.set()
            await self._ending.wait()

    async def _listen(self, stack: contextlib.AsyncExitStack, replica: str, port: int) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(replica, request)

        server = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
        await server.setup()
        stack.push_async_callback(server.cleanup)
        await web.TCPSite(server, LOOPBACK, port, ssl_context=self._tls).start()

    async def _handle(self, replica: str, request: web.BaseRequest) -> web.StreamResponse:
        call = Call(replica, request.method, request.path_qs, await request.read())
        fault = self._plan(call)
        self.counts[kind_of(fault)] += 1
        try:
            return await self._treat(request, call, fault)
        except (aiohttp.ClientError, OSError):
            return _broken_off(request)  # the server is away, and a proxy that answers would hide that

    async def _treat(self, request: web.BaseRequest, call: Call, fault: Fault | None) -> web.StreamResponse:
        match fault:
            case Answered():
                if fault.after:
                    await self._forwarded(request, call)
                return web.Response(status=fault.status, body=fault.body, headers=dict(fault.headers))
            case Lost():
                await self._forwarded(request, call)
                return _broken_off(request)
            case Late(seconds):
                self.delayed.add((call.object, call.epoch))
                await asyncio.sleep(seconds)
                return await self._forwarded(request, call)
            case Held():
                return await self._held(request, call, fault)
            case Cut():
                return await self._streamed(request, call, fault)
            case None:
                return await (self._streamed if call.is_watch else self._forwarded)(request, call)

    async def _held(self, request: web.BaseRequest, call: Call, held: Held) -> web.StreamResponse:
        self.delayed.add((call.object, call.epoch))
        if not held.after:
            await held.wait()
        answer = await self._forwarded(request, call)
        assert isinstance(answer.body, bytes)
        held.status, held.answer = answer.status, answer.body
        held.done.set()
        if held.after:
            await held.wait()
        return answer

    async def _forwarded(self, request: web.BaseRequest, call: Call) -> web.Response:
        async with self._asked(request, call) as answer:
            return web.Response(status=answer.status, body=await answer.read(), headers=_passed_on(answer.headers))

    async def _streamed(self, request: web.BaseRequest, call: Call, cut: Cut | None = None) -> web.StreamResponse:
        async with self._asked(request, call) as answer:
            stream = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await stream.prepare(request)
            if cut is None:
                async for piece in answer.content.iter_any():
                    await stream.write(piece)
                return stream
            for _ in range(cut.lines):
                await stream.write(await answer.content.readline())
            await stream.write(cut.last or (await answer.content.readline())[:40])
        return stream if cut.last else _broken_off(request)

    @contextlib.asynccontextmanager
    async def _asked(self, request: web.BaseRequest, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(self._upstream + call.target, encoded=True)
        headers = _passed_on(request.headers)
        async with self._session.request(call.method, url, data=call.body or None, headers=headers) as answer:
            yield answer


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def _broken_off(request: web.BaseRequest) -> web.Response:
    """Reset the connection; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def kind_of(fault: Fault | None) -> str:
    """What it is counted as."""
    match fault:
        case None:
            return "forwarded"
        case Answered():
            return f"{fault.status}{' after commit' if fault.after else ''}"
        case Cut():
            return "ended by 410" if fault.last else "cut"
        case _:
            return type(fault).__name__.lower()
