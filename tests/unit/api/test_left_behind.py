"""A stream that is left behind in the middle of a revision is told the rest of it, so that it can go on from there."""

import asyncio

import pytest

from dragonfly.api.streams import EventStream
from dragonfly.model.swarm import Claim
from dragonfly.store import keys
from dragonfly.store.records import encode
from dragonfly.store.values import Put
from tests.unit.api.replicas import World
from tests.unit.api.streaming import PATIENCE, Stream, served


def mac(number: int) -> str:
    return f"02:00:00:00:01:{number:02x}"


async def test_it_ends_with_the_id_of_the_revision(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = world.replica()
    replica.feed.history._most_bytes = 5_000
    for number in range(10):
        await replica.machine(f"m-{number}", mac(number), userData="x" * 60_000)
    sent, go_on, send = asyncio.Event(), asyncio.Event(), EventStream._send

    async def slowly(stream: EventStream, data: bytes) -> None:
        await send(stream, data)
        if b"event: updated" in data:
            sent.set()
            await go_on.wait()

    monkeypatch.setattr(EventStream, "_send", slowly)
    async with served(replica) as url, Stream(url) as stream, asyncio.timeout(PATIENCE):
        await stream.next()
        (one,) = replica.streams._open
        revision = await world.store.commit(
            *(Put(keys.claim("local", shard), encode(Claim(owner="a"))) for shard in range(8))
        )
        await sent.wait()
        for number in range(10, 20):
            await replica.machine(f"m-{number}", mac(number))
        one.look(replica.clock.monotonic())
        kept = one._subscription._cursor.node if one._subscription is not None else None
        assert (one._ended, kept and kept.next) == (None, None), "it goes on, but keeps nothing alive beyond it"
        go_on.set()
        told = await stream.rest()

    assert [event.data["name"] for event in told if event.event == "updated"] == [f"m-{number}" for number in range(10)]
    assert told[-1].id == revision
    assert one._ended == "behind"
