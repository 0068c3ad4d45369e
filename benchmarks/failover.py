"""How long nobody acts when a replica dies or is told to stop, and what clients behind HAProxy feel of it.

    python -m benchmarks.failover [HITS] [SIGKILL | SIGTERM]

Three replicas under steady load. One is hit; at that moment a provision is asked for on a machine of each of its
shards, at another replica. An independent watcher of the API server says when each of those Workflows was armed, which
is when somebody else has acted. Then the replica is started again, and the next is hit when the swarm is whole.
"""

import asyncio
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from http import HTTPStatus
from statistics import median
from typing import Any, Final, NamedTuple

import aiohttp
import uvloop

from benchmarks.harness import Row, Stage, milliseconds, percentile, publish, spread, stage
from benchmarks.load import Answered, Failure, Load
from benchmarks.provisions import TEMPLATE, UNLIMITED, Armed, machine
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.sandbox.swarm import Replica
from dragonfly.swarm.shards import shard_of

TTL: Final = 3
"""Seconds: the default of DRAGONFLY_LEASE_TTL."""
LOADED: Final = 100
"""Machines that the steady load reads and writes."""
BURST: Final = 30
"""Requests more at the moment of each hit."""
HEADINGS: Final = {
    signal.SIGKILL: "Failover: from a replica that died to another that acts",
    signal.SIGTERM: "Failover: from a replica that is told to stop to another that acts",
}
EXPLANATION: Final = (
    "one of three replicas gets the signal, under steady load through HAProxy (50 reads and 25 idempotent writes a "
    f"second, and {BURST} at once at that moment). At the same moment a provision is asked for on a machine of every "
    "shard of that replica; an independent watcher says when each Workflow was armed. Of a replica that died, the "
    f"lease must end first: its TTL is {TTL} s and is renewed each third of it, so 2 to 3 s are left, and etcd looks "
    "twice a second for leases that have ended. So nobody can know before 2 to 3.5 s have passed."
)
_QUIET: Final = 1.5
"""Seconds without a change of claims after which the swarm counts as settled: longer than a rank's turn."""
_BETWEEN_KEEPALIVES: Final = TTL / 3
"""Seconds; a hit comes at any moment of them."""
_PATIENCE: Final = 60


class Hit(NamedTuple):
    """What came of one signal to one replica."""

    at: float
    names: frozenset[str]
    """Of the replica that was hit: its own, and HAProxy's."""
    seconds: tuple[float, ...]
    """For each of its shards: until another replica had armed a Workflow there."""
    under_way: int
    """Requests of the load that waited for their answer at that moment, whichever replica had them."""


class Phase(NamedTuple):
    """What came of one kind of signal."""

    hits: list[Hit]
    answered: list[Answered]


class Swarm:
    """The replicas as this benchmark needs them: who drives what, asked, hit, and whole again."""

    def __init__(self, running: Stage, session: aiohttp.ClientSession, armed: Armed) -> None:
        self.replicas = running.swarm.replicas
        self._session = session
        self._armed = armed
        self._numbers = itertools.count(LOADED)

    async def prepare(self) -> list[str]:
        """Make the template, and the machines of the steady load; return their names."""
        await self._post(self.replicas[0], "templates", TEMPLATE)
        return [await self._register(self.replicas[0], f"load-{number}", number) for number in range(LOADED)]

    async def whole(self) -> dict[int, str]:
        """Wait until all replicas are ready and claims stand still; return who owns each shard."""
        async with asyncio.timeout(_PATIENCE):
            known, since = await self._owners(), time.perf_counter()
            while not known or time.perf_counter() - since < _QUIET:
                await asyncio.sleep(0.1)
                if (now := await self._owners()) != known:
                    known, since = now, time.perf_counter()
            return known

    async def hit(self, victim: Replica, number: signal.Signals, load: Load, pause: float) -> Hit:
        """Send a signal to a replica of the whole swarm and wait until each of its shards was acted on again.

        Args:
            victim: who is hit.
            number: with what.
            load: gets a burst just before, so that requests are under way.
            pause: seconds to wait before that.
        """
        owners = await self.whole()
        other = next(replica for replica in self.replicas if replica is not victim)
        names = [await self._machine_in(shard, other, len(owners)) for shard in owners if owners[shard] == victim.id]
        await asyncio.sleep(pause)
        under_way, at = await load.burst(BURST), time.perf_counter()
        victim.service.signal(number)
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._post(other, f"machines/{name}/provision", {"template": "bench"}))
        await self._armed.seen(set(names), within=_PATIENCE)
        number_of_it = self.replicas.index(victim) + 1
        known_as = frozenset({victim.id, f"replica-{number_of_it}"})
        return Hit(at, known_as, tuple(self._armed.at[name] - at for name in names), under_way)

    async def _machine_in(self, shard: int, replica: Replica, shards: int) -> str:
        """Make a new machine in that shard and wait until its owner has brought it into the cluster."""
        number = next(number for number in self._numbers if shard_of(f"f-{number}", shards) == shard)
        name = await self._register(replica, f"f-{number}", number)
        async with asyncio.timeout(_PATIENCE):
            while True:
                found = await self._get(f"{replica.url}/api/v1/machines/{name}")
                if found and found["status"].get("conditions"):
                    return name
                await asyncio.sleep(0.05)

    async def _register(self, replica: Replica, name: str, number: int) -> str:
        await self._post(replica, "machines", machine(name, number))
        return name

    async def _owners(self) -> dict[int, str]:
        """Who owns each shard, if every replica is ready and sees the same whole swarm; else nothing."""
        try:
            for replica in self.replicas:
                if await self._get(f"{replica.url}/readyz") is None:
                    return {}
            views = [await self._get(f"{replica.url}/api/v1/swarm") for replica in self.replicas]
        except aiohttp.ClientError:
            return {}
        owners = [{claim["shard"]: str(claim["owner"]) for claim in view["claims"]} for view in views]
        is_whole = all(len(view["members"]) == len(self.replicas) and not view["unowned"] for view in views)
        return owners[0] if is_whole and all(found == owners[0] for found in owners) else {}

    async def _get(self, url: str) -> Any:
        async with self._session.get(url) as answer:
            return await answer.json() if answer.status == HTTPStatus.OK else None

    async def _post(self, replica: Replica, path: str, body: Mapping[str, Any]) -> None:
        async with self._session.post(f"{replica.url}/api/v1/{path}", json=body) as answer:
            if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")


async def main(hits: int, signals: Sequence[signal.Signals]) -> None:
    """Measure and publish, one signal after the other."""
    for number in signals:
        with stage() as running:
            found = await measure(running, hits, number)
        publish(HEADINGS[number], f"{hits} times: {EXPLANATION}", list(rows(found)))


async def measure(running: Stage, hits: int, number: signal.Signals) -> Phase:
    """Hit replicas in turn, so many times."""
    headers = {"Authorization": f"Bearer {running.token}"}
    async with AsyncExitStack() as stack:
        watching = await stack.enter_async_context(Connection(Kubeconfig((running.plane.kubeconfig,)), UNLIMITED))
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        clients = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        armed = Armed(watching)
        await armed.start()
        stack.push_async_callback(armed.stop)
        swarm = Swarm(running, session, armed)
        loaded = await swarm.prepare()
        return await phase(swarm, number, hits, Load(clients, running.url, loaded))


async def phase(swarm: Swarm, number: signal.Signals, count: int, load: Load) -> Phase:
    """Hit one replica after the other, at moments that a seed picks, under load all the time."""
    chance = random.Random(number)
    hits = []
    async with load:
        for victim in itertools.islice(itertools.cycle(swarm.replicas), count):
            hits.append(await swarm.hit(victim, number, load, chance.random() * _BETWEEN_KEEPALIVES))
            shown = ", ".join(f"{seconds:.3f}" for seconds in hits[-1].seconds)
            print(f"{number.name} {victim.id}: {shown} s", file=sys.stderr, flush=True)
        await swarm.whole()
    return Phase(hits, load.answered)


def rows(phase: Phase) -> Iterator[Row]:
    yield from _acted(phase)
    yield from _felt(phase)


def _acted(phase: Phase) -> Iterator[Row]:
    worst = [max(hit.seconds) for hit in phase.hits if hit.seconds]
    every = [seconds for hit in phase.hits for seconds in hit.seconds]
    for what, values in (("all its shards acted on", worst), ("one of its shards acted on", every)):
        p50, p99, most = median(values), percentile(values, 0.99), max(values)
        yield Row(
            f"{what} ({len(values)})",
            f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)}, max {milliseconds(most)}",
            f"{p50 / TTL:.2f}, {p99 / TTL:.2f}, {most / TTL:.2f} of the TTL",
        )


def _felt(phase: Phase) -> Iterator[Row]:
    answered = phase.answered
    failed = [answer for answer in answered if answer.failures]
    others = [
        answer for answer in failed if not all(is_the_hit_ones(failure, phase.hits) for failure in answer.failures)
    ]
    lost = [answer for answer in answered if not answer.succeeded]
    waiting = sum(hit.under_way for hit in phase.hits)
    seconds = [answer.ended - answer.began for answer in answered]
    yield Row(
        "requests through HAProxy",
        f"{len(answered)}, of which {waiting} under way at a hit",
        f"{len(failed) / len(answered):.3%} failed",
    )
    yield Row(
        "failed requests",
        f"{len(failed)}; {len(others)} of them not on the replica that was hit at that moment, {len(lost)} also when "
        "sent again",
    )
    yield Row("time of a request", f"{spread(seconds)}, max {milliseconds(max(seconds))}")
    for words in sorted({failure.words for answer in failed for failure in answer.failures}):
        print(words, file=sys.stderr)


def is_the_hit_ones(failure: Failure, hits: Sequence[Hit]) -> bool:
    """Whether it was under way on the very replica that was hit at that moment: no load balancer can give it back."""
    return any(failure.began <= hit.at <= failure.ended and failure.server in hit.names for hit in hits)


if __name__ == "__main__":
    asked = [signal.Signals[name] for name in sys.argv[2:]]
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, asked or list(HEADINGS)))
