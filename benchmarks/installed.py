"""Every machine of several clusters installed: that each succeeds, once, how fast, and who works for it.

A part of `benchmarks.sites`. The machines are switched on; they are asked for at every replica in turn, whichever
cluster a machine is in, with so many under way at once. What became of them is told by three that do not know of each
other: Dragonfly's API, the API servers' audit logs, and the machines' own trace.

With more at once on a computer with two cores it goes slower, for kube-apiserver then closes watches that lag behind
("Forcing watcher close due to unresponsiveness"): Tinkerbell writes from a cache that is old, and with 300 at once in
each cluster four of five such writes are conflicts.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.harness import Row, percentile
from benchmarks.idle import cpu_seconds
from benchmarks.provisions import TEMPLATE
from dragonfly.client import AsyncClient
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from tests.e2e.audit import read_audit
from tests.e2e.fleet import others_than_once, starts
from tests.e2e.site import Agents, Machine

BEHAVIOUR: Final = Behaviour(seed=1, shortest=0.05, longest=0.1)
"""What the simulated machines do: every action succeeds, at once nearly."""
_ACTIONS: Final = len(TEMPLATE["spec"]["actions"])
_TINKERBELL: Final = "system:serviceaccount:tinkerbell:tinkerbell"
_UNDER_WAY: Final = ("Pending", "Starting", "Running")
AT_ONCE: Final = 40
"""Provisions that are under way in each cluster."""
_GLANCE: Final = 0.5
"""Seconds between two looks at what is under way."""


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Reference(msgspec.Struct, frozen=True):
    resource: str = ""


class _Status(msgspec.Struct, frozen=True):
    code: int = 0


class _Line(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of an `audit.k8s.io/v1` Event."""

    verb: str
    user: _User = _User()
    object_ref: _Reference = _Reference()
    response_status: _Status = _Status()


class Fleet(NamedTuple):
    """Machines that are there and not provisioned, by cluster, and where each cluster is."""

    machines: Mapping[str, Sequence[Machine]]
    hosts: Mapping[str, ControlPlane]

    @property
    def size(self) -> int:
        return sum(map(len, self.machines.values()))


class Installed(NamedTuple):
    """What became of all."""

    machines: int
    conflicts: float
    """Of Tinkerbell's writes to Workflows, the share that was refused as a conflict."""
    phases: Counter[str]
    """Of all provisions, by the API."""
    seconds: float
    """From the first request until the last one ended."""
    each: tuple[float, ...]
    """From each intent until its end."""
    waited: tuple[float, ...]
    """From each intent until its first step."""
    prepared: tuple[float, ...]
    """From each first step until the machine was seen to run."""
    ran: tuple[float, ...]
    """From then until the end."""
    not_once: int
    """Workflows that were not created once and armed once, by the API servers' audit logs."""
    started: Counter[int]
    """How often actions were started, by the machines' traces: once, twice, ..."""
    cpu: Mapping[str, float]
    """Seconds that each kind of process has used."""


@contextmanager
def switched_on(fleet: Fleet, directory: Path) -> Iterator[Mapping[str, Agents]]:
    """Let the machines boot from their clusters' Tinkerbells."""
    with ExitStack() as stack:
        made = {
            cluster: Agents(directory / f"agents-{cluster}", fleet.hosts[cluster].tink_server, machines, BEHAVIOUR)
            for cluster, machines in fleet.machines.items()
        }
        for agents in made.values():
            agents.service.start()
            stack.callback(agents.service.stop)
        yield made


async def install(
    clients: Sequence[AsyncClient],
    fleet: Fleet,
    agents: Mapping[str, Agents],
    pids: Mapping[str, Sequence[int]],
    within: float,
) -> Installed:
    """Have all machines provisioned, and wait until each provision has ended.

    Args:
        clients: of each replica.
        fleet: the machines.
        agents: that play them.
        pids: of the processes whose CPU is counted, by kind.
        within: seconds that all have.
    """
    counted = {**pids, "machines": [one.service.pid for one in agents.values()]}
    before, began = _cpu(counted), time.perf_counter()
    async with asyncio.timeout(within):
        await _asked_and_ended(clients, fleet)
    seconds = time.perf_counter() - began
    used = {kind: now - before[kind] for kind, now in _cpu(counted).items()}
    provisions = [provision async for provision in clients[0].list("provisions")]
    statuses = [provision["status"] for provision in provisions]
    created = [_at(provision["metadata"]["createdAt"]) for provision in provisions]
    first, running, last = ([_at(s.get(key)) for s in statuses] for key in ("startedAt", "runningAt", "finishedAt"))
    not_once, started = await asyncio.to_thread(_witnessed, fleet, agents, provisions)
    writes = await asyncio.to_thread(_writes_of_tinkerbell, fleet)
    return Installed(
        machines=fleet.size,
        conflicts=writes[HTTPStatus.CONFLICT] / writes.total(),
        phases=Counter(status["phase"] for status in statuses),
        seconds=seconds,
        each=_between(created, last),
        waited=_between(created, first),
        prepared=_between(first, running),
        ran=_between(running, last),
        not_once=not_once,
        started=started,
        cpu=used,
    )


def rows(found: Installed) -> Iterator[Row]:
    """What was found, for the page of results."""
    succeeded = found.phases["Succeeded"]
    others = ", ".join(f"{count} {phase}" for phase, count in found.phases.items() if phase != "Succeeded")
    yield Row(f"{found.machines} machines provisioned: Succeeded", f"{succeeded}", others or "all of them")
    yield Row(
        "from the first request until the last succeeded",
        f"{found.seconds:.1f} s",
        f"{succeeded / found.seconds:.1f} provisions/s",
    )
    yield Row("intent → Succeeded", _spread(found.each))
    for what, seconds in (("waits", found.waited), ("is prepared", found.prepared), ("runs", found.ran)):
        yield Row(f"of it: {what}", _spread(seconds))
    yield Row("Workflows not created once and armed once, by the audit logs", f"{found.not_once}")
    once = found.started[1]
    more = sum(count for times, count in found.started.items() if times != 1)
    yield Row("actions started once, by the machines", f"{once} of {found.machines * _ACTIONS}", f"{more} more often")
    total = sum(found.cpu.values())
    cores = ", ".join(f"{kind} {seconds / found.seconds:.2f}" for kind, seconds in found.cpu.items())
    yield Row("writes of Tinkerbell to Workflows that were conflicts", f"{found.conflicts:.0%}")
    yield Row(
        "cores at work", cores, f"{total / found.seconds:.2f} in all, {1000 * total / found.machines:.0f} ms a machine"
    )


async def _asked_and_ended(clients: Sequence[AsyncClient], fleet: Fleet) -> None:
    """Ask for one provision of each machine, `AT_ONCE` under way in each cluster, until the first client sees none."""
    clusters = {machine.name: cluster for cluster, machines in fleet.machines.items() for machine in machines}
    left = {cluster: iter(machines) for cluster, machines in fleet.machines.items()}
    turns, written = itertools.cycle(clients), 0
    while True:
        listed = clients[0].list("provisions", phase=_UNDER_WAY, fields="spec.machine", minRevision=written)
        under_way = Counter([clusters[item["spec"]["machine"]] async for item in listed])
        more = [one for name, some in left.items() for one in itertools.islice(some, AT_ONCE - under_way[name])]
        if not under_way and not more:
            return
        accepted = await asyncio.gather(*(next(turns).provision(machine.name, "bench") for machine in more))
        written = max((provision["metadata"]["revision"] for provision in accepted), default=written)
        await asyncio.sleep(_GLANCE)


def _witnessed(fleet: Fleet, agents: Mapping[str, Agents], provisions: Sequence[Any]) -> tuple[int, Counter[int]]:
    """What the audit logs and the machines say of the provisions."""
    clusters = {machine.name: cluster for cluster, machines in fleet.machines.items() for machine in machines}
    asked: dict[str, list[str]] = {cluster: [] for cluster in fleet.machines}
    for provision in provisions:
        asked[clusters[provision["spec"]["machine"]]].append(provision["metadata"]["name"])
    wrong = [others_than_once(read_audit(fleet.hosts[cluster].audit_log), names) for cluster, names in asked.items()]
    started = Counter(count for one in agents.values() for count in starts(one.trace()).values())
    return sum(map(len, wrong)), started


def _writes_of_tinkerbell(fleet: Fleet) -> Counter[int]:
    """Its requests to change Workflows, by status."""
    found: Counter[int] = Counter()
    decoder = msgspec.json.Decoder(_Line)
    for plane in fleet.hosts.values():
        with plane.audit_log.open("rb") as log:
            for line in map(decoder.decode, log):
                is_write = line.object_ref.resource == "workflows" and line.verb in {"update", "patch"}
                if is_write and line.user.username == _TINKERBELL:
                    found[line.response_status.code] += 1
    return found


def _cpu(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {kind: sum(map(cpu_seconds, some)) for kind, some in pids.items()}


def _at(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def _between(earlier: Sequence[float | None], later: Sequence[float | None]) -> tuple[float, ...]:
    pairs = zip(earlier, later, strict=True)
    return tuple(end - begin for begin, end in pairs if begin is not None and end is not None)


def _spread(seconds: Sequence[float]) -> str:
    p50, p99 = percentile(seconds, 0.5), percentile(seconds, 0.99)
    return f"p50 {p50:.1f} s, p99 {p99:.1f} s, max {max(seconds):.1f} s"
