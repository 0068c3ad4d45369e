"""The cluster that replicas run in as pods, registered without a kubeconfig: pods drive it, others say why they do not.

A pod is a process with what Kubernetes gives to one, as in `test_out_of_pods`; both clusters have a real API server and
Tinkerbell.
"""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.ports import PortLease
from tests.e2e.fleet import two_actions
from tests.e2e.site import Agents, Site
from tests.e2e.test_out_of_pods import as_pod
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

POD: Final = "a"
PODS: Final = "pods"
_PATIENCE: Final = 60.0


@pytest.fixture
def site(control_plane: ControlPlane, second: ControlPlane, ports: PortLease, tmp_path: Path) -> Iterator[Site]:
    """Replica `a` in a pod of the second cluster, `b` on a computer; `local` is the first for both."""
    url = urlsplit(second.apiserver.url)
    pod = {"KUBERNETES_SERVICE_HOST": str(url.hostname), "KUBERNETES_SERVICE_PORT": str(url.port)}
    hosts = {POD: Host(enter=as_pod(second, tmp_path))}
    outside = {"KUBERNETES_SERVICE_HOST": "", "KUBERNETES_SERVICE_PORT": ""}
    site = Site(control_plane, tmp_path, ports, 2, environment=outside, own={POD: pod}, hosts=hosts)
    with site.running():
        yield site


def test_pods_drive_it_and_the_others_say_why_they_do_not(site: Site, second: ControlPlane, tmp_path: Path) -> None:
    added = _cli(site, "cluster", "add", PODS, "--in-cluster", "--shards", "2")
    assert added.returncode == 0, added.stdout + added.stderr

    eventually_equal(lambda: _drivers(site), {POD}, within=_PATIENCE)
    why = "this replica runs in none"
    eventually("the other says why it does not", lambda: why in _told(site)["b"].get("reason", ""), within=_PATIENCE)
    told = _told(site)
    assert (told[POD]["reachable"], told["b"]["reachable"]) == (True, False)
    eventually("the command line says it too", lambda: why in _cli(site, "swarm").stdout, within=_PATIENCE)
    again = site.api.once("POST", "clusters", {"metadata": {"name": "again"}, "spec": {"inCluster": True}})
    assert (again.status, again.document["type"]) == (409, "/problems/cluster-registered")

    site.template("two-actions", two_actions())
    (machine,) = site.machines(1)
    document = machine.document()
    document["spec"]["cluster"] = PODS
    site.api.post("machines", document)
    agents = Agents(tmp_path / "agents-pods", second.tink_server, [machine], Behaviour(shortest=0.05, longest=0.1))
    agents.service.start()
    try:
        provision = site.provision(machine, "two-actions")
        eventually("it is provisioned there", lambda: site.phase(provision) == "Succeeded", within=_PATIENCE)
    finally:
        agents.service.stop()


def _status(site: Site) -> dict[str, Any]:
    status: dict[str, Any] = site.api.get(f"clusters/{PODS}")["status"]
    return status


def _told(site: Site) -> dict[str, Any]:
    """How each replica reaches it."""
    return defaultdict(dict, {one["replica"]: one for one in _status(site)["replicas"]})


def _drivers(site: Site) -> set[str]:
    return set(_status(site)["owners"].values())


def _cli(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = {"DRAGONFLY_SERVER": site.balancer.url, "DRAGONFLY_TOKEN": site._token, "PATH": "/usr/bin"}
    command = [sys.executable, "-m", "dragonfly", *arguments]
    return subprocess.run(command, env=told, capture_output=True, text=True, check=False, timeout=60)
