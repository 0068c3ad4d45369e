"""What a swarm does when there is nothing to do: writes, calls, CPU and memory of three replicas with many machines.

    python -m benchmarks.idle [MACHINES] [SECONDS]

The swarm has an etcd of its own, so that etcd's own metrics count what the swarm does and nobody else. What it asks of
the API server is in that one's audit log.
"""

import asyncio
import datetime as dt
import itertools
import json
import os
import ssl
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness import Row, Stage, own_etcd, publish, swarm_on
from benchmarks.provisions import machine
from dragonfly.sandbox import toolchain
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.progress import SILENT

WRITES: Final = ("etcd_mvcc_put_total", "etcd_mvcc_delete_total")
REVISION: Final = "etcd_debugging_mvcc_current_revision"
RENEWALS: Final = "etcd_debugging_lease_renewed_total"
_CALLS: Final = "grpc_server_started_total"
_OURS: Final = "system:serviceaccount:tinkerbell:dragonfly"
_BATCH: Final = 500
_PATIENCE: Final = 240
_QUIET: Final = 5.0
"""Seconds without a new revision after which the swarm counts as settled."""


class Counters(NamedTuple):
    """etcd's own metrics and the replicas' CPU seconds, at one moment."""

    at: float
    wall: dt.datetime
    etcd: Mapping[str, float]
    """Metrics without labels by name, and calls by method."""
    cpu: tuple[float, ...]


class Idle(NamedTuple):
    """What happened in a time in which nobody asked for anything."""

    seconds: float
    before: Mapping[str, float]
    """etcd's metrics until then, when machines were made and brought into the cluster."""
    etcd: Mapping[str, float]
    """By how much each of them grew."""
    cpu: tuple[float, ...]
    """Cores that each replica used."""
    memory: tuple[int, ...]
    """Bytes that each replica holds."""
    asked: Mapping[str, int]
    """Requests of the swarm that ended at the API server, by verb and resource."""


@contextmanager
def stage_on(plane: ControlPlane, directory: Path) -> Iterator[tuple[Stage, Etcd]]:
    """Start a swarm on an etcd of its own."""
    with own_etcd(directory / "etcd") as etcd, swarm_on(plane, directory, etcd=etcd) as running:
        yield running, etcd


async def idle(running: Stage, etcd: Etcd, *, machines: int, seconds: float) -> Idle:
    """Register so many machines, wait until the swarm has settled, and watch it do nothing for so long."""
    await register(running, machines)
    await settle(running, etcd, machines)
    before = counters(running, etcd)
    await asyncio.sleep(seconds)
    after = counters(running, etcd)
    elapsed = after.at - before.at
    return Idle(
        elapsed,
        before.etcd,
        {name: value - before.etcd.get(name, 0.0) for name, value in after.etcd.items()},
        tuple((late - early) / elapsed for early, late in zip(before.cpu, after.cpu, strict=True)),
        tuple(resident(replica.service.pid) for replica in running.swarm.replicas),
        asked(running.plane.audit_log, before.wall, after.wall),
    )


async def register(running: Stage, machines: int) -> None:
    operations = ({"op": "create", "body": machine(f"idle-{number}", number)} for number in range(machines))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {running.token}"}) as session:
        while batch := list(itertools.islice(operations, _BATCH)):
            url = f"{running.url}/api/v1/machines:batch"
            async with session.post(url, json={"operations": batch}) as answer:
                done = await answer.json()
                refused = [result for result in done["results"] if result["status"] >= 300]
                if refused:
                    raise RuntimeError(f"a machine was refused: {refused[0]}")


async def settle(running: Stage, etcd: Etcd, machines: int) -> None:
    """Wait until nothing was written for a while, and every machine is in its cluster."""
    headers = {"Authorization": f"Bearer {running.token}"}
    async with asyncio.timeout(_PATIENCE), aiohttp.ClientSession(headers=headers) as session:
        await quiet(etcd)
        while (told := await _told(session, running.url)) < machines:
            print(f"{told} of {machines} machines are in their cluster", file=sys.stderr)
            await quiet(etcd)


async def quiet(etcd: Etcd) -> None:
    """Wait until etcd's revision has stood still for a while."""
    revision, since = 0.0, time.monotonic()
    while time.monotonic() - since < _QUIET:
        await asyncio.sleep(_QUIET / 10)
        if (now := metrics(etcd)[REVISION]) != revision:
            revision, since = now, time.monotonic()


def counters(running: Stage, etcd: Etcd) -> Counters:
    cpu = tuple(cpu_seconds(replica.service.pid) for replica in running.swarm.replicas)
    return Counters(time.monotonic(), dt.datetime.now(dt.UTC), metrics(etcd), cpu)


def metrics(etcd: Etcd) -> dict[str, float]:
    """What etcd counts: metrics without labels by name, and the calls that it got by method."""
    tls = ssl.create_default_context(cafile=etcd.access.ca)
    tls.load_cert_chain(etcd.access.client.certificate, etcd.access.client.key)
    with urllib.request.urlopen(f"{etcd.endpoints[0]}/metrics", context=tls, timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    plain = {sample.name: sample.value for sample in samples if not sample.labels}
    return plain | {sample.labels["grpc_method"]: sample.value for sample in samples if sample.name == _CALLS}


def cpu_seconds(pid: int) -> float:
    """What a process has used until now, its own and the kernel's for it (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds (proc(5): the second field of statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def asked(audit_log: Path, begin: dt.datetime, end: dt.datetime) -> Counter[str]:
    """What the swarm asked of the API server in that time, by verb and resource; a watch counts when it ends."""
    return Counter(
        f"{line['verb']} {line.get('objectRef', {}).get('resource', line['requestURI'])}"
        for line in _lines(audit_log)
        if line["user"].get("username") == _OURS and begin <= dt.datetime.fromisoformat(line["stageTimestamp"]) <= end
    )


async def _told(session: aiohttp.ClientSession, url: str) -> int:
    """Of how many machines their owners have told that they are in the cluster."""
    count, cursor = 0, ""
    while True:
        async with session.get(f"{url}/api/v1/machines?limit=1000{cursor}") as answer:
            page = await answer.json()
        count += sum(bool(item["status"].get("conditions")) for item in page["items"])
        if "cursor" not in page:
            return count
        cursor = f"&cursor={page['cursor']}"


def _lines(audit_log: Path) -> Iterator[dict[str, Any]]:
    complete, _, _ = audit_log.read_bytes().rpartition(b"\n")
    yield from map(json.loads, complete.splitlines())


def main(machines: int, seconds: float) -> None:
    """Measure and publish."""
    binaries = toolchain.ensure(("etcd", "kube-apiserver", "tinkerbell"), SILENT)
    with ControlPlane(binaries=binaries) as plane, stage_on(plane, plane.directory / "idle") as (running, etcd):
        found = uvloop.run(idle(running, etcd, machines=machines, seconds=seconds))
    publish(
        "Idle: a swarm with nothing to do",
        f"Three replicas with {machines} machines, watched for {seconds:g} s. etcd is the swarm's own and counts for "
        "itself; it is told to mark quiet watches every 2 s, which it does not by default, and without which the swarm "
        "writes some ten times a minute. What was asked of the API server is in its audit log.",
        list(rows(found, machines)),
    )


def rows(found: Idle, machines: int) -> Iterator[Row]:
    writes = sum(found.etcd[name] for name in WRITES)
    yield Row("etcd: puts and deletes", f"{writes:.0f}", f"revision grew by {found.etcd[REVISION]:.0f}")
    renewals = found.etcd[RENEWALS]
    yield Row("etcd: leases renewed", f"{renewals:.0f}", f"{renewals / found.seconds:.2f}/s")
    yield Row("etcd: calls", _counted(_calls(found)), f"{sum(_calls(found).values()) / found.seconds:.2f}/s")
    yield Row("API server: requests that ended", _counted(found.asked) or "none", f"{_per_minute(found):.1f} a minute")
    cpu = ", ".join(f"{share:.2%}" for share in found.cpu)
    yield Row("CPU of each replica", f"{cpu} of a core", f"{sum(found.cpu) / len(found.cpu):.2%} on average")
    memory = ", ".join(f"{size / 1e6:.0f} MB" for size in found.memory)
    yield Row("memory of each replica", memory, f"{max(found.memory) / machines / 1e3:.0f} kB a machine, all in all")


def _calls(found: Idle) -> dict[str, float]:
    return {name: grown for name, grown in found.etcd.items() if name[:1].isupper() and grown}


def _per_minute(found: Idle) -> float:
    return sum(found.asked.values()) * 60 / found.seconds


def _counted(counts: Mapping[str, float]) -> str:
    named: Iterable[tuple[str, float]] = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:.0f} {name}" for name, count in named)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, float(sys.argv[2]) if len(sys.argv) > 2 else 120)
