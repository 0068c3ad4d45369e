"""The node that the other tests stand on: pods run in it and reach each other, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509

from dragonfly.sandbox.ports import PortLease
from tests.e2e.waiting import eventually, eventually_equal
from tests.node.node import Node
from tests.node.objects import pod

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


class Traces(NamedTuple):
    """What of a node this computer has."""

    groups: bool
    interfaces: bool
    processes: bool


def test_pods_reach_each_other_and_nothing_of_the_node_is_left(tmp_path: Path) -> None:
    with PortLease() as ports, Node(tmp_path / "node", ports).running() as node:
        network = Path(f"/proc/{node.place.pid}/ns/net").readlink()
        node.apply(running("server", "httpd", "-f", "-p", "8080", "-h", "/bin"), service("server", 8080))
        node.apply(running("client", "sleep", "3600"))
        eventually("both pods are ready", lambda: ready(node) == {"server", "client"}, within=120)
        address = node.get("service", "server")["spec"]["clusterIP"]
        wget = ("exec", "client", "--", "/bin/busybox", "wget", "-q", "-O", "/dev/null", f"http://{address}/busybox")
        eventually("the one reaches the other", lambda: succeeds(node, *wget), within=60)
        assert knows_api_server(node)
        assert traces(network) == Traces(groups=True, interfaces=True, processes=True)

    nothing = Traces(groups=False, interfaces=False, processes=False)
    eventually_equal(lambda: traces(network), nothing, within=60)


def knows_api_server(node: Node) -> bool:
    """Whether its certificate is one for the address by which pods know it."""
    address = node.get("service", "kubernetes")["spec"]["clusterIP"]
    certificate = x509.load_pem_x509_certificate(node.apiserver.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return ip_address(address) in names.get_values_for_type(x509.IPAddress)


def traces(network: Path) -> Traces:
    """Of this process's node, whose network is that."""
    return Traces(
        has_group(f"dragonfly-test-{os.getpid()}-"),
        Path(f"/sys/class/net/df{os.getpid()}").exists(),
        is_inhabited(network),
    )


def has_group(prefix: str) -> bool:
    """Whether there is a control group of such a name. Others come and go while they are walked through."""
    found = (name for _, directories, _ in os.walk("/sys/fs/cgroup") for name in directories)
    return any(name.startswith(prefix) for name in found)


def is_inhabited(network: Path) -> bool:
    """Whether a process is in that namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        # Some end while they are looked at.
        with contextlib.suppress(OSError):
            if (process / "ns/net").readlink() == network:
                return True
    return False


def running(name: str, *command: str) -> dict[str, Any]:
    return pod("default", name, {"command": ["/bin/busybox", *command]})


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
