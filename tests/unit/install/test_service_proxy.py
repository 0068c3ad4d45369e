"""The way through the API server: credentials that rotate are taken up, and nobody waits for a slow plugin."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly.install.service_proxy import ServiceProxy, ServiceRef
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.store.errors import Denied, Unavailable
from dragonfly.store.faults import Fault
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import EtcdSettings
from tests.unit.store.stub import Stub

SERVICE = ServiceRef("tinkerbell", "dragonfly", "http")
PATH = "/api/v1/namespaces/tinkerbell/services/http:dragonfly:http/proxy/etcd/v3/"
UNAUTHORIZED = {"kind": "Status", "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401}


class ApiServer:
    """One that knows one bearer token, and answers as etcd would behind it."""

    def __init__(self) -> None:
        self.token = "first"
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.stub = Stub(self.answer)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, object]:
        _, headers, _ = self.stub.asked[-1]
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, UNAUTHORIZED
        if self.refusal is not None:
            return self.refusal
        assert path.startswith(PATH)
        header = {"cluster_id": "1", "member_id": "2", "revision": "3", "raft_term": "4"}
        return 200, {"header": header, "succeeded": True}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.stub.close()


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.stub.url}}],
        "users": [{"name": "u", "user": {"tokenFile": str(tmp_path / "token")}}],
    }
    (tmp_path / "token").write_text("first")
    file = tmp_path / "config"
    file.write_text(json.dumps(document))
    return file


def opened(kubeconfig: Path, tmp_path: Path) -> Gateway:
    (tmp_path / "replica-token").write_text("a-replica-token-for-tests")
    way = asyncio.run(ServiceProxy.open(Kubeconfig((kubeconfig,)), SERVICE))
    settings = EtcdSettings(endpoints=(way.url,), replica_token_file=tmp_path / "replica-token", timeout=30.0)
    return Gateway.open(settings, way=way)


def test_a_token_that_was_rotated_is_taken_up_when_the_former_one_is_refused(
    server: ApiServer, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly.install.service_proxy._PAUSE", 0.0)
    gateway = opened(kubeconfig, tmp_path)
    first = gateway.commit((), ())
    server.token = "second"
    (tmp_path / "token").write_text("second")

    second = gateway.commit((), ())

    gateway.close()
    assert (first, second) == (3, 3)
    headers = [headers for _, headers, _ in server.stub.asked]
    assert [said["Authorization"] for said in headers] == ["Bearer first", "Bearer first", "Bearer second"]
    assert {said["Dragonfly-Replica-Token"] for said in headers} == {"a-replica-token-for-tests"}


def test_credentials_that_are_refused_for_good_are_denied_and_not_read_for_each_call(
    server: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    server.token = "another"
    gateway = opened(kubeconfig, tmp_path)

    for _ in range(2):
        with pytest.raises(Denied, match="the API server: Unauthorized"):
            gateway.commit((), ())

    gateway.close()


def test_a_call_that_met_a_dead_pod_had_no_effect_and_one_that_was_cut_off_may_have(
    server: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    gateway = opened(kubeconfig, tmp_path)
    dead = "error trying to reach service: dial tcp 10.0.0.7:3000: connect: connection refused"
    told = []
    for message in (dead, "error trying to reach service: EOF"):
        server.refusal = 503, {"kind": "Status", "message": message, "code": 503}
        short = gateway.sibling(timeout=3.0, attempt_timeout=3.0)
        with pytest.raises(Unavailable) as caught:
            short.commit((), ())
        short.close()
        told.append((message in str(caught.value), caught.value.maybe_written))

    gateway.close()
    assert told == [(True, False), (True, True)]


def test_nobody_waits_for_a_plugin_longer_than_there_is_time(
    server: ApiServer, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly.install.service_proxy._PAUSE", 0.0)
    os.mkfifo(tmp_path / "held")
    plugin = tmp_path / "plugin"
    granted = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "first"}}
    plugin.write_text(f"#!/bin/sh\n[ -e {tmp_path}/slow ] && cat {tmp_path}/held\necho '{json.dumps(granted)}'\n")
    plugin.chmod(0o755)
    document = json.loads(kubeconfig.read_text())
    said = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": said}
    kubeconfig.write_text(json.dumps(document))
    way = asyncio.run(ServiceProxy.open(Kubeconfig((kubeconfig,)), SERVICE))
    (tmp_path / "slow").touch()

    with pytest.raises(Fault, match="others are being read") as caught:
        way.renew(0.1)

    assert caught.value.unsent
    assert way.leg().head == "Authorization: Bearer first\r\n"
    (tmp_path / "held").write_text("")
    way.renew(30.0)
