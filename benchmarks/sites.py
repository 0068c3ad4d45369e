"""Three clusters, three sites, five replicas: all installed; then one cluster is slow, one stopped.

    python -m benchmarks.sites [MACHINES [SAMPLES [ROUNDS]]]

MACHINES are spread over three API servers with a Tinkerbell each; one of them is reached from one site alone. All are
switched on and provisioned (`benchmarks.installed`). Then the cluster that one site reaches is measured, one
provision at a time, on further machines that stay off: with and without faults in turn, since a computer does not run
alike from minute to minute. The swarm has an etcd of its own.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp
import uvloop

from benchmarks.clusters import Api, planes
from benchmarks.harness import Row, Stage, milliseconds, own_etcd, percentile, publish, spread, swarm_on
from benchmarks.installed import AT_ONCE, BEHAVIOUR, Fleet, Installed, install, rows, switched_on
from benchmarks.provisions import TEMPLATE, UNLIMITED, Armed, Calm, machine
from benchmarks.telling import Told, is_reached, since, told_of, until
from dragonfly.client import AsyncClient
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.model.values import LOCAL
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.gates import Gates, named
from dragonfly.sandbox.inventory import mac
from dragonfly.sandbox.ports import PortLease
from tests.e2e.site import Machine

T = TypeVar("T")

SLOWED: Final = LOCAL
STOPPED: Final = "ber"
MEASURED: Final = "fra"
CLUSTERS: Final = (SLOWED, STOPPED, MEASURED)
SITES: Final = {"a": "fra1", "b": "fra1", "c": "ber1", "d": "ber1", "e": "muc1"}
ROUTES: Final = {"fra1": CLUSTERS, "ber1": (SLOWED, STOPPED), "muc1": (SLOWED, STOPPED)}
SLOW: Final = 20.0
"""Seconds by which each answer is late."""
WAITING: Final = 50
"""Provisions that are asked for in each of the bad clusters."""
_PAUSE: Final = 0.05
"""Seconds between an armed Workflow and the next that is asked for."""
_WARM: Final = 20
"""Samples that are thrown away after each change."""
_PATIENCE: Final = 300
_TAIL: Final = 0.99
_LOOK: Final = 1.0
"""Seconds between two looks at every machine."""


class Watched(NamedTuple):
    """What is seen of a cluster without Dragonfly."""

    armed: Armed
    calm: Calm


class Fault(NamedTuple):
    """What became of the bad clusters, by their names."""

    told: Mapping[str, Told]
    back: Mapping[str, float]
    """Seconds from the mending until all that waited was armed."""


class Round(NamedTuple):
    """What was measured in turn; seconds from each intent until its Workflow was armed."""

    before: Sequence[float]
    during: Sequence[float]
    fault: Fault


class Staged(NamedTuple):
    """What runs."""

    running: Stage
    gates: Gates
    hosts: Mapping[str, ControlPlane]
    etcd: Etcd
    """The swarm's own."""
    directory: Path
    """For files of the machines."""


class Scene:
    """The swarm and its clusters as this benchmark needs them."""

    def __init__(
        self, api: Api, staged: Staged, watched: Mapping[str, Watched], names: Mapping[str, Iterator[str]]
    ) -> None:
        """`names`: of machines of each cluster that were not provisioned yet."""
        self._api = api
        self._running = staged.running
        self._gates = staged.gates
        self._hosts = staged.hosts
        self._watched = watched
        self._names = names

    async def round(self, samples: int) -> Round:
        """Measure while all is well, and again while one cluster is slow and one stopped."""
        before = await self.measure("before", samples)
        return Round(before, *await self._during(samples))

    async def measure(self, name: str, samples: int) -> list[float]:
        """Provision one machine after the other in the measured cluster, once nobody has work left."""
        await _each(CLUSTERS, lambda cluster: self._watched[cluster].calm.reached(_PATIENCE))
        return await self._samples(name, samples)

    async def _during(self, samples: int) -> tuple[list[float], Fault]:
        began = time.perf_counter()
        self._gates.slow(SLOWED, SLOW)
        self._hosts[STOPPED].apiserver.service.kill()
        told = await _each((SLOWED, STOPPED), lambda cluster: told_of(cluster, self._running, self._api, began))
        _say(f"told: {told}")
        waiting = {cluster: {await self._ask(cluster) for _ in range(WAITING)} for cluster in (SLOWED, STOPPED)}
        seconds = await self._samples("one slow, one stopped", samples)
        mended = time.perf_counter()
        self._gates.heal(SLOWED)
        await asyncio.to_thread(self._hosts[STOPPED].apiserver.service.start)
        back = await _each((SLOWED, STOPPED), lambda cluster: self._until_armed(cluster, waiting[cluster], mended))
        _say(f"back: {back}")
        await _each((SLOWED, STOPPED), lambda cluster: since(mended, lambda: is_reached(self._api, cluster)))
        return seconds, Fault(told, back)

    async def _samples(self, name: str, samples: int) -> list[float]:
        seconds = [await self._sample() for _ in range(_WARM + samples)][_WARM:]
        _say(f"{name}: {spread(seconds)}, max {milliseconds(max(seconds))}")
        return seconds

    async def _sample(self) -> float:
        asked = time.perf_counter()
        name = await self._ask(MEASURED)
        await self._watched[MEASURED].armed.seen({name}, _PATIENCE)
        await asyncio.sleep(_PAUSE)
        return self._watched[MEASURED].armed.at[name] - asked

    async def _ask(self, cluster: str) -> str:
        name = next(self._names[cluster])
        await self._api.post(f"machines/{name}/provision", {"template": "bench"})
        return name

    async def _until_armed(self, cluster: str, machines: set[str], began: float) -> float:
        await self._watched[cluster].armed.seen(machines, _PATIENCE)
        return max(self._watched[cluster].armed.at[name] for name in machines) - began


async def _each(clusters: Sequence[str], look: Callable[[str], Coroutine[Any, Any, T]]) -> dict[str, T]:
    found = await asyncio.gather(*map(look, clusters))
    return dict(zip(clusters, found, strict=True))


async def prepared(api: Api, hosts: Mapping[str, ControlPlane], counts: Mapping[str, int]) -> dict[str, list[Machine]]:
    """Register the clusters, and in each as many machines as `counts` says; these by cluster."""
    for cluster, site in ((STOPPED, "ber1"), (MEASURED, "fra1")):
        kubeconfig = named(hosts[cluster].kubeconfig.read_text(), cluster)
        await api.register_cluster(cluster, kubeconfig=kubeconfig, sites=[site])
    await _driven(api)
    await api.post("templates", TEMPLATE)
    bodies = []
    made: dict[str, list[Machine]] = {cluster: [] for cluster in counts}
    for number, cluster in enumerate(_in_turns(counts)):
        body = machine(f"{cluster}-{number}", number)
        body["spec"]["cluster"] = cluster
        bodies.append(body)
        made[cluster].append(Machine(body["metadata"]["name"], mac(number)))
    await api.register_machines(bodies)

    async def are_there() -> bool:
        return all(item["status"].get("conditions") for item in await api.all("machines?"))

    await until(are_there, within=_PATIENCE + len(bodies) / 5, every=_LOOK)
    return made


def _in_turns(counts: Mapping[str, int]) -> Iterator[str]:
    """Each cluster as often as `counts` says, one after the other while there are any of it."""
    turns = itertools.zip_longest(*([cluster] * count for cluster, count in counts.items()))
    return (cluster for turn in turns for cluster in turn if cluster is not None)


async def _driven(api: Api) -> None:
    """Wait until each cluster is driven, and the measured one from its own site alone."""

    async def is_so() -> bool:
        owners = {name: set((await api.get(f"clusters/{name}"))["status"]["owners"].values()) for name in CLUSTERS}
        return all("" not in found for found in owners.values()) and owners[MEASURED] == {"a", "b"}

    await until(is_so)


async def run(staged: Staged, machines: int, samples: int, rounds: int) -> list[Row]:
    """Install all, measure in rounds, and once more when all is well again."""
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(force_close=True)
        headers = {"Authorization": f"Bearer {staged.running.token}"}
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=headers))
        api = Api(session, staged.running.url)
        began = time.perf_counter()
        made = await prepared(api, staged.hosts, _counts(machines, samples, rounds))
        _say(f"{sum(map(len, made.values()))} machines are there after {time.perf_counter() - began:.0f} s")
        each = machines // len(CLUSTERS)
        found = await _installed(staged, {cluster: some[:each] for cluster, some in made.items()})
        installed = list(rows(found))
        for row in installed:
            _say(" | ".join(row))
        watched = {cluster: await _watching(stack, plane) for cluster, plane in staged.hosts.items()}
        left = {cluster: iter([one.name for one in some[each:]]) for cluster, some in made.items()}
        scene = Scene(api, staged, watched, left)
        told = [await scene.round(samples) for _ in range(rounds)]
        after = await scene.measure("after", samples)
    return [*installed, *_latencies(told, after), *_told([one.fault for one in told])]


def _counts(machines: int, samples: int, rounds: int) -> dict[str, int]:
    """How many machines each cluster has: those that are installed, and those that are measured with."""
    waiting = rounds * WAITING
    more = {SLOWED: waiting, STOPPED: waiting, MEASURED: (2 * rounds + 1) * (_WARM + samples)}
    return {cluster: machines // len(CLUSTERS) + more[cluster] for cluster in CLUSTERS}


async def _installed(staged: Staged, machines: Mapping[str, Sequence[Machine]]) -> Installed:
    """Install the machines through all replicas, with clients that ask again while etcd has no time for a replica."""
    fleet = Fleet(machines, staged.hosts)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(replica.url, staged.running.token, patience=_PATIENCE))
            for replica in staged.running.swarm.replicas
        ]
        with switched_on(fleet, staged.directory) as agents:
            return await install(clients, fleet, agents, _processes(staged), _PATIENCE + fleet.size / 2)


def _processes(staged: Staged) -> dict[str, list[int]]:
    """Whose CPU is counted."""
    found: dict[str, list[int]] = {"replicas": [replica.service.pid for replica in staged.running.swarm.replicas]}
    for running in (process for plane in staged.hosts.values() for process in plane.processes):
        found.setdefault(running.name, []).append(running.pid)
    return found | {"etcd of the swarm": [member.service.pid for member in staged.etcd.members]}


async def _watching(stack: AsyncExitStack, plane: ControlPlane) -> Watched:
    connection = await stack.enter_async_context(Connection(Kubeconfig((plane.admin_kubeconfig,)), UNLIMITED))
    watched = Watched(Armed(connection), Calm(connection))
    for one in watched:
        await one.start()
        stack.push_async_callback(one.stop)
    return watched


def _latencies(rounds: Sequence[Round], after: Sequence[float]) -> Iterator[Row]:
    before = [seconds for one in rounds for seconds in one.before]
    during = [seconds for one in rounds for seconds in one.during]
    yield _latency("before", before, before)
    yield _latency("one slow, one stopped", during, before)
    yield _latency("after the last", after, before)
    ratios = [percentile(one.during, _TAIL) / percentile(one.before, _TAIL) for one in rounds]
    yield Row(
        f"p99 with one slow and one stopped, to p99 before, of each of {len(rounds)} rounds",
        ", ".join(f"{ratio:.2f}" for ratio in ratios),
        f"median {median(ratios):.2f}",
    )


def _latency(name: str, seconds: Sequence[float], before: Sequence[float]) -> Row:
    p50, p99 = median(seconds) / median(before), percentile(seconds, _TAIL) / percentile(before, _TAIL)
    return Row(
        f"intent → armed in the third cluster, {name} ({len(seconds)})",
        f"{spread(seconds)}, max {milliseconds(max(seconds))}",
        "1" if seconds is before else f"p50 {p50:.2f}, p99 {p99:.2f} of before",
    )


def _told(faults: Sequence[Fault]) -> Iterator[Row]:
    """The latest of all rounds: nobody is helped by a mean."""
    kinds = {SLOWED: f"every answer {SLOW:.0f} s late", STOPPED: "API server killed"}
    for cluster, kind in kinds.items():
        found = [fault.told[cluster] for fault in faults]
        api, metrics, cli = (max(seconds) for seconds in zip(*found, strict=True))
        yield Row(
            f"{kind} → told as out of reach at the latest, by API, metrics of all replicas, and `dragonfly swarm`",
            f"{api:.1f}, {metrics:.1f} and {cli:.1f} s",
            f"{max(api, metrics, cli) / 10:.2f} of 10 s",
        )
    for cluster, kind in kinds.items():
        back = [fault.back[cluster] for fault in faults]
        yield Row(
            f"{kind}, mended → all {WAITING} that waited are armed", f"p50 {median(back):.1f} s, max {max(back):.1f} s"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(machines: int, samples: int, rounds: int) -> None:
    """Measure and publish."""
    with ExitStack() as stack:
        made = stack.enter_context(planes(len(CLUSTERS)))
        hosts = dict(zip(CLUSTERS, made, strict=True))
        directory = made[0].directory
        ports = stack.enter_context(PortLease())
        servers = {name: plane.apiserver.url for name, plane in hosts.items()}
        gates = stack.enter_context(Gates({site: ports.take() for site in ROUTES}, servers, ROUTES))
        etcd = stack.enter_context(own_etcd(directory / "swarm-etcd"))
        own = _told_apart(gates, hosts[LOCAL], directory)
        running = stack.enter_context(swarm_on(made[0], directory, replicas=len(SITES), etcd=etcd, own=own))
        staged = Staged(running, gates, hosts, etcd, directory)
        found = uvloop.run(run(staged, machines, samples, rounds))
    publish(
        "Sites: one cluster slow, one stopped, and a third",
        f"{machines} machines in three clusters, each a kube-apiserver and a Tinkerbell of its own, driven by five "
        "replicas in three sites; the third is reached from one site alone. The machines are simulated by agents that "
        f"are done with each action within {BEHAVIOUR.longest} s; they were asked for at each replica in turn, "
        f"{AT_ONCE} under way in each cluster at once. "
        f"Then in each of {rounds} rounds {samples} provisions one at a time in the third, on further machines that "
        f"are off, while all is well, and {samples} while each answer of the first comes {SLOW:.0f} s late and the "
        f"second's API server is killed, with {WAITING} provisions that wait in each; both are mended then, and all "
        "comes to rest. All parts share two cores.",
        found,
    )


def _told_apart(gates: Gates, local: ControlPlane, directory: Path) -> dict[str, dict[str, str]]:
    """What each replica is told of its site."""
    kubeconfig = directory / "by-name.kubeconfig"
    kubeconfig.write_text(named(local.kubeconfig.read_text(), LOCAL))
    return {replica: gates.environment(site) | {"KUBECONFIG": str(kubeconfig)} for replica, site in SITES.items()}


if __name__ == "__main__":
    asked = [int(argument) for argument in sys.argv[1:]]
    main(*(asked + [3000, 100, 5][len(asked) :]))
