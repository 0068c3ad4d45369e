"""`POST /etcd/v3/…`: etcd's gateway for other replicas, in etcd's own words; see `dragonfly.relay`.

No part of the API for people: what comes here is let in by a replica token alone, and no admin's token opens it.
"""

import asyncio
import contextlib
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dragonfly.api.calls import JSON
from dragonfly.relay.guard import MOST_BYTES, WATCH
from dragonfly.relay.relay import Relay, Reply, reply_of
from dragonfly.relay.watches import RelayedWatch
from dragonfly.store.errors import StoreError
from dragonfly.store.faults import Fault, TokenRefused
from dragonfly.store.replica_tokens import HEADER

PATH: Final = "/etcd/v3/"


class RelayRoute:
    """An ASGI application: all paths below `PATH`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        scope["dragonfly"]["route"] = PATH
        refused = self._relay.admits(request.headers.get(HEADER, ""))
        response: Response | _WatchResponse
        try:
            response = _response(refused) if refused is not None else await self._answer(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> "Response | _WatchResponse":
        name = request.url.path.removeprefix(PATH)
        text = await _body(request)
        if name == WATCH and request.method == "POST":
            request.scope["dragonfly"]["stream"] = True
            return await self._watch(text)
        return _response(await self._relay.call(name if request.method == "POST" else request.method, text))

    async def _watch(self, text: bytes) -> "Response | _WatchResponse":
        """Answer once etcd has: until its first line an error is an answer of its own."""
        watch: RelayedWatch | None = None
        try:
            watch = self._relay.watch(text)
            first = await watch.line()
        except Exception as error:
            reply = reply_of(error)
        else:
            self._relay.count(WATCH, Reply(200, b""))
            return _WatchResponse(watch, first)
        if watch is not None:
            watch.close()
        self._relay.count(WATCH, reply)
        return _response(reply)


class _WatchResponse:
    """Line by line as they come, until one side leaves."""

    def __init__(self, watch: RelayedWatch, first: bytes | None) -> None:
        self._watch = watch
        self._next = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's arguments
        gone = asyncio.create_task(self._until_gone(receive), name="relayed watch's end")
        try:
            headers = [(b"content-type", JSON.encode()), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # Why etcd's stream ended is told by etcd's next answer, to whoever asks again.
            with contextlib.suppress(Fault, StoreError, TokenRefused):
                while self._next is not None:
                    await send({"type": "http.response.body", "body": self._next + b"\n", "more_body": True})
                    self._next = await self._watch.line()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._watch.close()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._watch.close()


async def _body(request: Request) -> bytes:
    """What came; of one that is too large, enough to be refused for it."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MOST_BYTES:
            body += chunk
    return bytes(body)


def _response(reply: Reply) -> Response:
    return Response(reply.content, reply.status, media_type=JSON)
