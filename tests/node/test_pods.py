"""deploy/k3s as it is, in real pods: what runs, as whom, what it may, and that it provisions machines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.sandbox.ports import PortLease
from tests.e2e.api import Api
from tests.e2e.prometheus import Prometheus
from tests.e2e.site import Machine
from tests.e2e.waiting import eventually, eventually_equal
from tests.integration.k3s.rendered import K3S
from tests.node.deployed import NAMESPACE, REPLICAS, ROLLOUT, Deployed
from tests.node.laptop import Laptop, tell_the_way
from tests.node.load import Load
from tests.node.objects import pod
from tests.node.provisioned import succeed_once

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

NOBODY = 65_532
SITES = Path(__file__).parents[2] / "docs" / "sites.md"
MOVES = (("out", 4), ("back", 5))
MACHINES = [Machine(f"pod-{number}", f"02:1e:00:00:00:{number:02x}") for number in range(4)]

# Runs in a replica's container: every place outside of the kernel's own that its user may write to.
WRITABLE = """
import json, os
found = []
for place, directories, files in os.walk("/"):
    if place == "/":
        directories[:] = [name for name in directories if name not in ("proc", "sys", "dev")]
    found += [path for name in [".", *files] if os.access(path := os.path.join(place, name), os.W_OK)]
print(json.dumps(found))
"""


def test_three_replicas_are_ready_and_the_service_leads_to_each(deployed: Deployed) -> None:
    pods = set(deployed.pods())
    assert len(pods) == REPLICAS
    eventually_equal(deployed.ready, pods, within=120)
    eventually_equal(lambda: {member["id"] for member in deployed.api.get("swarm")["members"]}, pods, within=120)
    with Load(deployed.url, deployed.token).running() as load:
        eventually("each was reached", lambda: set(load.answered) == pods, within=120)
    assert load.failures == []


def test_machines_are_provisioned_through_the_service(deployed: Deployed, tmp_path: Path) -> None:
    succeed_once(deployed, MACHINES, tmp_path / "agents")


def test_a_replica_runs_as_nobody_without_capabilities(deployed: Deployed) -> None:
    """As the kernel has it, not as the manifest asks for it."""
    for replica in deployed.pods():
        lines = deployed.run(replica, "cat", "/proc/1/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert status["Uid"].split() == [str(NOBODY)] * 4
        assert status["Gid"].split() == [str(NOBODY)] * 4
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2", "no filter of system calls"


def test_a_replica_can_write_nowhere(deployed: Deployed) -> None:
    for replica in deployed.pods():
        assert json.loads(deployed.run(replica, "python3", "-c", WRITABLE)) == []


def test_pod_security_refuses_what_is_more_than_restricted(deployed: Deployed) -> None:
    harmless = {"runAsNonRoot": True, "runAsUser": NOBODY, "seccompProfile": {"type": "RuntimeDefault"}}
    tight = harmless | {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    looser: dict[str, dict[str, Any]] = {
        "privileged": {"securityContext": {"privileged": True}},
        "as-root": {"securityContext": tight | {"runAsNonRoot": False, "runAsUser": 0}},
        "capable": {"securityContext": tight | {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}},
        "escalating": {"securityContext": harmless},
    }
    refused = {name: create(deployed, pod(NAMESPACE, name, container)) for name, container in looser.items()}
    assert {name: status for name, (status, _) in refused.items()} == dict.fromkeys(looser, 403)
    assert all("violates PodSecurity" in message for _, message in refused.values()), refused
    on_disk = pod(NAMESPACE, "on-disk", {"securityContext": tight})
    on_disk["spec"]["volumes"] = [{"name": "disk", "hostPath": {"path": "/"}}]
    assert create(deployed, on_disk)[0] == 403
    # So the others were refused for nothing else.
    assert create(deployed, pod(NAMESPACE, "tight", {"securityContext": tight}))[0] == 201


def test_nothing_is_kept_on_a_disk(deployed: Deployed) -> None:
    assert deployed.node.get("persistentvolumeclaims", "--all-namespaces")["items"] == []
    assert deployed.node.get("persistentvolumes")["items"] == []
    for found in deployed.pods().values():
        kinds = {kind for volume in found["spec"]["volumes"] for kind in volume if kind != "name"}
        assert kinds == {"secret", "projected"}


def test_the_api_servers_service_proxy_reaches_replicas(deployed: Deployed) -> None:
    """By the way that the relay takes (docs/relay.md)."""
    proxy = f"/api/v1/namespaces/{NAMESPACE}/services/dragonfly:http/proxy"
    answer = deployed.admin.request("GET", f"{proxy}/readyz")
    assert answer.status == 200, answer
    # The API server keeps the client's own credentials to itself.
    assert deployed.admin.request("GET", f"{proxy}/api/v1/machines").status == 401


def test_prometheus_scrapes_each_pod(deployed: Deployed, ports: PortLease, tmp_path: Path) -> None:
    """As the operator would have it from the ServiceMonitor, which is played here: it needs images."""
    host = deployed.node.place.host
    targets = monitored(deployed)
    prometheus = Prometheus(tmp_path / "prometheus", ports.take(), targets, host)
    prometheus.service.start()
    try:
        eventually_equal(prometheus.up, set(targets), within=120)
        assert len(targets) == REPLICAS
        eventually("its alerts are judged", lambda: set(prometheus.healthy_rules().values()) == {"ok"}, within=120)
    finally:
        prometheus.service.stop()


def test_out_of_pods_to_a_vm_and_back(deployed: Deployed, ports: PortLease, tmp_path: Path) -> None:
    """Nothing but starting the one and stopping the other: by the command that docs/sites.md has for it."""
    etcd = deployed.node.etcd
    tell_the_way(deployed, etcd.endpoints, etcd.access.client)
    out, back = ([Machine(f"{name}-{each}", f"02:1e:00:00:{at:02x}:0{each}") for each in (1, 2)] for name, at in MOVES)
    before = set(deployed.pods())
    with Laptop.running(deployed, ports, tmp_path, name="vm") as vm:
        found = vm.api.get("mode")
        assert (found["mode"], found["etcd"]["source"]) == ("remote", "secret")
        eventually("it drives a share", lambda: "vm" in drivers(vm.api), within=120)
        scale(deployed, 0)
        eventually("the pods are gone", lambda: not deployed.pods(), within=ROLLOUT)
        eventually_equal(lambda: drivers(vm.api), {"vm"}, within=120)
        succeed_once(deployed, out, tmp_path / "agents-out", api=vm.api, template="out")

        scale(deployed, REPLICAS)
        deployed.rolled_out()
        eventually("a pod drives a share", lambda: drivers(vm.api) - {"vm", ""}, within=120)
    pods = set(deployed.pods())
    assert not pods & before
    eventually_equal(lambda: drivers(deployed.api), pods, within=120)
    succeed_once(deployed, back, tmp_path / "agents-back", template="back")
    wanted = dict.fromkeys((machine.name for machine in out + back), "Deployed")
    eventually_equal(lambda: phases(deployed.api, out + back), wanted, within=120)


def phases(api: Api, machines: list[Machine]) -> dict[str, str]:
    return {machine.name: api.get(f"machines/{machine.name}")["status"]["phase"] for machine in machines}


def scale(deployed: Deployed, replicas: int) -> None:
    """Run the documented command; its number is of how many replicas."""
    documented = re.search(r"`kubectl (.* scale .* --replicas) 0`", SITES.read_text(encoding="utf-8"))
    assert documented is not None
    deployed.node.kubectl(*documented[1].split(), str(replicas))


def drivers(api: Api) -> set[str]:
    """Who drives the cluster's shards; "" for nobody."""
    return set(api.get("clusters/local")["status"]["owners"].values())


def create(deployed: Deployed, document: dict[str, Any]) -> tuple[int, str]:
    """Whether the API server would take it: the status, and its words."""
    answer = deployed.admin.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", document)
    return answer.status, str(answer.body.get("message", ""))


def monitored(deployed: Deployed) -> list[str]:
    """What the shipped ServiceMonitor selects: `host:port` of each endpoint."""
    monitor = yaml.safe_load((K3S / "components" / "servicemonitor" / "servicemonitor.yaml").read_text())["spec"]
    labels = ",".join(f"{key}={value}" for key, value in monitor["selector"]["matchLabels"].items())
    (endpoint,) = monitor["endpoints"]
    slices = deployed.node.get("--namespace", NAMESPACE, "endpointslices.discovery.k8s.io", "--selector", labels)[
        "items"
    ]
    return [
        f"{address}:{port['port']}"
        for each in slices
        for port in each["ports"]
        if port["name"] == endpoint["port"]
        for backend in each["endpoints"]
        for address in backend["addresses"]
    ]
