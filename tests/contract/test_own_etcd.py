"""The swarm's own etcd, as real processes, is carried through what takes members away: a disk, a founder, a node."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dragonfly.sandbox.ports import PortLease
from dragonfly.store.errors import StoreError
from dragonfly.store.values import Put
from tests.contract.etcds import CURRENT, build
from tests.contract.own_etcds import PATIENCE, RealNodes, RealServer
from tests.e2e.waiting import eventually, eventually_equal
from tests.unit.install.own_etcds import ACCESS

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.timeout(600),
    # CPython 3.11's ssl leaves a socket open that is reset between connect and handshake, as by an etcd that ends.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

KEPT = "kept"


@pytest.fixture
def nodes(tmp_path: Path, ports: PortLease) -> Iterator[RealNodes]:
    nodes = RealNodes(tmp_path, ports, build(CURRENT))
    try:
        yield nodes
    finally:
        nodes.stop()
        gc.collect()  # while such sockets are forgiven


@pytest.fixture
def servers(nodes: RealNodes) -> dict[int, RealServer]:
    """Three with a member each, and one key."""
    found = {1: RealServer(nodes, 1)}
    found[1].found()
    for number in (2, 3):
        found[number] = RealServer(nodes, number)
        found[number].join()
    assert nodes.answering() == {"host-1", "host-2", "host-3"}
    with closing(nodes.opened_at("host-1")) as etcd:
        etcd.commit([Put(KEPT, b"as it was")], [])
    return found


def knows(nodes: RealNodes, host: str) -> bool:
    """Whether the member on this host has what was written to the others."""
    with closing(nodes.opened_at(host)) as etcd:
        try:
            found, _ = etcd.read(KEPT)
        except StoreError:
            return False
    return found is not None and found.value == b"as it was"


def ids(nodes: RealNodes, *asked: str) -> dict[str, int]:
    return {one.name: one.id for one in nodes.members(*asked)}


def is_whole(nodes: RealNodes, *hosts: str) -> None:
    """These are the members, all with a vote, all answer, replicas are told of them, and each has the key."""
    eventually_equal(nodes.answering, set(hosts), within=PATIENCE)
    assert {one.name for one in nodes.members(*hosts)} == set(hosts)
    told = [f"https://{nodes.addresses[host]}:12379" for host in sorted(hosts)]
    assert nodes.says(ACCESS)["endpoints"].split(",") == told
    for host in hosts:
        eventually(f"{host} has the key", partial(knows, nodes, host), within=PATIENCE)


def test_a_member_whose_disk_was_lost_is_made_anew(nodes: RealNodes, servers: dict[int, RealServer]) -> None:
    before = ids(nodes, "host-1")

    nodes.lose_disk("host-2")
    servers[2].join()

    is_whole(nodes, "host-1", "host-2", "host-3")
    after = ids(nodes, "host-1")
    assert after["host-2"] != before["host-2"]
    assert {**after, "host-2": 0} == {**before, "host-2": 0}


def test_the_founder_leaves_while_two_stay_and_comes_back(nodes: RealNodes, servers: dict[int, RealServer]) -> None:
    servers[1].left()

    is_whole(nodes, "host-2", "host-3")
    servers[1].join()

    is_whole(nodes, "host-1", "host-2", "host-3")
    assert "former-1" in " ".join(servers[1].said)


def test_a_node_that_was_deleted_for_good_makes_room_for_another(
    nodes: RealNodes, servers: dict[int, RealServer]
) -> None:
    nodes.lose_power("host-1")
    servers[1].lose_node()
    servers[4] = RealServer(nodes, 4)

    servers[4].join()

    is_whole(nodes, "host-2", "host-3", "host-4")
