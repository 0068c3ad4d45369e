"""The relay on a real node: a computer with nothing but a kubeconfig joins a swarm in pods, through the API server.

It does not reach etcd: the node refuses its connections there. What it goes through are the API server's service proxy,
a Service with its endpoints, and pods that a kubelet runs, one of which is killed under it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from kubernetes import client as kubernetes
from kubernetes import config

from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import accepts
from dragonfly.store.replica_tokens import HEADER
from dragonfly.swarm.shards import shard_of
from tests.e2e.api import Api
from tests.e2e.fleet import ACTIONS, ENDS, two_actions
from tests.e2e.site import Agents, Machine, base64_of
from tests.e2e.waiting import eventually
from tests.node.deployed import NAMESPACE, Deployed
from tests.node.laptop import LAPTOP, SERVICE, Laptop, secret_of, tell_the_way
from tests.node.node import Node

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

_SHARDS: Final = 8
PATIENCE: Final = 120.0
_RELAY: Final = f"/api/v1/namespaces/{NAMESPACE}/services/http:{SERVICE}:http/proxy/etcd/v3"
_PREFIX: Final = "/dragonfly/"


@pytest.fixture(scope="module")
def replica_token(deployed: Deployed) -> str:
    return secret_of(deployed)["replica-token"]


@pytest.fixture(scope="module")
def laptop(deployed: Deployed, ports: PortLease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    """One that knows of etcd's address, and does not get there."""
    _refuse_etcd(deployed.node)
    tell_the_way(deployed, deployed.node.etcd.endpoints)
    with Laptop.running(deployed, ports, tmp_path_factory.mktemp("laptop")) as laptop:
        yield laptop


def _refuse_etcd(node: Node) -> None:
    """Let etcd be reached from the node and its pods alone."""
    for endpoint in node.etcd.endpoints:
        url = urlsplit(endpoint)
        assert accepts(str(url.hostname), int(url.port or 0)), "it would be reached"
        flags = ("--in-interface", "management", "--protocol", "tcp", "--destination-port", str(url.port))
        node.place.run("iptables", "--wait", "--insert", "INPUT", *flags, "--jump", "REJECT")
        assert not accepts(str(url.hostname), int(url.port or 0))


def test_it_joins_drives_shards_and_outlives_the_pod_that_it_goes_through(
    deployed: Deployed, laptop: Laptop, tmp_path: Path
) -> None:
    """P1, P7: a full member, without etcd's address or certificates."""
    eventually("it drives shards", lambda: _claims(deployed), within=PATIENCE)
    etcd = laptop.api.get("mode")["etcd"]
    assert (etcd["source"], etcd["reachable"]) == ("relay", True)
    pid = laptop.service.pid

    laptop.api.post("templates", {"metadata": {"name": "two-actions"}, "spec": two_actions()})
    agents = Agents(
        tmp_path / "agents",
        deployed.tinkerbell.tink_server,
        BEFORE + AFTER,
        Behaviour(seed=5, shortest=0.1, longest=0.5),
    )
    agents.service.start()
    try:
        _provision(laptop.api, BEFORE)
        through = eventually("a pod streams the laptop's watch", lambda: _streaming(deployed), within=PATIENCE)
        _kill(deployed, through)
        _provision(laptop.api, AFTER)
        eventually("all have ended", lambda: set(_phases(deployed).values()) <= ENDS, within=300, every=0.5)
    finally:
        agents.service.stop()

    assert _phases(deployed) == dict.fromkeys((machine.name for machine in BEFORE + AFTER), "Succeeded")
    started = sorted((step.agent, step.action) for step in agents.trace() if step.event == "started")
    assert started == sorted((machine.mac, action) for machine in BEFORE + AFTER for action in ACTIONS)
    assert "provision.armed" in laptop.service.program.log.read_text(), "it has driven none of them"
    assert laptop.service.running
    assert laptop.service.pid == pid
    eventually("it drives shards still, or again", lambda: _claims(deployed), within=PATIENCE)
    late = Machine("relay-late", "02:1e:00:00:03:ff")
    written = deployed.api.post("machines", late.document())
    revision = written["metadata"]["revision"]
    seen = f"machines/{late.name}?minRevision={revision}"
    eventually("it follows the swarm again", lambda: laptop.api.once("GET", seen).ok, within=PATIENCE)


def test_keys_outside_of_the_prefix_and_calls_without_a_token_are_refused(
    deployed: Deployed, laptop: Laptop, replica_token: str
) -> None:
    """Though the API server lets its admin through to the pods."""
    assert laptop.service.running
    # One of the pods was killed by the test before.
    eventually("all pods are ready", lambda: deployed.ready() == set(deployed.pods()), within=PATIENCE)
    caller = Caller(deployed)
    inside = {"key": base64_of(f"{_PREFIX}schema")}
    outside = {"key": base64_of("/registry/secrets/"), "range_end": base64_of("/registry/secrets0")}
    put = {"request_put": {"key": base64_of("/registry/x"), "value": ""}}

    assert caller.post("kv/range", inside, replica_token)[0] == 200
    for body in (outside, {"key": base64_of("/"), "range_end": base64_of("0")}):
        status, told = caller.post("kv/range", body, replica_token)
        assert (status, told.get("code")) == (403, 7), told
    status, told = caller.post("kv/txn", {"success": [put]}, replica_token)
    assert (status, told.get("code")) == (403, 7), told
    for path, body in (("kv/range", inside), ("lease/grant", {"TTL": "10"}), ("watch", {})):
        assert caller.post(path, body, "")[0] == 401
        assert caller.post(path, body, "a-token-of-nobody-here")[0] == 401


def _one_in_each_shard(name: str, number: int) -> list[Machine]:
    """So that whoever drives any shard has one of them to provision."""
    names: dict[int, str] = {}
    for found in (f"{name}-{count}" for count in itertools.count()):
        names.setdefault(shard_of(found, _SHARDS), found)
        if len(names) == _SHARDS:
            break
    return [Machine(names[shard], f"02:1e:00:00:{number:02x}:{shard:02x}") for shard in sorted(names)]


BEFORE: Final = _one_in_each_shard("before", 1)
AFTER: Final = _one_in_each_shard("after", 2)
"""Provisioned before the pod is killed, and after that."""


class Caller:
    """Calls of the relay through the API server, as its admin."""

    def __init__(self, deployed: Deployed) -> None:
        self._url = deployed.node.apiserver.url + _RELAY
        self._client: Any = config.new_client_from_config(str(deployed.node.kubeconfig))  # type: ignore[no-untyped-call] # the library's config has no types

    def post(self, path: str, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json"} | ({HEADER: token} if token else {})
        try:
            answer = self._client.rest_client.request("POST", f"{self._url}/{path}", headers=headers, body=body)
        except kubernetes.ApiException as error:
            return int(error.status or 0), json.loads(error.body or "{}")
        return answer.status, json.loads(answer.read() if hasattr(answer, "read") else answer.data)


def _provision(api: Api, machines: list[Machine]) -> None:
    for machine in machines:
        api.post("machines", machine.document())
        api.post(f"machines/{machine.name}/provision", {"template": "two-actions"})


def _phases(deployed: Deployed) -> dict[str, str]:
    """Of the provisions, by machine, as the pods tell."""
    found = deployed.api.get("provisions?limit=1000")["items"]
    return {item["spec"]["machine"]: item["status"]["phase"] for item in found}


def _claims(deployed: Deployed) -> int:
    return sum(claim["owner"] == LAPTOP for claim in deployed.api.get("swarm")["claims"])


def _streaming(deployed: Deployed) -> str:
    """Which pod relays a watch; empty for none."""
    for pod in deployed.pods():
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:3000/proxy/metrics"
        found = re.search(
            r"^dragonfly_relay_watches (\S+)$", str(deployed.admin.request("GET", path).body), re.MULTILINE
        )
        if found is not None and float(found[1]) > 0:
            return pod
    return ""


def _kill(deployed: Deployed, pod: str) -> None:
    """End the pod's process as a kill -9 does, by its container runtime."""
    (status,) = deployed.pods()[pod]["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("containerd://")
    deployed.node.place.run("ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)
    eventually("it was started again", lambda: _restarts(deployed, pod) > status["restartCount"], within=PATIENCE)


def _restarts(deployed: Deployed, pod: str) -> int:
    (status,) = deployed.pods()[pod]["status"]["containerStatuses"]
    return int(status["restartCount"])
