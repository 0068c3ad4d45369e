"""`dragonfly install` from a bare host to a swarm behind a load balancer, and back.

Real: the command line, every file, etcd, kube-apiserver, Tinkerbell, the replicas and what they do. Played by a
stand-in: k3s itself, systemd, pods and the load balancer (see `standin_k3s`, `workloads`).
"""

from __future__ import annotations

import pytest

from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.installed import ALL, FLOATING, finished, members

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_bare_host_becomes_a_swarm_and_a_bare_host_again(host: BareHost) -> None:
    before = host.files()

    first = finished(host.install(*ALL, "--floating-ip", FLOATING))

    assert first["address"] == f"http://{FLOATING}:3000"
    assert members(host, first["address"], first["token"])
    for kind in ("persistentvolumeclaims", "persistentvolumes"):
        assert host.objects(kind, "--all-namespaces")["items"] == []

    again = host.dragonfly("install", "--yes", "-o", "json")
    assert finished(again)["token"] == ""
    assert {step for step, state in again.states().items() if state != "unchanged"} == {"self-test"}

    kept = host.dragonfly("uninstall", "--yes", "-o", "json")
    assert kept.code == 0, kept.err
    assert kept.events[-1]["kept"] == ["delete Secret dragonfly", "remove /var/lib/rancher"]
    assert not (host.tree / "etc/rancher").exists()
    back = finished(host.install(*ALL, "--floating-ip", FLOATING))
    assert members(host, back["address"], first["token"]), "the token is the former one"

    assert host.dragonfly("uninstall", "--yes", "--delete-data").code == 0
    assert host.files() == before
