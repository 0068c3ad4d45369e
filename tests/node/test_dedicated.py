"""The overlay `dedicated`: machines are provisioned by way of an etcd in a pod, whose data outlive the pod."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonfly.sandbox.ports import PortLease
from tests.e2e.site import Machine
from tests.e2e.waiting import eventually
from tests.node.dedicated import NAMESPACE, Dedicated, prepared
from tests.node.deployed import ROLLOUT, Deployed
from tests.node.node import Node
from tests.node.provisioned import succeed_once

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

MACHINES = [Machine(f"own-{number}", f"02:1f:00:00:00:{number:02x}") for number in range(3)]


@pytest.fixture(scope="module")
def etcd(node: Node) -> Dedicated:
    return prepared(node)


@pytest.fixture(scope="module")
def deployed(node: Node, etcd: Dedicated, ports: PortLease) -> Iterator[Deployed]:
    with Deployed(node, ports).running("dedicated", endpoint=etcd.endpoint, access=etcd.access) as deployed:
        yield deployed


def test_machines_are_provisioned_by_a_swarm_with_an_etcd_of_its_own(
    deployed: Deployed, etcd: Dedicated, tmp_path: Path
) -> None:
    succeed_once(deployed, MACHINES, tmp_path / "agents")

    assert keys(etcd.endpoint, etcd.tls) > 0
    (control_plane,) = deployed.node.etcd.endpoints
    assert keys(control_plane, deployed.node.etcd.tls) == 0, "the control plane's etcd has something of the swarm's"


def test_a_members_data_outlive_its_pod(deployed: Deployed) -> None:
    deployed.api.post("machines", Machine("own-before", "02:1f:00:00:01:00").document())
    (before,) = members(deployed)

    deployed.node.kubectl("--namespace", NAMESPACE, "delete", "pod", before, "--wait")
    deployed.node.kubectl("--namespace", NAMESPACE, "rollout", "status", "daemonset/etcd", f"--timeout={ROLLOUT}s")

    eventually("all replicas are ready again", lambda: deployed.ready() == set(deployed.pods()), within=ROLLOUT)
    assert deployed.api.get("machines/own-before")["metadata"]["name"] == "own-before"
    deployed.api.post("machines", Machine("own-after", "02:1f:00:00:01:01").document())
    assert members(deployed) != [before]


def members(deployed: Deployed) -> list[str]:
    """The pods of etcd."""
    found = deployed.node.get("--namespace", NAMESPACE, "pods")["items"]
    return [pod["metadata"]["name"] for pod in found]


def keys(endpoint: str, tls: ssl.SSLContext) -> int:
    """How many keys of Dragonfly's an etcd has."""
    ends = {
        name: base64.b64encode(key).decode() for name, key in (("key", b"/dragonfly/"), ("range_end", b"/dragonfly0"))
    }
    request = urllib.request.Request(f"{endpoint}/v3/kv/range", json.dumps(ends | {"count_only": True}).encode())
    with urllib.request.urlopen(request, context=tls, timeout=20) as answer:
        return int(json.load(answer).get("count", 0))
