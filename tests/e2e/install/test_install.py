"""`dragonfly install` from a bare host to a swarm behind a load balancer, and back.

Real: the command line, every file, etcd, Kubernetes and its node, pods, Tinkerbell and its chart, what replicas do.
Played by a stand-in: systemd, and of k3s what `standin_k3s` and `standin_controllers` say: load balancers above all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import ENDS
from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.installed import ALL, FLOATING, asked, changed, finished, members, reaches
from tests.e2e.install.provisioned import provisioned
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(900)]


KUBELET = 10250


def test_a_bare_host_becomes_a_swarm_and_a_bare_host_again(host: BareHost, tmp_path: Path) -> None:
    before = host.state()

    first = finished(host.install(*ALL, "--floating-ip", FLOATING))

    assert first["address"] == f"http://{FLOATING}:3000"
    assert members(host, first["address"], first["token"])
    for kind in ("persistentvolumeclaims", "persistentvolumes"):
        assert host.objects(kind, "--all-namespaces")["items"] == []

    eventually("a replica reaches the API server", lambda: reaches(host, host.address, 6443), within=60)
    assert not reaches(host, host.address, KUBELET), "no NetworkPolicy lets replicas get there"

    again = host.dragonfly("install", "--yes", "-o", "json")
    assert finished(again)["token"] == ""
    assert changed(again) == {"self-test"}

    assert provisioned(host, first, tmp_path).code == 0
    machines = known(host, first["address"], first["token"])
    kept = host.dragonfly("uninstall", "--yes", "-o", "json")
    assert kept.code == 0, kept.err
    assert kept.events[-1]["kept"] == ["delete Secret dragonfly", "remove /var/lib/rancher"]
    assert not (host.tree / "etc/rancher").exists()
    back = finished(host.install(*ALL, "--floating-ip", FLOATING))
    assert members(host, back["address"], first["token"]), "the token is the former one"
    assert known(host, back["address"], first["token"]) == machines, "nothing was installed again"

    assert host.dragonfly("uninstall", "--yes", "--delete-data").code == 0
    eventually_equal(host.state, before, within=60)


def deployed(host: BareHost, address: str, token: str) -> Any:
    """The machine, if it is by what the replica knows that is asked."""
    machine = asked(host, address, token, "machines/m-1")
    return machine if machine["status"]["phase"] == "Deployed" else None


def ended(host: BareHost, address: str, token: str) -> Any:
    """The provisions, if all have ended by what the replica knows that is asked."""
    found = asked(host, address, token, "provisions")["items"]
    return found if all(one["status"]["phase"] in ENDS for one in found) else None


def known(host: BareHost, address: str, token: str) -> dict[str, Any]:
    """What the swarm and Tinkerbell know of machines and of what was done to them."""
    provisions = eventually("all have ended", lambda: ended(host, address, token), within=120)
    machine = eventually("it is deployed", lambda: deployed(host, address, token), within=120)
    workflows = host.objects("workflows.tinkerbell.org", "--all-namespaces")["items"]
    return {
        "spec": machine["spec"],
        "provisions": [(one["metadata"]["name"], one["status"]["phase"]) for one in provisions],
        "workflows": [(one["metadata"]["uid"], one["status"]["state"]) for one in workflows],
    }
