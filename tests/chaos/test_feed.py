"""P8 under fire: 200 clients behind HAProxy come and go, while replicas die, and etcd restarts and forgets.

`DRAGONFLY_FEED_SECONDS` makes it longer than the 40 seconds of `make test`; the same faults come again then. What was
checked is printed (`pytest -s`).
"""

import asyncio
import itertools
import os
import random
import sys
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from dragonfly.client import ApiError, AsyncClient
from dragonfly.feed.shown import KINDS
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.ports import PortLease
from dragonfly.store.settings import EtcdSettings
from tests.chaos.followers import Checker, Witness, digest
from tests.e2e.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CLIENTS = 200
ROUND = 40
"""Seconds in which each fault comes once."""
SECONDS = float(os.environ.get("DRAGONFLY_FEED_SECONDS", ROUND))
MACHINES = 24
SHARDS = {"local": 8}


@pytest.mark.timeout(SECONDS + 360)
def test_every_client_has_the_state_of_every_revision_it_is_told(tmp_path: Path, ports: PortLease) -> None:
    with ControlPlane() as plane, Site(plane, tmp_path, ports, 3).running() as site:
        asyncio.run(_story(site))


async def _story(site: Site) -> None:
    plane = site.plane
    settings = EtcdSettings(
        endpoints=plane.etcd_endpoints,
        prefix=site.prefix,
        ca_file=plane.etcd_ca,
        cert_file=plane.etcd_cert,
        key_file=plane.etcd_key,
    )
    stop = asyncio.Event()
    async with Witness(settings, SHARDS) as witness, AsyncClient(site.balancer.url, site._token, patience=60) as http:
        clients = [Checker(number, start=witness.revision) for number in range(CLIENTS)]
        absences = [(6.0, 15.0) if number % 10 == 0 else (0.0, 1.0) for number in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for client, absence in zip(clients, absences, strict=True):
                group.create_task(client.run(http, stop=stop, absences=absence))
            writers = [group.create_task(_write(http, site, number, stop)) for number in range(3)]
            await _faults(site, witness)
            stop.set()
            await asyncio.wait(writers)
        last = max(client.told[-1].revision for client in clients if client.told)
        async with asyncio.timeout(150), asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.until(http, last))
        async with asyncio.timeout(90):
            await witness.mirror.wait_for(max(client.told[-1].revision for client in clients), 60)
            await _as_lists_show_it(http, witness)

    _verdict(clients, witness)
    _tell(clients, witness)


def _tell(clients: list[Checker], witness: Witness) -> None:
    resets = Counter(reason for client in clients for reason in client.resets)
    figures = {
        "seconds": SECONDS,
        "clients": len(clients),
        "connections": sum(client.connections for client in clients),
        "revisions of etcd": witness.revisions,
        "changes told": sum(client.changes for client in clients),
        "states compared": sum(len(client.told) for client in clients),
        "resets": dict(resets),
    }
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in figures.items()))


async def _as_lists_show_it(http: AsyncClient, witness: Witness) -> None:
    """Wait until the lists, read by and by, show the state that the witness saw: it is no truth of the feed's own."""
    found = 0
    while found != witness.digest(0, witness.revision):
        await asyncio.sleep(0.5)
        found = 0
        for kind in KINDS:
            found ^= digest([_as_the_feed_has_it(item) async for item in http.list(kind)])


def _as_the_feed_has_it(listed: dict[str, Any]) -> dict[str, Any]:
    """Lists show two things of a cluster that the feed does not: its machines, and its checkup (docs/clusters.md)."""
    if listed["kind"] == "Cluster":
        for name in ("machines", "checkup"):
            listed["status"].pop(name, None)
    return listed


def _verdict(clients: list[Checker], witness: Witness) -> None:
    resets = Counter(reason for client in clients for reason in client.resets)
    told = sum(len(client.told) for client in clients)
    assert witness.skipped == 0, "the witness itself missed something"
    assert [words for client in clients for words in client.broken] == []
    wrong = [
        (number, state.revision)
        for number, client in enumerate(clients)
        for state in client.told
        if state.digest != witness.digest(client.lens, state.revision)
    ]
    assert not wrong, "a state that was never true, by client and revision"
    assert resets.keys() <= {"snapshot", "compacted"}, "nothing else is lost here"
    assert resets["compacted"] > 0, "some were away while etcd forgot"
    most = max(client.resets.count("compacted") for client in clients)
    assert most <= witness.compactions, "who was reset is beyond what was forgotten then"
    assert resets["compacted"] < CLIENTS / 2 * witness.compactions, (
        "most can go on: they were there, or away for a moment"
    )
    assert resets["snapshot"] == CLIENTS, "each begins with the state, once"
    assert told > 10 * CLIENTS


async def _faults(site: Site, witness: Witness) -> None:
    """What happens to the site, over `SECONDS`."""
    rounds = max(round(SECONDS / ROUND), 1)
    for _ in range(rounds):
        await _round(site, witness, SECONDS / rounds / 8)


async def _round(site: Site, witness: Witness, pause: float) -> None:
    await asyncio.sleep(pause)
    site.swarm.kill("a", SIGKILL)
    await asyncio.sleep(pause)
    await witness.store.compact(witness.revision)
    await asyncio.sleep(pause)
    await asyncio.to_thread(_restart_etcd, site)
    await asyncio.sleep(pause)
    site.swarm.kill("b", SIGTERM)
    await asyncio.sleep(pause)
    await witness.store.compact(witness.revision)
    await asyncio.sleep(pause)
    site.swarm.kill("c", SIGKILL)
    await asyncio.sleep(2 * pause)


def _restart_etcd(site: Site) -> None:
    (member,) = site.plane.etcd.members
    member.service.kill()
    member.service.start()


async def _write(http: AsyncClient, site: Site, number: int, stop: asyncio.Event) -> None:
    """Change things all the time; refusals are answers like any other."""
    chance = random.Random(number)
    mine = site.machines(MACHINES // 3)
    await http.create("Template", _template(f"t-{number}", 0))
    for turn in itertools.count():
        if stop.is_set():
            return
        machine = chance.choice(mine)
        try:
            await chance.choice((_create, _relabel, _relabel, _provision, _delete))(http, machine, turn)
            if turn % 10 == 0:
                await _retemplate(http, f"t-{number}", turn)
        except ApiError as refusal:
            if refusal.status >= 500:
                raise
        await asyncio.sleep(0.02)


async def _create(http: AsyncClient, machine: Any, turn: int) -> None:
    document = machine.document()
    document["metadata"] |= {"labels": {"site": ("fra", "ams")[turn % 2]}, "tags": ["odd"] if turn % 2 else []}
    await http.create("Machine", document)


async def _relabel(http: AsyncClient, machine: Any, turn: int) -> None:
    document = await http.get("Machine", machine.name)
    document["metadata"] |= {"labels": {"site": ("fra", "ams")[turn % 2], "turn": str(turn)}}
    await http.replace("Machine", document)


async def _provision(http: AsyncClient, machine: Any, turn: int) -> None:
    provision = await http.provision(machine.name, f"t-{turn % 3}", reason=f"turn {turn}")
    await asyncio.sleep(0.1)
    await http.cancel(provision["metadata"]["name"])


async def _delete(http: AsyncClient, machine: Any, turn: int) -> None:
    await http.delete("Machine", machine.name)


async def _retemplate(http: AsyncClient, name: str, turn: int) -> None:
    document = await http.get("Template", name)
    await http.replace("Template", document | {"spec": _template(name, turn)["spec"]})


def _template(name: str, turn: int) -> dict[str, Any]:
    actions = [{"name": "write", "image": "quay.io/tinkerbell/actions/image2disk:latest", "timeout": 60 + turn}]
    return {"metadata": {"name": name, "tags": ["odd"]}, "spec": {"actions": actions}}
