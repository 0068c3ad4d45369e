"""What k3s does for a cluster besides running Kubernetes: its own controllers, on a thread of their own.

Charts are rendered by a real Helm. What needs images that cannot be had is played: flannel by routes from node to node,
and both load balancers by an address in the Service's status, to which kube-proxy leads; kube-vip's is put on the first
node by name that lives.
"""

from __future__ import annotations

import datetime as dt
import ssl
import subprocess
import threading
import traceback
from typing import Any, Final

from dragonfly.sandbox.kubeapi import KubeApi
from tests.e2e.install.standin_charts import Charts
from tests.e2e.install.standin_node import PODS, connect_pods
from tests.e2e.install.standin_policies import Policies
from tests.e2e.install.supervisor import gateway

_PAUSE: Final = 0.5
_NODES: Final = "/api/v1/nodes"
_PODS: Final = "/api/v1/pods"
_POLICIES: Final = "/apis/networking.k8s.io/v1/networkpolicies"
_SERVICES: Final = "/api/v1/services"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_MERGE: Final = "application/merge-patch+json"
_KUBE_VIP: Final = "kube-vip.io/kube-vip-class"
_ROLES: Final = {f"node-role.kubernetes.io/{role}": "true" for role in ("control-plane", "etcd")}
_DEAD: Final = dt.timedelta(seconds=30)
"""After so long without a word of its kubelet, which says one every 10 s. All nodes have the clock of one computer."""


class Controllers:
    """Look again and again, and do what is wanted by then."""

    def __init__(self, api: KubeApi, node: str, address: str, etcd: ssl.SSLContext) -> None:
        self._api = api
        self._node = node
        self._address = address
        self._etcd = etcd
        self._charts = Charts(api)
        self._policies = Policies()
        self._held: set[str] = set()
        self._routes: set[str] = set()
        self._known: set[str] = set()
        self._leaving: set[str] = set()
        self._stopped = threading.Event()
        _masquerade()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._hold(set())
        for subnet in self._routes:
            _ip("route", "delete", subnet)

    def _loop(self) -> None:
        while not self._stopped.wait(_PAUSE):
            try:
                self._look()
            except Exception:
                # As a controller does: told in the log, and tried again.
                traceback.print_exc()

    def _look(self) -> None:
        nodes = {node["metadata"]["name"]: node for node in self._list(_NODES)}
        self._drop_members(set(nodes))
        self._connect(nodes)
        self._policies.enforce(self._list(_POLICIES), self._list(f"{_PODS}?fieldSelector=spec.nodeName={self._node}"))
        if self._is_first():
            self._charts.look()
            self._balance()
        else:
            self._hold(set())

    def _list(self, path: str) -> list[Any]:
        answer = self._api.request("GET", path)
        assert answer.status == 200, answer.body
        items: list[Any] = answer.body["items"]
        return items

    def _connect(self, nodes: dict[str, Any]) -> None:
        """Tell of this node's roles, and lead to the pods of all nodes."""
        for name, node in nodes.items():
            subnet = node["spec"].get("podCIDR")
            if name == self._node:
                if not _ROLES.items() <= node["metadata"]["labels"].items():
                    self._api.request("PATCH", f"{_NODES}/{name}", {"metadata": {"labels": _ROLES}}, _MERGE)
                if subnet:
                    connect_pods(subnet)
            elif subnet and (address := _address(node)):
                _ip("route", "replace", subnet, "via", address)
                self._routes.add(subnet)

    def _drop_members(self, found: set[str]) -> None:
        """A node that is deleted loses its place in etcd."""
        left = self._known - found
        if left or self._leaving:
            members = gateway("cluster/member/list", {}, self._etcd)["members"]
            self._leaving &= {member["ID"] for member in members}
            self._leaving |= {member["ID"] for member in members if member.get("name") in left}
        for member in self._leaving:
            # Refused while etcd holds that it would lose its quorum by it: asked again, as k3s does.
            gateway("cluster/member/remove", {"ID": member}, self._etcd)
        self._known = found

    def _is_first(self) -> bool:
        """Whether no node that lives has a name before this one's."""
        now = dt.datetime.now(dt.UTC)
        leases = {item["metadata"]["name"]: item["spec"] for item in self._list(_LEASES)}
        live = [name for name, spec in leases.items() if now - dt.datetime.fromisoformat(spec["renewTime"]) < _DEAD]
        return min(live, default="") == self._node

    def _balance(self) -> None:
        services = [one for one in self._list(_SERVICES) if one["spec"]["type"] == "LoadBalancer"]
        wanted = {_path(one): self._address_for(one) for one in services}
        self._hold(set(wanted.values()) - {self._address})
        for service in services:
            path = _path(service)
            ingress = [{"ip": wanted[path], "ipMode": "VIP"}]
            if service["status"].get("loadBalancer", {}).get("ingress") != ingress:
                status = {"loadBalancer": {"ingress": ingress}}
                self._api.request("PATCH", f"{path}/status", {"status": status}, _MERGE)

    def _address_for(self, service: Any) -> str:
        spec = service["spec"]
        return str(spec["loadBalancerIP"] if spec.get("loadBalancerClass") == _KUBE_VIP else self._address)

    def _hold(self, wanted: set[str]) -> None:
        """Have these addresses on this node."""
        for address in self._held - wanted:
            _ip("address", "delete", f"{address}/32", "dev", "cluster")
        for address in wanted - self._held:
            _ip("address", "replace", f"{address}/32", "dev", "cluster")
        self._held = wanted


def _masquerade() -> None:
    """As flannel does: who is outside of the cluster sees a node where a pod asks."""
    rule = (
        "POSTROUTING",
        "-s",
        PODS,
        "!",
        "-d",
        PODS,
        "-m",
        "comment",
        "--comment",
        "flanneld masq",
        "-j",
        "MASQUERADE",
    )
    nat = ("iptables", "--wait", "--table", "nat")
    if subprocess.run([*nat, "--check", *rule], capture_output=True, check=False).returncode != 0:
        subprocess.run([*nat, "--append", *rule], check=True)


def _path(service: Any) -> str:
    metadata = service["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/services/{metadata['name']}"


def _address(node: Any) -> str:
    told = {one["type"]: one["address"] for one in node["status"].get("addresses", ())}
    return str(told.get("InternalIP", ""))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=False)
