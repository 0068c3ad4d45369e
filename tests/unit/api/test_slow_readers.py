"""Clients of the feed that take what is ready too slowly, or not at all: each is cut off, and harms nobody (P8)."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from dragonfly.feed.channel import CHUNK
from tests.unit.api.replicas import TOKEN, Replica, World, mac
from tests.unit.api.streaming import PATIENCE, Stream, served, until

KB = 1024
BIG = "x" * 60_000


@pytest.fixture
async def url(replica: Replica) -> AsyncIterator[str]:
    async with served(replica) as address:
        yield address


def tick(replica: Replica, seconds: float = 1) -> None:
    """Let time pass, and the streams be looked at."""
    replica.clock.seconds += seconds
    for stream in [*replica.streams._open]:
        stream.look(replica.clock.seconds)


class Trickle:
    """A client with a small window that reads as much as it is told to, and gets what it had read."""

    def __init__(self, url: str, **query: Any) -> None:
        self._url, self._query = urlsplit(url), query
        self.read = 0
        self._raw = bytearray()

    async def __aenter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KB)
        # Loopback's own segments are larger than such a window, which then opens by a timer.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, (self._url.hostname, self._url.port))
        head = f"GET /api/v1/events?{urlencode(self._query)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        await loop.sock_sendall(self._socket, f"{head}Accept: text/event-stream\r\n\r\n".encode())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def take(self, count: int, until: bytes = b"") -> bool:
        """Read so many bytes, once they are there, or up to a text; whether more is to come on the connection."""
        await asyncio.sleep(0)  # what is there already is read without giving the server a turn
        async with asyncio.timeout(PATIENCE):
            while count > 0:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self._socket, count)
                except ConnectionError:
                    return False
                self._raw += data
                self.read += len(data)
                if not data or (until and until in self._raw[-500:]):
                    return False
                count -= len(data)
        return True

    @property
    def told(self) -> list[str]:
        """The names of the objects that have come whole."""
        return re.findall(r'"name":"([^"]+)","object":', self._frames)

    @property
    def position(self) -> int:
        return int(re.findall(r"\nid: (\d+)\n", self._frames)[-1])

    @property
    def _frames(self) -> str:
        """The body as far as it came, without what HTTP puts between its chunks, to the end of the last whole frame."""
        _, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        body = b""
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body[: body.rfind(b"\n\n") + 2].decode()


async def ended_streams(replica: Replica) -> str:
    metrics = (await replica.http.get("/metrics")).text
    return "\n".join(line for line in metrics.splitlines() if line.startswith("dragonfly_feed_streams_ended_total"))


async def machines(replica: Replica, count: int) -> list[str]:
    names = [f"m-{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        await replica.machine(name, mac(number), userData=BIG)
    return names


@pytest.mark.parametrize("reads", [0, 1])
async def test_a_client_that_reads_nothing_or_next_to_it_is_cut_off_and_harms_nobody(
    replica: Replica, url: str, reads: int
) -> None:
    async with Trickle(url) as deaf, Stream(url) as stream, asyncio.timeout(PATIENCE):
        await stream.next()
        await until(lambda: replica.feed.subscriptions == 2)
        number = 0
        while replica.feed.subscriptions == 2:
            number += 1
            await replica.machine(f"m-{number}", mac(number), userData=BIG)
            assert (await stream.next()).data["name"] == f"m-{number}"
            tick(replica, 5)
            with contextlib.suppress(ConnectionError):
                await deaf.take(reads)

    assert await ended_streams(replica) == 'dragonfly_feed_streams_ended_total{reason="stuck"} 1.0'


async def test_who_takes_a_snapshot_a_byte_a_second_is_cut_off(replica: Replica, url: str) -> None:
    await machines(replica, 10)
    async with Trickle(url, snapshot="true") as slow, asyncio.timeout(PATIENCE):
        await slow.take(1)
        while replica.feed.subscriptions:
            await slow.take(1)
            tick(replica)

    assert await ended_streams(replica) == 'dragonfly_feed_streams_ended_total{reason="stuck"} 1.0'


async def test_who_takes_each_piece_in_time_and_the_whole_snapshot_too_slowly_is_cut_off_and_may_begin_anew(
    replica: Replica, url: str
) -> None:
    names = await machines(replica, 40)
    async with Trickle(url, snapshot="true") as slow:
        while await slow.take(8 * KB):
            tick(replica)

        assert 100 * KB < slow.read < 2_000 * KB, "8 kB a second: each 64 kB within 8 seconds"
        assert 0 < len(slow.told) < len(names)
    assert await ended_streams(replica) == 'dragonfly_feed_streams_ended_total{reason="stuck"} 1.0'

    async with Stream(url, snapshot="true") as again:
        *told, complete = await again.take(1 + len(names) + 1)
    assert [event.data["name"] for event in told[1:]] == names
    assert (complete.data["snapshot"], complete.id) == ("complete", replica.mirror.revision)


async def test_who_takes_enough_gets_the_whole_snapshot_and_nothing_is_kept_that_it_has_got(
    replica: Replica, url: str
) -> None:
    names = await machines(replica, 40)
    async with Trickle(url, snapshot="true") as slow:
        assert await slow.take(KB)
        (stream,) = replica.streams._open
        transport, left = stream._abort.__self__, stream._begin.objects  # type: ignore[attr-defined, union-attr] # what a stream really has inside
        while await slow.take(24 * KB, until=b'"complete"'):
            tick(replica)
            assert len(left) <= len(names) - len(slow.told)
            assert transport.get_write_buffer_size() <= 3 * CHUNK

    assert slow.told == names


async def test_even_who_takes_enough_must_have_a_snapshot_some_time(replica: Replica, url: str) -> None:
    replica.streams.longest = 40
    await machines(replica, 40)
    async with Trickle(url, snapshot="true") as slow:
        while await slow.take(20 * KB):
            tick(replica)

    assert await ended_streams(replica) == 'dragonfly_feed_streams_ended_total{reason="stuck"} 1.0'


@pytest.mark.parametrize(("pace", "whole"), [(4 * KB, False), (18 * KB, True)])
async def test_one_large_object_is_taken_at_the_same_pace(
    replica: Replica, url: str, pace: int, *, whole: bool
) -> None:
    """One frame: looked at as a whole, 960 kB could not be taken by either within 30 seconds."""
    async with Trickle(url) as slow:
        assert await slow.take(KB // 4)
        actions = [
            {"name": f"a-{number}", "image": "quay.io/x/y:1", "timeout": 60, "environment": {"A": BIG}}
            for number in range(16)
        ]
        await large_template(replica, actions)
        while await slow.take(pace, until=b"\nid: %d\n" % replica.mirror.revision):
            tick(replica)

        assert ("large" in slow.told) == whole
        if whole:
            assert slow.position == replica.mirror.revision
            return
        position = slow.position
    async with Stream(url, since=position) as again:
        greeting, missed = await again.take(2)
    assert (greeting.id, missed.data["name"]) == (position, "large"), "it goes on where it was cut"


async def large_template(replica: Replica, actions: list[dict[str, Any]]) -> None:
    document = {"metadata": {"name": "large"}, "spec": {"actions": actions}}
    answer: httpx.Response = await replica.http.post("/api/v1/templates", json=document)
    assert answer.status_code == 201, answer.text


async def test_who_is_cut_off_among_changes_goes_on_at_another_replica(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    async with served(a) as slow_at, served(b) as other, Trickle(slow_at) as slow:
        assert await slow.take(KB // 4)
        names = await machines(a, 40)
        while await slow.take(8 * KB):
            tick(a)
        told, position = slow.told, slow.position
        async with Stream(other, since=position) as again:
            _greeting, *rest = await again.take(1 + len(names) - len(told))

    assert 0 < len(told) < len(names)
    assert [*told, *(event.data["name"] for event in rest)] == names
