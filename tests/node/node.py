"""A whole Kubernetes on one node: real etcd, API server, controllers, scheduler, containerd, kubelet and kube-proxy.

    with Node(directory, ports).running() as node:
        node.kubectl("apply", "--server-side", "-k", "deploy/k3s/overlays/shared")

Everything runs in namespaces and control groups of its own (`place`) and listens on the node's address, which this
process reaches. Admission is the API server's own, Pod Security with it. There is no DNS for pods, nothing enforces
NetworkPolicies, and no controller gives Services of type LoadBalancer an address: `balance` plays that one.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.apiserver import ApiServer
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import accepts, http_ok
from dragonfly.sandbox.process import Program, Service
from tests.chaos.netns import Network
from tests.e2e.waiting import eventually
from tests.node import programs, settings
from tests.node.containerd import PODS, SOCKET, Containerd
from tests.node.place import Place

NAME: Final = "node-1"
_DNS: Final = "10.96.0.10"


class Node:
    """One node, and its control plane."""

    def __init__(self, directory: Path, ports: PortLease) -> None:
        """Nothing starts before `running`."""
        self.directory = directory
        self._ports = ports
        self._network = Network(directory / "network", nodes=1)
        self.place = Place(NAME, self._network.nodes[0], directory / "place")
        self.address = self.place.address
        self.balanced = str(self._network.spare)
        """The address that `balance` gives away."""
        self.etcd: Etcd
        self.apiserver: ApiServer
        self.containerd: Containerd
        self._authority: Authority

    @contextmanager
    def running(self) -> Iterator[Node]:
        """Have it for the block, ready for pods.

        Raises:
            NoNetwork: this is not root, or no network namespace can be made.
            NoControlGroups: no control groups can be made.
            ToolMissing: a program is not there and can't be had.
            ProcessFailed: a part did not become ready.
        """
        with ExitStack() as stack:
            stack.enter_context(self._network.running())
            stack.enter_context(self.place.running())
            self._start_control_plane(stack)
            self.containerd = Containerd(self.place, self.directory / "containerd")
            stack.callback(self.containerd.service.kill)
            self.containerd.start()
            self._start_node(stack)
            eventually("the node is ready", self._is_ready, within=120, every=0.5)
            yield self

    @property
    def kubeconfig(self) -> Path:
        """The admin's."""
        return self.apiserver.admin_kubeconfig

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl says as the admin.

        Raises:
            AssertionError: it failed; has its words.
        """
        command = [str(toolchain.binary("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """An object, or a list of them."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(documents))

    def balance(self, namespace: str, service: str) -> str:
        """Do what kube-vip does: put an address on the node, and tell of it in the Service's status; the address."""
        self.place.run("ip", "address", "replace", f"{self.balanced}/32", "dev", "management")
        status = {"status": {"loadBalancer": {"ingress": [{"ip": self.balanced, "ipMode": "VIP"}]}}}
        patch = (
            "patch",
            "service",
            service,
            "--subresource",
            "status",
            "--type",
            "merge",
            "--patch",
            json.dumps(status),
        )
        self.kubectl("--namespace", namespace, *patch)
        return self.balanced

    def _start_control_plane(self, stack: ExitStack) -> None:
        host, now = self.place.host, dt.datetime.now(dt.UTC)
        etcd_authority = Authority(self.directory / "etcd", "etcd-ca", now)
        binary = toolchain.binary
        self.etcd = Etcd(binary("etcd"), self.directory / "etcd", etcd_authority, self._ports, hosts=[host])
        stack.callback(self._kill_etcd)
        self.etcd.start()
        self._authority = Authority(self.directory / "kubernetes", "kubernetes-ca", now)
        kubelet_client = self._authority.client("apiserver-kubelet-client", ["system:masters"])
        flags = {
            "allow-privileged": "true",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "endpoint-reconciler-type": "lease",
            "kubelet-certificate-authority": str(self._authority.ca),
            "kubelet-client-certificate": str(kubelet_client.certificate),
            "kubelet-client-key": str(kubelet_client.key),
            "kubelet-preferred-address-types": "InternalIP",
        }
        self.apiserver = ApiServer(
            binary("kube-apiserver"),
            self.directory / "kubernetes",
            self._authority,
            self.etcd,
            self._ports,
            host=host,
            flags=flags,
        )
        stack.callback(self.apiserver.service.kill)
        self.apiserver.service.start()

    def _kill_etcd(self) -> None:
        for member in self.etcd.members:
            member.service.kill()

    def _start_node(self, stack: ExitStack) -> None:
        found = programs.built()
        services = [
            self._service(name, (str(found[name]), *flags), ready)
            for name, flags, ready in (
                self._controllers(),
                self._scheduler(),
                self._kubelet(),
                self._proxy(),
            )
        ]
        for service in services:
            stack.callback(service.kill)
            service.spawn()
        for service in services:
            service.wait_ready()

    def _service(self, name: str, command: tuple[str, ...], ready: Callable[[], bool]) -> Service:
        program = Program(name, (*self.place.enter, *command), self.directory / f"{name}.log")
        return Service(program, ready, within=120)

    def _controllers(self) -> tuple[str, tuple[str, ...], Callable[[], bool]]:
        flags = {
            "controllers": "*,-nodeipam",
            "root-ca-file": self._authority.ca,
            "service-account-private-key-file": self.apiserver.signing_key,
        }
        return self._without_rival("kube-controller-manager", flags)

    def _scheduler(self) -> tuple[str, tuple[str, ...], Callable[[], bool]]:
        return self._without_rival("kube-scheduler", {})

    def _without_rival(self, name: str, more: Mapping[str, Any]) -> tuple[str, tuple[str, ...], Callable[[], bool]]:
        """A part of the control plane of which there is one, so that it need not be elected."""
        port = self._ports.take()
        flags = {
            "kubeconfig": self.kubeconfig,
            "bind-address": self.address,
            "secure-port": port,
            "leader-elect": "false",
            "cert-dir": self.directory / name,
            **more,
        }
        return name, settings.flags(flags), lambda: accepts(self.address, port)

    def _kubelet(self) -> tuple[str, tuple[str, ...], Callable[[], bool]]:
        resolver = self.directory / "resolv.conf"
        resolver.write_text(f"nameserver {_DNS}\n")
        served = self._authority.server("kubelet", addresses=[self.address])
        user = self._authority.client(f"system:node:{NAME}", ["system:nodes"])
        kubeconfig = self.apiserver.kubeconfig_of(self.directory / "kubelet.kubeconfig", user)
        healthz = self._ports.take()
        told = settings.kubelet(
            self.address,
            self._authority.ca,
            served,
            SOCKET,
            {"healthzPort": healthz, "clusterDNS": [_DNS], "resolvConf": str(resolver)},
        )
        flags = {
            "config": self._written("kubelet.yaml", told),
            "kubeconfig": kubeconfig,
            "hostname-override": NAME,
            "node-ip": self.address,
            "v": 1,
        }
        return "kubelet", settings.flags(flags), lambda: http_ok(f"http://{self.address}:{healthz}/healthz")

    def _proxy(self) -> tuple[str, tuple[str, ...], Callable[[], bool]]:
        healthz = self._ports.take()
        told = settings.kube_proxy(NAME, self.address, self.kubeconfig, PODS, healthz)
        flags = {"config": self._written("kube-proxy.yaml", told), "v": 1}
        return "kube-proxy", settings.flags(flags), lambda: http_ok(f"http://{self.address}:{healthz}/healthz")

    def _written(self, name: str, told: Mapping[str, Any]) -> Path:
        path = self.directory / name
        path.write_text(yaml.safe_dump(told))
        return path

    def _is_ready(self) -> bool:
        nodes = self.get("nodes")["items"]
        return bool(nodes) and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in nodes[0]["status"].get("conditions", ())
        )
