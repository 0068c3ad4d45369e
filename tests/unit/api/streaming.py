"""A replica's API on a real socket, and clients of its streams."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Self

import httpx
import uvicorn

from dragonfly.api.connections import HttpConnection, bound
from tests.unit.api.replicas import TOKEN, Replica

PATIENCE = 60
"""Seconds until a test gives up waiting."""


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that tells nobody when it happens."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the product has no event for it
            await asyncio.sleep(0.005)


class Event(NamedTuple):
    event: str
    data: Any
    id: int | None
    retry: int | None

    @property
    def brief(self) -> tuple[str, str, int | None]:
        return self.event, self.data.get("name", ""), self.id


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def served(replica: Replica) -> AsyncIterator[str]:
    """Serve a replica for a block; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    bound(listener)
    config = uvicorn.Config(
        replica.app, http=HttpConnection, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=5
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        replica.feed.close()
        server.should_exit = True
        await running


class Stream:
    """One client of `GET /api/v1/events`."""

    def __init__(self, url: str, **query: Any) -> None:
        self._since = query.pop("last_event_id", None)
        self._url, self._query = url, query

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(base_url=self._url, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
        if self._since is not None:
            headers["Last-Event-ID"] = str(self._since)
        request = self._http.build_request("GET", "/api/v1/events", params=self._query, headers=headers)
        self.response = await self._http.send(request, stream=True)
        self._lines = self.response.aiter_lines()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.response.aclose()
        await self._http.aclose()

    async def next(self) -> Event:
        """The next event; raises StopAsyncIteration at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            while (line := await anext(self._lines)) or "event" not in fields:
                name, _, value = line.partition(":")
                fields |= {name: value.removeprefix(" ")} if name else {}
        number = {name: int(fields[name]) if name in fields else None for name in ("id", "retry")}
        return Event(fields["event"], json.loads(fields["data"]), number["id"], number["retry"])

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await anext(self._lines)

    async def take(self, count: int) -> list[Event]:
        return [await self.next() for _ in range(count)]

    async def rest(self) -> list[Event]:
        """All that comes until the stream ends."""
        found: list[Event] = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                found.append(await self.next())
        return found
