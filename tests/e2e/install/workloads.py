"""Plays what runs pods, charts and load balancers on a node, as far as `dragonfly install` needs them.

The replicas run on one node, the first by name of those that live, so when that one dies the next one has them.
Tinkerbell is the real program, started there when its HelmChart is there. The load balancer forwards from the
Service's port at the node's address, or at the address that kube-vip would hold.
"""

from __future__ import annotations

import ssl
import threading
import traceback
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.tinkerbell import Tinkerbell
from tests.e2e.install.balancer import Balancer
from tests.e2e.install.heartbeat import Heartbeat
from tests.e2e.install.own_etcd import OwnEtcd
from tests.e2e.install.pods import Pods
from tests.e2e.install.supervisor import gateway

_PAUSE: Final = 0.2
_SERVICE: Final = "/api/v1/namespaces/dragonfly/services/dragonfly"
_CHART: Final = "/apis/helm.cattle.io/v1/namespaces/kube-system/helmcharts/tinkerbell"
_MERGE: Final = "application/merge-patch+json"


class Workloads:
    """Looks again and again, on a thread of its own, and does what is wanted by then."""

    def __init__(self, api: KubeApi, node: str, address: str, logs: Path, etcd: ssl.SSLContext) -> None:
        self._api = api
        self._address = address
        self._logs = logs
        self._etcd = etcd
        self._ports = PortLease()
        self._heartbeat = Heartbeat(api, node)
        self._own_etcd = OwnEtcd(api, node, address, logs)
        self._pods = Pods(api, node, address, logs, self._ports)
        self._tinkerbell: Tinkerbell | None = None
        self._balancer: Balancer | None = None
        self._nodes: set[str] = set()
        self._leaving: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._heartbeat.close()
        self._leave()
        self._own_etcd.stop()
        self._ports.release()

    def _loop(self) -> None:
        while not self._stopped.wait(_PAUSE):
            try:
                self._look()
            except Exception:
                # As a controller does: told in the log, and tried again.
                traceback.print_exc()

    def _look(self) -> None:
        self._drop_members()
        self._own_etcd.look()
        if not self._heartbeat.is_first():
            self._leave()
            return
        self._chart()
        self._pods.look()
        self._service()

    def _leave(self) -> None:
        """Another node has all this."""
        self._pods.stop()
        if self._tinkerbell:
            self._tinkerbell.service.stop()
        if self._balancer:
            self._balancer.close()
        self._tinkerbell = self._balancer = None

    def _get(self, path: str) -> Any:
        answer = self._api.request("GET", path)
        return answer.body if answer.status == 200 else None

    def _drop_members(self) -> None:
        """A node that is deleted loses its place in etcd."""
        found = {item["metadata"]["name"] for item in self._get("/api/v1/nodes")["items"]}
        left = self._nodes - found
        if left or self._leaving:
            members = gateway("cluster/member/list", {}, self._etcd)["members"]
            self._leaving &= {member["ID"] for member in members}
            self._leaving |= {member["ID"] for member in members if member.get("name") in left}
        for member in self._leaving:
            # Refused while etcd holds that it would lose its quorum by it: asked again, as k3s does.
            gateway("cluster/member/remove", {"ID": member}, self._etcd)
        self._nodes = found

    def _chart(self) -> None:
        chart = self._get(_CHART)
        if chart is None and self._tinkerbell is not None:
            self._tinkerbell.service.stop()
            self._tinkerbell = None
        if chart is not None and self._tinkerbell is None:
            directory = self._logs / "tinkerbell"
            kubeconfig = Path("/etc/rancher/k3s/k3s.yaml")
            binary = toolchain.binary("tinkerbell")
            self._tinkerbell = Tinkerbell(binary, directory, kubeconfig, self._api, self._ports)
            self._tinkerbell.service.start()
            (directory / "tink-server").write_text(self._tinkerbell.tink_server)

    def _service(self) -> None:
        service = self._get(_SERVICE)
        if service is None:
            return
        wanted = service["spec"].get("loadBalancerIP") or self._address
        if self._balancer is None:
            port, is_floating = service["spec"]["ports"][0]["port"], wanted != self._address
            self._balancer = Balancer(wanted, port, self._pods.ready_ports, is_floating=is_floating)
        ingress = [{"ip": wanted, "ipMode": "VIP"}]
        if service["status"].get("loadBalancer", {}).get("ingress") != ingress:
            status = {"loadBalancer": {"ingress": ingress}}
            self._api.request("PATCH", f"{_SERVICE}/status", {"status": status}, _MERGE)
