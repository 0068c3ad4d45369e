"""`dragonfly install` from a bare host to a swarm behind a load balancer, and back.

Real: the command line, every file, etcd, kube-apiserver, Tinkerbell, the replicas and what they do. Played by a
stand-in: k3s itself, systemd, pods and the load balancer (see `standin_k3s`, `workloads`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.netns import Network
from tests.e2e.install.bare_host import BareHost, Done

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(400)]

FLOATING = "192.0.2.100"
ALL = ["--no-dhcp"]


@contextmanager
def hosts(directory: Path, count: int) -> Iterator[list[BareHost]]:
    network = Network(directory / "network", nodes=count)
    with ExitStack() as stack:
        stack.enter_context(network.running())
        yield [
            stack.enter_context(BareHost(f"host-{number}", node, directory).running())
            for number, node in enumerate(network.nodes, 1)
        ]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BareHost]:
    with hosts(tmp_path, 1) as (found,):
        yield found


def swarm(host: BareHost, address: str, token: str) -> Any:
    done = host.run("curl", "-sf", "-H", f"Authorization: Bearer {token}", f"{address}/api/v1/swarm")
    assert done.code == 0, done
    return json.loads(done.out)


def finished(done: Done) -> dict[str, Any]:
    """The last event of an installation that went well."""
    assert done.code == 0, done.err
    last = done.events[-1]
    assert last["event"] == "installed"
    return last


def test_a_bare_host_becomes_a_swarm_and_a_bare_host_again(host: BareHost) -> None:
    before = host.files()

    first = finished(host.install(*ALL, "--floating-ip", FLOATING))

    assert first["address"] == f"http://{FLOATING}:3000"
    found = swarm(host, first["address"], first["token"])
    assert len(found["members"]) == 3
    assert not found.get("unowned")

    again = host.dragonfly("install", "--yes", "-o", "json")
    assert finished(again)["token"] == ""
    assert {step for step, state in again.states().items() if state != "unchanged"} == {"self-test"}

    kept = host.dragonfly("uninstall", "--yes", "-o", "json")
    assert kept.events[-1]["kept"] == ["delete Secret dragonfly", "remove /var/lib/rancher"]
    assert not (host.tree / "etc/rancher").exists()
    back = finished(host.install(*ALL, "--floating-ip", FLOATING))
    assert swarm(host, back["address"], first["token"])["members"], "the token is the former one"

    assert host.dragonfly("uninstall", "--yes", "--delete-data").code == 0
    assert host.files() == before


def test_killed_again_and_again_it_becomes_the_same_swarm(host: BareHost) -> None:
    """kill -9 as each step begins, and again as it ends, until there is none left."""
    before = host.files()
    killed: list[tuple[str, str]] = []

    def first(state: str) -> bool:
        def is_moment(event: dict[str, Any]) -> bool:
            if event["event"] != "step" or event["state"] != state:
                return False
            killed.append((event["step"], state))
            return True

        return host.killed_at(is_moment, *ALL)

    while ("self-test", "done") not in killed:
        assert first("started"), killed
        assert first("done"), killed

    # A signal takes its time, in which a small step may end: not every one of them is seen here.
    assert {"k3s", "manifests", "replicas", "self-test"} <= {step for step, _ in killed}
    assert len(killed) > 12
    done = finished(host.dragonfly("install", "--yes", "-o", "json"))
    assert len(swarm(host, done["address"], host.secret("dragonfly", "admin-token"))["members"]) == 3
    assert host.dragonfly("uninstall", "--yes", "--delete-data").code == 0
    assert host.files() == before


def test_an_address_that_a_neighbour_has_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (host, neighbour):
        before = host.files()

        refused = host.install(*ALL, "--floating-ip", neighbour.address)

        assert refused.code == 4
        assert f"address {neighbour.address}: Take an address that is nobody's." in refused.err
        assert host.files() == before
