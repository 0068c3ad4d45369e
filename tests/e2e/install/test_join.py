"""`dragonfly install --join`: three hosts, three members of etcd, and a swarm that outlives its founder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.etcd_keys import control_planes
from tests.e2e.install.installed import ALL, FLOATING, finished, hosts
from tests.e2e.install.provisioned import provisioned
from tests.e2e.waiting import eventually, eventually_equal
from tests.node import replica_image
from tests.node.images import renamed

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(1200)]

NEWER = "registry.example.com/dragonfly:0.2.0"
TOKEN = "/var/lib/rancher/k3s/server/token"


class Site:
    """Three hosts, one of which has founded the cluster."""

    def __init__(self, found: list[BareHost], directory: Path) -> None:
        self.first, self.second, self.third = found
        self.token_file = directory / "token"
        self.before = {host.name: host.state() for host in found}
        installed = finished(self.first.install(*ALL, "--floating-ip", FLOATING))
        self.token = installed["token"]
        self.token_file.write_text(self.first.run("cat", TOKEN).out)

    def join(self, host: BareHost, server: str) -> None:
        done = host.install("--join", server, "--token-file", str(self.token_file))
        assert done.code == 0, done.err

    def ask(self, host: BareHost, path: str, *arguments: str) -> Any:
        """The swarm's answer to a host, through the load balancer; None while there is none."""
        headers = ("-H", f"Authorization: Bearer {self.token}", "-H", "Content-Type: application/json")
        done = host.run("curl", "-sf", "-m", "20", *headers, *arguments, f"http://{FLOATING}:3000/api/v1/{path}")
        return json.loads(done.out) if done.code == 0 else None

    def replicas(self, host: BareHost) -> set[str]:
        """The members of the swarm, as a host hears of them; none while nobody answers."""
        return {member["id"] for member in (self.ask(host, "swarm") or {"members": ()})["members"]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with hosts(tmp_path, 3) as found:
        yield Site(found, tmp_path)


def told(host: BareHost) -> list[str]:
    """Where the replicas are told that etcd is, as this host's API server has it."""
    return host.secret("dragonfly-etcd", "endpoints").split(",")


def states(host: BareHost) -> set[str]:
    """What becomes of each step when the same is said again."""
    again = host.dragonfly("install", "--yes", "-o", "json")
    assert again.code == 0, again.err
    return {state for step, state in again.states().items() if step != "self-test"}


def test_hosts_join_one_leaves_and_all_goes_on_without_the_founder(site: Site, tmp_path: Path) -> None:
    first, second, third = site.first, site.second, site.third
    site.join(second, first.address)
    site.join(third, FLOATING)

    everywhere = [f"https://{host.address}:2382" for host in (first, second, third)]
    assert told(third) == everywhere
    assert control_planes(first).members() == control_planes(third).members() == {"host-1", "host-2", "host-3"}
    assert states(second) == states(third) == {"unchanged"}
    eventually("there are three", lambda: len(site.replicas(first)) == 3, within=120)
    newer = renamed(replica_image.archive(), NEWER, tmp_path / "newer.tar")
    refused = first.dragonfly("upgrade", "--image", NEWER, "--image-archive", str(newer), "--yes")
    assert refused.code == 4
    assert f"the image {NEWER} is not yet on host-2, host-3; nothing was changed" in refused.err

    leaving = third.dragonfly("uninstall", "--yes", "--delete-data")
    assert leaving.code == 0, leaving.err
    eventually_equal(control_planes(first).members, {"host-1", "host-2"}, within=60)
    assert third.state() == site.before["host-3"]
    assert finished(first.dragonfly("install", "--yes", "-o", "json"))
    assert told(second) == everywhere[:2]

    site.join(third, first.address)
    assert told(first) == everywhere
    eventually_equal(lambda: set(placed(first).values()), {host.name for host in (first, second, third)}, within=120)
    machine = {"metadata": {"name": "kept"}, "spec": {"interfaces": [{"mac": "02:00:00:00:00:01", "dhcp": True}]}}
    assert site.ask(first, "machines", "--data", json.dumps(machine))
    lost = {pod for pod, host in placed(first).items() if host == first.name}

    first.fail()

    eventually("its replica is replaced", lambda: is_whole(site.replicas(second), lost), within=300)
    assert site.ask(second, "machines/kept")["metadata"]["name"] == "kept"
    swarm = {"address": f"http://{FLOATING}:3000", "token": site.token}
    assert provisioned(second, swarm, tmp_path).code == 0, "Tinkerbell has come back on another host"


def test_the_founder_leaves_the_cluster_to_those_that_joined(site: Site) -> None:
    """Taken off with its data, it takes nothing from the others; they go on, as those that had joined a swarm."""
    first, second, third = site.first, site.second, site.third
    site.join(second, first.address)
    site.join(third, first.address)
    machine = {"metadata": {"name": "kept"}, "spec": {"interfaces": [{"mac": "02:00:00:00:00:01", "dhcp": True}]}}
    assert site.ask(first, "machines", "--data", json.dumps(machine))

    left = first.dragonfly("uninstall", "--yes", "--delete-data", "-o", "json")

    assert left.code == 0, left.err
    assert left.events[-1]["others"] == ["host-2", "host-3"]
    assert first.state() == site.before["host-1"]
    eventually_equal(control_planes(second).members, {"host-2", "host-3"}, within=60)
    again = finished(second.dragonfly("install", "--yes", "-o", "json"))
    assert again["address"] == f"http://{FLOATING}:3000"
    assert told(third) == [f"https://{host.address}:2382" for host in (second, third)]
    eventually("the others have all replicas", lambda: len(site.replicas(third)) == 3, within=120)
    # Kubernetes takes the pods of a node that is gone for such after 40 s.
    eventually("it has none", lambda: first.name not in placed(third).values(), within=180)
    assert site.ask(third, "machines/kept")["metadata"]["name"] == "kept"


def placed(host: BareHost) -> dict[str, str]:
    """On which host each replica is."""
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in host.objects("pods")["items"]}


def is_whole(replicas: set[str], lost: set[str]) -> bool:
    return len(replicas) == 3 and not replicas & lost
