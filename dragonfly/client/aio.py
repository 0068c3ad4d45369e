"""The client for asyncio, over aiohttp; the same methods as `Client`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import aiohttp

from dragonfly.client import calls
from dragonfly.client.calls import Answer, Document, Patience, Request, Value
from dragonfly.client.errors import ApiError
from dragonfly.client.stream import SILENCE, Event, Follower

_Sends: TypeAlias = list[object]
"""An entry for each time that a request was sent."""

_BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError)


class AsyncClient:
    """Speaks to one address. Use as `async with AsyncClient(...)`."""

    def __init__(self, url: str, token: str = "", *, patience: float = calls.PATIENCE, timeout: float = 20.0) -> None:
        """Connect lazily; arguments as for `Client`."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = patience
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=3)
        self._written = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Streams stay open: they must not use up what other requests need.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trace_configs=[_counting()])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: str, name: str) -> Document:
        """As `Client.get`."""
        return await self._send(calls.read(calls.collection(kind), name, query=self._at_least()))

    async def list(self, kind: str, **filters: Value) -> AsyncIterator[Document]:
        """As `Client.list`."""
        cursor: str | None = None
        while True:
            query = {"limit": 500, "cursor": cursor, **self._at_least(), **filters}
            page = await self._send(calls.read(calls.collection(kind), query=query))
            for item in page["items"]:
                yield item
            cursor = page.get("cursor")
            if cursor is None:
                return

    async def create(self, kind: str, document: Mapping[str, Any]) -> Document:
        return await self._send(calls.post(calls.collection(kind), body=document))

    async def replace(self, kind: str, document: Mapping[str, Any]) -> Document:
        """As `Client.replace`."""
        try:
            return await self._send(calls.put(kind, document))
        except ApiError as refused:
            present = await self._send(calls.look_back(kind, document["metadata"]["name"], refused))
            if not calls.is_written(document, present):
                raise
            self._written = max(self._written, present["metadata"]["revision"])
            return present

    async def delete(self, kind: str, name: str, *, revision: int | None = None) -> None:
        """As `Client.delete`."""
        try:
            await self._send(calls.delete(kind, name, revision))
        except ApiError as refused:
            if refused.again and refused.status == calls.NOT_FOUND:
                return
            if not calls.is_deleting(await self._send(calls.look_back(kind, name, refused))):
                raise

    async def provision(
        self, machine: str, template: str, *, parameters: Mapping[str, Any] | None = None, reason: str = ""
    ) -> Document:
        """As `Client.provision`."""
        body = {"template": template, "parameters": dict(parameters or {}), "reason": reason}
        return await self._send(calls.post("machines", machine, "provision", body=body))

    async def cancel(self, provision: str, *, reason: str = "") -> Document:
        return await self._send(calls.post("provisions", provision, "cancel", body={"reason": reason}))

    async def events(
        self, *, since: int | None = None, snapshot: bool = False, **filters: Value
    ) -> AsyncIterator[Event]:
        """As `Client.events`."""
        async for revision in self.revisions(Follower(filters, since=since, snapshot=snapshot)):
            for event in revision:
                yield event

    async def revisions(self, follower: Follower) -> AsyncIterator[Sequence[Event]]:
        """Follow changes as `events` does, but all that became certain at once together; `follower.position` tells."""
        while True:
            with contextlib.suppress(*_BROKEN):
                try:
                    async for data in self._stream(follower):
                        if said := follower.take(data):
                            yield said
                except ApiError as error:
                    if not error.temporary:
                        raise
            await asyncio.sleep(follower.pause())

    def watch(self, kind: str, **filters: Value) -> AsyncIterator[Event]:
        """As `Client.watch`."""
        return self.events(since=None, snapshot=True, kind=kind, **filters)

    async def _stream(self, follower: Follower) -> AsyncIterator[bytes]:
        request = follower.request(at_least=self._written)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=SILENCE)
        async with self._ask(request, timeout) as response:
            if response.status != 200:
                calls.shown(Answer(response.status, response.headers, await response.read()))
            async for data in response.content.iter_any():
                yield data

    def _at_least(self) -> Mapping[str, Value]:
        return {"minRevision": self._written or None}

    async def _send(self, request: Request) -> Document:
        answer = await self._patiently(request)
        document = calls.shown(answer)
        if request.method != "GET":
            self._written = max(self._written, calls.revision_of(answer))
        return document

    async def _patiently(self, request: Request) -> Answer:
        patience = Patience(time.monotonic(), self._patience)
        again = False
        while True:
            answer, error = await self._try(request)
            if answer is not None and not calls.worth_another_try(answer):
                return answer._replace(again=again or answer.again)
            again = True
            await asyncio.sleep(patience.pause(time.monotonic(), answer, error))

    async def _try(self, request: Request) -> tuple[Answer | None, Exception | None]:
        sent: _Sends = []
        try:
            async with self._ask(request, self._timeout, sent) as response:
                body = await response.read()
                return Answer(response.status, response.headers, body, again=len(sent) > 1), None
        except _BROKEN as error:
            return None, error

    def _ask(
        self, request: Request, timeout: aiohttp.ClientTimeout, sent: _Sends | None = None
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        assert self._session is not None, "use it as `async with AsyncClient(...)`"
        return self._session.request(
            request.method,
            self._url + request.target,
            data=request.body,
            headers={**self._headers, **request.headers},
            timeout=timeout,
            allow_redirects=False,
            trace_request_ctx=sent,
        )


def _counting() -> aiohttp.TraceConfig:
    """Note each time that a request is sent: aiohttp repeats a PUT or DELETE by itself if a kept connection breaks."""

    async def note(_session: aiohttp.ClientSession, context: Any, _sent: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.append(None)

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(note)
    return config
