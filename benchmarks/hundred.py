"""A hundred clusters on three replicas: who drives what, what that costs, and who takes over from one that dies.

    python -m benchmarks.hundred [CLUSTERS] [HITS] [MACHINES]

The clusters are namespaces of three API servers, each registered with a service account and a token of its own, with
MACHINES machines each. Tinkerbell has only installed its CRDs: none of these figures needs it. The swarm has an etcd of
its own.
"""

import asyncio
import itertools
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGKILL
from statistics import mean, median
from typing import Final, NamedTuple

import aiohttp
import uvloop

from benchmarks.clusters import Api, kubeconfig_of, planes
from benchmarks.harness import Row, Stage, milliseconds, own_etcd, percentile, publish, spread, swarm_on
from benchmarks.idle import cpu_seconds, metrics, resident
from benchmarks.provisions import TEMPLATE, UNLIMITED, Armed, machine
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.model.swarm import Claim, Member
from dragonfly.model.values import LOCAL
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.swarm import Replica
from dragonfly.store import keys
from dragonfly.store.client import EtcdStore
from dragonfly.store.follow import Follower
from dragonfly.store.mirror import Mirror, Update
from dragonfly.store.records import decode
from dragonfly.store.settings import EtcdSettings
from dragonfly.swarm.shards import ShardId, shard_of

PLANES: Final = 3
SHARDS: Final = 8
TTL: Final = 3
"""Seconds: the default of DRAGONFLY_LEASE_TTL."""
WITHIN: Final = TTL + 2
ASKED: Final = 24
"""Shards of a dead replica on which a provision is asked for: as many as do not measure throughput instead."""
REST: Final = 20.0
"""Seconds for which a swarm with nothing to do is watched."""
_QUIET: Final = 3.0
"""Seconds without a change of claims after which the swarm counts as settled: longer than a rank's turn."""
_PATIENCE: Final = 300
_GLANCE: Final = 0.05
_WATCHES: Final = re.compile(
    r'^apiserver_longrunning_requests{.*group="(?:bmc\.)?tinkerbell\.org".*} (\S+)$', re.MULTILINE
)


class Scene(NamedTuple):
    """What runs."""

    running: Stage
    etcd: Etcd
    """The swarm's own."""
    hosts: Sequence[ControlPlane]


class Hit(NamedTuple):
    """What came of one replica's death; times are seconds since then."""

    claimed: tuple[float, ...]
    """Until each of its shards was another's."""
    acted: tuple[float, ...]
    """Until a Workflow was armed in some of them."""
    reads: tuple[float, ...]
    """Seconds that lists took at the others meanwhile."""
    whole: float
    """From its start until it was back and had its share."""


class Rest(NamedTuple):
    """What a swarm uses that has nothing to do, of each replica."""

    cpu: tuple[float, ...]
    """Cores."""
    memory: tuple[int, ...]
    """Bytes."""
    threads: tuple[int, ...]
    etcd: float
    """Calls to etcd a second, of all."""


class Sight:
    """An independent watcher of etcd: who owns what, and since when by `perf_counter`."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.owners: dict[ShardId, str] = {}
        self.since: dict[ShardId, float] = {}
        self.changed_at = time.perf_counter()
        mirror.subscribe(keys.CLAIMS, self._changed)

    def is_whole(self, replicas: int, clusters: int) -> bool:
        """Whether all replicas reach all clusters and each drives some of what is driven: all, for a while already."""
        found = [held.object for held in self.mirror.under(keys.MEMBERS)]
        members = [member for member in found if isinstance(member, Member) and len(member.clusters) == clusters]
        is_driven = len(self.owners) == clusters * SHARDS and len(set(self.owners.values())) == replicas
        return is_driven and len(members) == replicas and time.perf_counter() - self.changed_at >= _QUIET

    def _changed(self, update: Update) -> None:
        if (place := keys.claim_in(update.key)) is None:
            return
        shard = ShardId(*place)
        self.changed_at = self.since[shard] = time.perf_counter()
        if update.held is not None and isinstance(update.held.object, Claim):
            self.owners[shard] = update.held.object.owner
        else:
            self.owners.pop(shard, None)


class Hundred:
    """The swarm and its clusters as this benchmark needs them."""

    def __init__(self, scene: Scene, api: Api, sight: Sight, armed: list[Armed]) -> None:
        self.replicas = scene.running.swarm.replicas
        self.clusters = 1
        self._etcd = scene.etcd
        self._hosts = scene.hosts
        self._api = api
        self._sight = sight
        self._armed = armed
        self._unused: dict[ShardId, list[str]] = defaultdict(list)

    async def register(self, clusters: int, directory: Path) -> float:
        """Register clusters up to that many; the seconds from the first until all is driven."""
        made = await asyncio.to_thread(self._made, clusters, directory)
        began = time.perf_counter()
        for name, namespace, kubeconfig in made:
            await self._api.register_cluster(name, kubeconfig=kubeconfig, namespace=namespace, shards=SHARDS)
        self.clusters = clusters
        return await self.whole() - began

    async def whole(self) -> float:
        """Wait until all is driven and stands still; when the last claim changed."""
        await _until(lambda: self._sight.is_whole(len(self.replicas), self.clusters))
        return self._sight.changed_at

    async def populate(self, machines: int) -> None:
        """Register so many machines in each cluster and wait until all are in theirs."""
        names = [LOCAL, *(f"c{number}" for number in range(1, self.clusters))]
        bodies = []
        for number, (cluster, _) in enumerate(itertools.product(names, range(machines))):
            body = machine(f"m-{number}", number)
            body["spec"]["cluster"] = cluster
            bodies.append(body)
            self._unused[ShardId(cluster, shard_of(f"m-{number}", SHARDS))].append(f"m-{number}")
        await self._api.post("templates", TEMPLATE)
        await self._api.register_machines(bodies)
        async with asyncio.timeout(_PATIENCE):
            while True:
                if all(item["status"].get("conditions") for item in await self._api.all("machines?")):
                    return
                await asyncio.sleep(1)

    async def rest(self) -> Rest:
        pids = [replica.service.pid for replica in self.replicas]
        before, calls, began = [*map(cpu_seconds, pids)], self._calls(), time.perf_counter()
        await asyncio.sleep(REST)
        elapsed = time.perf_counter() - began
        cpu = tuple((cpu_seconds(pid) - used) / elapsed for pid, used in zip(pids, before, strict=True))
        etcd = (self._calls() - calls) / elapsed
        return Rest(cpu, tuple(map(resident, pids)), tuple(map(_threads, pids)), etcd)

    def shares(self) -> Counter[str]:
        return Counter(self._sight.owners.values())

    def watches(self) -> int:
        """How many the API servers have open for Tinkerbell's types, without this benchmark's own."""
        texts = (str(plane.apiserver.admin.request("GET", "/metrics").body) for plane in self._hosts)
        return round(sum(float(found) for text in texts for found in _WATCHES.findall(text))) - len(self._armed)

    async def hit(self, victim: Replica, chance: random.Random) -> Hit:
        """Kill a replica of the whole swarm, wait until others act on what it drove, and until it is back."""
        await self.whole()
        await asyncio.sleep(chance.random() * TTL / 3)
        lost = [shard for shard, owner in self._sight.owners.items() if owner == victim.id]
        names = {self._unused[shard].pop() for shard in chance.sample(self._with_machines(lost), ASKED)}
        others = [replica for replica in self.replicas if replica is not victim]
        async with _reading(self._api.session, others) as reads:
            at = time.perf_counter()
            victim.service.signal(SIGKILL)
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(self._provision(others[0], name))
            claimed = await self._claimed(lost, victim.id, at)
            acted = await self._acted(names, at)
        # Only now: on a computer of its own it would not take from the others what they need for taking over.
        began = time.perf_counter()
        await asyncio.to_thread(victim.service.start)
        return Hit(claimed, acted, tuple(reads), await self.whole() - began)

    async def _provision(self, replica: Replica, name: str) -> None:
        await Api(self._api.session, replica.url).post(f"machines/{name}/provision", {"template": "bench"})

    async def _claimed(self, lost: list[ShardId], victim: str, at: float) -> tuple[float, ...]:
        sight = self._sight
        await _until(
            lambda: all(sight.owners.get(shard, victim) != victim and sight.since[shard] >= at for shard in lost)
        )
        return tuple(sight.since[shard] - at for shard in lost)

    async def _acted(self, names: set[str], at: float) -> tuple[float, ...]:
        await _until(lambda: names <= self._seen().keys())
        return tuple(self._seen()[name] - at for name in names)

    def _seen(self) -> dict[str, float]:
        return {name: when for armed in self._armed for name, when in armed.at.items()}

    def _with_machines(self, shards: list[ShardId]) -> list[ShardId]:
        return [shard for shard in shards if self._unused[shard]]

    def _made(self, clusters: int, directory: Path) -> list[tuple[str, str, str]]:
        """Namespaces for so many clusters; name, namespace and kubeconfig of each."""
        named = [(number, f"tinkerbell-{number}") for number in range(1, clusters)]
        hosts = self._hosts
        return [(f"c{number}", name, kubeconfig_of(hosts[number % PLANES], name, directory)) for number, name in named]

    def _calls(self) -> float:
        return sum(value for name, value in metrics(self._etcd).items() if name[:1].isupper())


@asynccontextmanager
async def _reading(session: aiohttp.ClientSession, replicas: Sequence[Replica]) -> AsyncIterator[list[float]]:
    """List machines at these replicas all the time; the seconds that each list took."""
    seconds: list[float] = []

    async def read(replica: Replica) -> None:
        while True:
            began = time.perf_counter()
            await Api(session, replica.url).get("machines?limit=20")
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(_GLANCE)

    tasks = [asyncio.create_task(read(replica)) for replica in replicas]
    try:
        yield seconds
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            if is_so():
                return
            await asyncio.sleep(_GLANCE)


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@asynccontextmanager
async def seen(etcd: Etcd) -> AsyncIterator[Sight]:
    """Follow what the swarm keeps in etcd."""
    settings = EtcdSettings(
        endpoints=etcd.endpoints,
        ca_file=etcd.access.ca,
        cert_file=etcd.access.client.certificate,
        key_file=etcd.access.client.key,
    )
    async with EtcdStore(settings) as store:
        mirror = Mirror(decode, clock=store.gateway.clock, on_undecodable=print)
        follower = Follower(store, store.gateway, mirror, jitter=lambda: 0.5)
        sight = Sight(mirror)
        await follower.start()
        try:
            await mirror.wait_for(1, 10)
            yield sight
        finally:
            await follower.stop()


async def measure(scene: Scene, *, clusters: int, hits: int, machines: int) -> list[Row]:
    """Register, look, and hit replicas in turn."""
    running, etcd, hosts = scene
    async with AsyncExitStack() as stack:
        # A connection that is kept may be closed at the other end just when a POST, which is not sent twice, is due.
        connector = aiohttp.TCPConnector(force_close=True)
        headers = {"Authorization": f"Bearer {running.token}"}
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=headers))
        sight = await stack.enter_async_context(seen(etcd))
        armed = [await _watching(stack, plane) for plane in hosts]
        hundred = Hundred(scene, Api(session, running.url), sight, armed)
        await hundred.whole()
        alone = await hundred.rest()
        _say(f"alone: {alone}")
        registered = await hundred.register(clusters, etcd.members[0].data.parent)
        _say(f"registered: {registered:.1f} s")
        await hundred.populate(machines)
        await hundred.whole()
        rest = await hundred.rest()
        _say(f"at rest: {rest}")
        shares, watches = hundred.shares(), hundred.watches()
        found = []
        chance = random.Random(clusters)
        for victim in itertools.islice(itertools.cycle(hundred.replicas), hits):
            hit = await hundred.hit(victim, chance)
            found.append(hit)
            _say(f"{victim.id}: claimed {max(hit.claimed):.2f} s, acted {max(hit.acted):.2f} s, {hit.whole:.1f} s back")
    return [
        Row("all registered → all reached and driven", f"{registered:.1f} s", f"{registered / clusters:.2f} s each"),
        *_resting(alone, rest, clusters),
        *_shared(shares, watches, clusters),
        *_taken_over(found),
    ]


async def _watching(stack: AsyncExitStack, plane: ControlPlane) -> Armed:
    connection = await stack.enter_async_context(Connection(Kubeconfig((plane.admin_kubeconfig,)), UNLIMITED))
    armed = Armed(connection, "")
    await armed.start()
    stack.push_async_callback(armed.stop)
    return armed


def _resting(alone: Rest, rest: Rest, clusters: int) -> Iterator[Row]:
    more = mean(rest.memory) - mean(alone.memory)
    yield Row(
        "memory of each replica",
        ", ".join(f"{size / 1e6:.0f} MB" for size in rest.memory),
        f"{mean(alone.memory) / 1e6:.0f} MB with one cluster; {more / (clusters - 1) / 1e3:.0f} kB for each other one",
    )
    one, all_ = mean(alone.cpu), mean(rest.cpu)
    yield Row(
        "CPU of each replica at rest",
        ", ".join(f"{share:.2%}" for share in rest.cpu),
        f"{one:.2%} with one cluster; {(all_ - one) / (clusters - 1):.3%} for each other one",
    )
    threads = ", ".join(map(str, rest.threads))
    yield Row("threads of each replica", threads, f"{max(alone.threads)} with one cluster")
    yield Row("etcd: calls at rest, of all", f"{rest.etcd:.1f}/s", f"{alone.etcd:.1f}/s with one cluster")


def _shared(shares: Counter[str], watches: int, clusters: int) -> Iterator[Row]:
    even = shares.total() / len(shares)
    furthest = max(abs(count - even) / even for count in shares.values())
    counted = ", ".join(str(count) for _, count in sorted(shares.items()))
    yield Row("shards of each replica", counted, f"at most {furthest:.1%} from even")
    yield Row(
        "watches at the API servers", str(watches), f"{watches / clusters / len(shares):.1f} a cluster and replica"
    )


def _taken_over(hits: list[Hit]) -> Iterator[Row]:
    last = [max(hit.claimed) for hit in hits]
    yield Row(
        f"replica killed → all its shards claimed ({len(hits)})",
        f"p50 {median(last):.2f} s, max {max(last):.2f} s",
        f"max is {max(last) / WITHIN:.2f} of TTL + 2 s",
    )
    every = [seconds for hit in hits for seconds in hit.acted]
    yield Row(
        f"replica killed → a Workflow armed in one of its shards ({len(every)})",
        f"p50 {median(every):.2f} s, p99 {percentile(every, 0.99):.2f} s, max {max(every):.2f} s",
        f"max is {max(every) / WITHIN:.2f} of TTL + 2 s",
    )
    reads = [seconds for hit in hits for seconds in hit.reads]
    yield Row(f"lists of 20 at the others meanwhile ({len(reads)})", f"{spread(reads)}, max {milliseconds(max(reads))}")
    back = [hit.whole for hit in hits]
    yield Row("replica started again → it has its share", f"p50 {median(back):.1f} s, max {max(back):.1f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(clusters: int, hits: int, machines: int) -> None:
    """Measure and publish."""
    with planes(PLANES) as hosts, own_etcd(hosts[0].directory / "swarm-etcd") as etcd:
        for plane in hosts:
            plane.tinkerbell.service.stop()
        with swarm_on(hosts[0], hosts[0].directory, etcd=etcd, restart=False) as running:
            rows = uvloop.run(measure(Scene(running, etcd, hosts), clusters=clusters, hits=hits, machines=machines))
    publish(
        "A hundred clusters: three replicas, and one of them dies",
        f"{clusters} clusters with {machines} machines each: namespaces of {PLANES} kube-apiservers, each registered "
        f"with a token of its own. {hits} times one of three replicas is killed with -9; at the same moment provisions "
        f"are asked for in {ASKED} of its shards. It is started again once others act on them. The lease must end "
        "first: 2 to 3.5 s. All parts share two cores; Tinkerbell has only installed its CRDs.",
        rows,
    )


if __name__ == "__main__":
    asked = [int(argument) for argument in sys.argv[1:]]
    main(*(asked + [100, 9, 10][len(asked) :]))
