"""Many clients of the feed that each follow something else: what does a change cost the event loop?

    python -m benchmarks.views [CLIENTS]

A feed in this process, CLIENTS machines, and CLIENTS clients, each of which follows one machine and no other: by its
name, by `machine=`, by a label of its own. Beside them one client that follows everything. There are no sockets.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import uvloop

from benchmarks.harness import Row, publish
from dragonfly.feed.feed import Feed, Subscription
from dragonfly.feed.view import Filter, View
from dragonfly.model.machine import Interface, Machine, MachineSpec
from dragonfly.model.selectors import requirements
from dragonfly.model.swarm import Claim
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode, encode
from dragonfly.store.values import Batch, Change, Item, Snapshot

_CHANGES: Final = 1_500
"""What a rate of 100 a second makes of it between two heartbeats."""

_AT_ONCE: Final = 50
_PAUSE: Final = 0.6
"""Seconds; longer than the feed waits before it wakes."""

_SHARDS: Final = {"local": 8}
_T0: Final = datetime(2026, 1, 1, tzinfo=UTC)

_WAYS: Final[dict[str, Callable[[str], Filter]]] = {
    "name=m-1": lambda name: Filter(names=frozenset({name})),
    "machine=m-1": lambda name: Filter(facets=(("machine", frozenset({name})),)),
    "labelSelector=host=m-1": lambda name: Filter(selector=requirements(f"host={name}")),
}


class Cost(NamedTuple):
    """Seconds of CPU."""

    change: float
    """Each, until all whom it concerns have it."""
    glance: float
    """Each client that nothing concerned, at its heartbeat, after `_CHANGES` others."""
    shard: float
    """When one claim changes an eighth of the machines, all that have a client, until all have it."""


class World:
    """A mirror that is fed by hand, and its feed."""

    def __init__(self, count: int) -> None:
        self.names = [f"m-{number}" for number in range(count)]
        self._revision = count + 1
        self.mirror = Mirror(decode, clock=lambda: 0.0, on_undecodable=lambda *_: None)
        self.mirror.replace(Snapshot(self._revision, tuple(self._items())))
        self.feed = Feed(self.mirror, _SHARDS, _NoPast(), clock=time.monotonic, most_bytes=1 << 30)

    def _items(self) -> Iterator[Item]:
        for number, name in enumerate(sorted(self.names), 2):
            yield Item(keys.machine(name), _machine(name, 0), number, number, 1, 0)

    def change(self, name: str, turn: int) -> None:
        self._put(keys.machine(name), _machine(name, turn))

    def claim(self, shard: int, owner: str) -> None:
        self._put(keys.claim("local", shard), encode(Claim(owner=owner)))

    def _put(self, key: str, value: bytes) -> None:
        self._revision += 1
        item = Item(key, value, 2, self._revision, 2, 0)
        self.mirror.apply(Batch(self._revision, (Change(key, item, self._revision),)))


class _NoPast:
    async def between(self, _revision: int, _until: int) -> Sequence[Change]:
        return ()


def _machine(name: str, turn: int) -> bytes:
    labels = {"host": name, "site": "fra", "rack": f"r-{turn % 40}", "team": "storage"}
    metadata = Metadata(name=name, labels=labels, tags=("gpu", "ssd"), created_at=_T0, updated_at=_T0)
    return encode(Machine(metadata=metadata, spec=MachineSpec(interfaces=(Interface(mac=f"02::{name}"),))))


async def cost(count: int, asked: Sequence[Filter]) -> Cost:
    """Let so many machines change under clients with these filters."""
    world = World(count)
    clients = [world.feed.follow(View(one)) for one in asked]
    chance = random.Random(1)
    chosen = [chance.choice(world.names) for _ in range(_CHANGES)]
    spent = 0.0
    for start in range(0, _CHANGES, _AT_ONCE):
        began = time.process_time()
        for turn, name in enumerate(chosen[start : start + _AT_ONCE], 1):
            world.change(name, turn)
        spent += time.process_time() - began
        await asyncio.sleep(_PAUSE)
        spent += _taken([client for client in clients if client.woken.is_set()])
    change = spent / _CHANGES
    glance = _taken(clients) / len(clients)
    began = time.process_time()
    world.claim(0, "a")
    spent = time.process_time() - began
    await asyncio.sleep(_PAUSE)
    return Cost(change, glance, spent + _taken([client for client in clients if client.woken.is_set()]))


def _taken(clients: Sequence[Subscription]) -> float:
    began = time.process_time()
    for client in clients:
        while client.take() is not None:
            pass
    return time.process_time() - began


async def main(count: int) -> None:
    """Measure and publish."""
    alone = await cost(count, [Filter()])
    rows = [*_rows("one client of everything", alone, alone)]
    for way, filter_of in _WAYS.items():
        found = await cost(count, [filter_of(f"m-{number}") for number in range(count)])
        rows += _rows(f"{count} clients, each of another machine, by `{way}`", found, alone)
    publish(
        "Feed: clients that each follow something else",
        f"{count} machines in a feed without sockets. CPU until all whom it concerns have taken it: for each change of "
        f"one machine; for each client that looks, at its heartbeat, after {_CHANGES} changes; for one claim that "
        "changes an eighth of all machines at once. Decoding the record and finding the change are in it.",
        rows,
    )


def _rows(who: str, found: Cost, alone: Cost) -> Iterator[Row]:
    yield Row(f"{who}: a change", f"{found.change * 1e6:.0f} µs", f"{found.change / alone.change:.1f}")
    yield Row("its heartbeat", f"{found.glance * 1e6:.1f} µs")
    yield Row("a claim", f"{found.shard * 1e3:.0f} ms", f"{found.shard / alone.shard:.1f}")


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
