"""The node that the other tests stand on: pods run in it and reach each other, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dragonfly.sandbox.ports import PortLease
from tests.e2e.waiting import eventually
from tests.node.containerd import BUSYBOX
from tests.node.node import Node

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


class Traces(NamedTuple):
    """What of a node this computer has."""

    groups: bool
    interfaces: bool
    processes: bool


def test_pods_reach_each_other_and_nothing_of_the_node_is_left(tmp_path: Path) -> None:
    with PortLease() as ports, Node(tmp_path / "node", ports).running() as node:
        network = Path(f"/proc/{node.place.pid}/ns/net").readlink()
        node.apply(pod("server", "httpd", "-f", "-p", "8080", "-h", "/bin"), service("server", 8080))
        node.apply(pod("client", "sleep", "3600"))
        eventually("both pods are ready", lambda: ready(node) == {"server", "client"}, within=120)
        address = node.get("service", "server")["spec"]["clusterIP"]
        wget = ("exec", "client", "--", "/bin/busybox", "wget", "-q", "-O", "/dev/null", f"http://{address}/busybox")
        eventually("the one reaches the other", lambda: succeeds(node, *wget), within=60)
        assert traces(network) == Traces(groups=True, interfaces=True, processes=True)

    assert traces(network) == Traces(groups=False, interfaces=False, processes=False)


def traces(network: Path) -> Traces:
    """Of this process's node, whose network is that."""
    groups = [path for path in Path("/sys/fs/cgroup").rglob(f"dragonfly-test-{os.getpid()}") if path.is_dir()]
    return Traces(bool(groups), Path(f"/sys/class/net/df{os.getpid()}").exists(), is_inhabited(network))


def is_inhabited(network: Path) -> bool:
    """Whether a process is in that namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        # Some end while they are looked at.
        with contextlib.suppress(OSError):
            if (process / "ns/net").readlink() == network:
                return True
    return False


def pod(name: str, *command: str) -> dict[str, Any]:
    container = {
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["/bin/busybox", *command],
    }
    metadata = {"name": name, "namespace": "default", "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def service(name: str, port: int) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def ready(node: Node) -> set[str]:
    return {
        found["metadata"]["name"]
        for found in node.get("pods")["items"]
        for condition in found["status"].get("conditions", ())
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def succeeds(node: Node, *command: str) -> bool:
    try:
        node.kubectl(*command)
    except AssertionError:
        return False
    return True
