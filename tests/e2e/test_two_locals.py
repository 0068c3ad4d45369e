"""Two replicas whose kubeconfigs lead to different clusters, each told as `local`: one works, the other says so.

Real API servers, each with a Tinkerbell of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from tests.e2e.site import Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_PATIENCE: Final = 60.0
_REREAD: Final = 60.0
"""Seconds after which a replica reads its kubeconfig again."""
_WRITES: Final = {"create", "patch", "update", "delete"}
_TYPES: Final = ("tinkerbell.org", "bmc.tinkerbell.org", "admissionregistration.k8s.io")


class World:
    """Replica `a` in one cluster, `b` in another."""

    def __init__(self, site: Site, planes: dict[str, ControlPlane], directory: Path) -> None:
        self.site = site
        self._directory = directory
        self.planes = planes
        self.before = {replica: len(self.audited(replica)) for replica in planes}
        """Lines of the audit logs of before the site began."""

    def uid(self, replica: str) -> str:
        """Of Tinkerbell's namespace where the replica was led to."""
        found = self.planes[replica].apiserver.admin.request("GET", f"/api/v1/namespaces/{NAMESPACE}")
        return str(found.body["metadata"]["uid"])

    def lead(self, replica: str, to: str) -> None:
        """Have a replica's kubeconfig lead where another's does, as `kubectl config use-context` would."""
        new = self._directory / "new.kubeconfig"
        write_private(new, self.planes[to].kubeconfig.read_bytes())
        new.rename(self._directory / f"{replica}.kubeconfig")

    def drivers(self) -> set[str]:
        return set(self.site.api.get("clusters/local")["status"]["owners"].values())

    def only_driver(self) -> str:
        """Who drives all shards; empty if some are driven by another or by nobody."""
        drivers = self.drivers()
        return drivers.pop() if len(drivers) == 1 else ""

    def reasons(self) -> dict[str, str]:
        """Why each replica does not work in `local`; empty for one that does."""
        replicas = self.site.api.get("clusters/local")["status"]["replicas"]
        return {one["replica"]: one.get("reason", "") for one in replicas if not one["reachable"]}

    def hardware(self, replica: str) -> set[str]:
        path = f"/apis/tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/hardware"
        found = self.planes[replica].apiserver.admin.request("GET", path)
        return {item["metadata"]["name"] for item in found.body["items"]}

    def audited(self, replica: str) -> list[str]:
        """The lines of the API server's audit log; the last may not have been written to its end."""
        text = self.planes[replica].audit_log.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def log(self, replica: str) -> str:
        """What the replica has told of itself."""
        return self.site.swarm.replica(replica).service.program.log.read_text()

    def writes(self, replica: str, since: int) -> list[str]:
        """What Dragonfly's account has written there to Tinkerbell's objects and to the fence, from a line on."""
        return [line for line in self.audited(replica)[since:] if _is_write(json.loads(line))]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        told = {"DRAGONFLY_SERVER": self.site.balancer.url, "DRAGONFLY_TOKEN": self.site._token, "PATH": "/usr/bin"}
        command = [sys.executable, "-m", "dragonfly", *arguments]
        return subprocess.run(command, env=told, capture_output=True, text=True, check=False, timeout=60)


def _is_write(event: dict[str, Any]) -> bool:
    is_ours = event["user"].get("username") == f"system:serviceaccount:{NAMESPACE}:dragonfly"
    return is_ours and event["verb"] in _WRITES and event.get("objectRef", {}).get("apiGroup") in _TYPES


@pytest.fixture
def world(control_plane: ControlPlane, second: ControlPlane, ports: PortLease, tmp_path: Path) -> Iterator[World]:
    """Both start at once: whoever is first says which cluster `local` is."""
    planes = {"a": control_plane, "b": second}
    own = {}
    for replica, plane in planes.items():
        path = tmp_path / f"{replica}.kubeconfig"
        write_private(path, plane.kubeconfig.read_bytes())
        own[replica] = {"KUBECONFIG": str(path)}
    site = Site(control_plane, tmp_path, ports, 2, own=own)
    world = World(site, planes, tmp_path)
    with site.running():
        yield world


def test_one_works_the_other_says_so_until_it_is_told_otherwise(world: World) -> None:
    """Nobody writes anything where the swarm's `local` is not, also when a kubeconfig leads elsewhere meanwhile."""
    site = world.site
    first = eventually("one drives all of it", world.only_driver, within=_PATIENCE)
    second = "b" if first == "a" else "a"
    uids = {replica: world.uid(replica) for replica in "ab"}
    said = f"the uid {uids[second]} here, and {uids[first]} there"
    eventually("the other says so", lambda: said in world.reasons().get(second, ""), within=_PATIENCE)
    eventually("the command line says so", lambda: said in world.cli("swarm").stdout, within=_PATIENCE)
    eventually("so does its log", lambda: "cluster.is_another" in world.log(second), within=_PATIENCE)
    (machine,) = site.registered()
    eventually("it is in the first", lambda: machine.name in world.hardware(first), within=_PATIENCE)
    assert machine.name not in world.hardware(second)
    assert world.writes(second, world.before[second]) == []

    done = world.cli("cluster", "locate", "local", uids[second])
    assert done.returncode == 0, done.stdout + done.stderr
    eventually_equal(world.drivers, {second}, within=_PATIENCE)
    eventually("the first says so", lambda: "another cluster" in world.reasons().get(first, ""), within=_PATIENCE)
    eventually("it is in the second", lambda: machine.name in world.hardware(second), within=_PATIENCE)
    since = len(world.audited(first))
    (another,) = site.registered()
    eventually("so is the next", lambda: another.name in world.hardware(second), within=_PATIENCE)
    assert another.name not in world.hardware(first)
    assert world.writes(first, since) == []
    assert site.api.get("clusters/local")["status"]["namespaceUid"] == uids[second]

    pid = site.swarm.replica(first).service.pid
    world.lead(first, second)
    eventually_equal(world.drivers, {first, second}, within=_REREAD + _PATIENCE)
    assert site.swarm.replica(first).service.pid == pid
    eventually("its log says so", lambda: "cluster.left" in world.log(first), within=_PATIENCE)
    world.lead(first, first)
    eventually_equal(world.drivers, {second}, within=_REREAD + _PATIENCE)
    assert world.writes(first, since) == []
