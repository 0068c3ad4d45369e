"""What runs pods on a server of the stand-in, as k3s has it in one process: real programs, on k3s's ports and paths."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from dragonfly.sandbox.pki import KeyPair
from dragonfly.sandbox.probes import accepts, http_ok
from dragonfly.sandbox.process import Program, Service
from tests.node import programs, settings
from tests.node.containerd import program

SOCKET: Final = "/run/k3s/containerd/containerd.sock"
PODS: Final = "10.42.0.0/16"
DNS: Final = "10.43.0.10"
_AGENT: Final = Path("/var/lib/rancher/k3s/agent")
_NETWORKS: Final = _AGENT / "etc" / "cni" / "net.d"
_IMAGES: Final = _AGENT / "images"
_KUBELET_HEALTH: Final = 10248
_PROXY_HEALTH: Final = 10256
_SECONDS: Final = 120


class Credentials(NamedTuple):
    """By which a node's programs know the others, and are known."""

    authority: Path
    serving: KeyPair
    """The kubelet's."""
    admin: Path
    """A kubeconfig; so are the others."""
    kubelet: Path
    signing_key: Path
    """Of tokens for service accounts."""


class NodeParts:
    """containerd, kubelet, kube-proxy, and the control plane's controllers and scheduler."""

    def __init__(self, name: str, address: str, credentials: Credentials, logs: Path) -> None:
        self._name = name
        self._address = address
        self._credentials = credentials
        self._logs = logs
        self._files = _AGENT / "etc"
        self._files.mkdir(parents=True, exist_ok=True)
        self._programs = programs.built()

    def start(self, stack: ExitStack) -> None:
        """Start all; they end with the stack, and the pods do not."""
        self._start_containerd(stack)
        services = [self._controllers(), self._scheduler(), self._kubelet(), self._proxy()]
        for service in services:
            stack.callback(service.stop)
            service.spawn()
        for service in services:
            service.wait_ready()

    def _start_containerd(self, stack: ExitStack) -> None:
        # Debian's containerd has the shims' sockets below /run/containerd, which leads here on a host.
        Path(SOCKET).parent.mkdir(parents=True, exist_ok=True)
        _NETWORKS.mkdir(parents=True, exist_ok=True)
        root, state = str(_AGENT / "containerd"), str(Path(SOCKET).parent)
        config = self._written(
            "containerd.toml", settings.containerd(SOCKET, root=root, state=state, networks=_NETWORKS)
        )
        command = (program("containerd"), "--config", str(config))
        service = Service(
            Program("containerd", command, self._logs / "containerd.log"), lambda: ctr("version") == 0, within=_SECONDS
        )
        stack.callback(service.stop)
        service.start()
        for archive in sorted(_IMAGES.glob("*.tar")):
            assert ctr("images", "import", str(archive)) == 0, archive

    def _controllers(self) -> Service:
        flags = {
            "controllers": "*",
            "allocate-node-cidrs": "true",
            "cluster-cidr": PODS,
            "root-ca-file": self._credentials.authority,
            "service-account-private-key-file": self._credentials.signing_key,
        }
        return self._elected("kube-controller-manager", 10257, flags)

    def _scheduler(self) -> Service:
        return self._elected("kube-scheduler", 10259, {})

    def _elected(self, name: str, port: int, more: Mapping[str, Any]) -> Service:
        """A part of which each server has one, and one of which acts."""
        flags = {
            "kubeconfig": self._credentials.admin,
            "bind-address": "127.0.0.1",
            "secure-port": port,
            "leader-elect": "true",
            "cert-dir": self._files / name,
            **more,
        }
        return self._service(name, flags, lambda: accepts("127.0.0.1", port))

    def _kubelet(self) -> Service:
        resolver = self._written("resolv.conf", f"nameserver {DNS}\n")
        told = settings.kubelet(
            self._address,
            self._credentials.authority,
            self._credentials.serving,
            SOCKET,
            {
                "clusterDNS": [DNS],
                "resolvConf": str(resolver),
                "healthzBindAddress": "127.0.0.1",
                "healthzPort": _KUBELET_HEALTH,
                "volumePluginDir": str(_AGENT / "volume-plugins"),
            },
        )
        flags = {
            "config": self._written("kubelet.yaml", yaml.safe_dump(told)),
            "kubeconfig": self._credentials.kubelet,
            "hostname-override": self._name,
            "node-ip": self._address,
        }
        return self._service("kubelet", flags, lambda: http_ok(f"http://127.0.0.1:{_KUBELET_HEALTH}/healthz"))

    def _proxy(self) -> Service:
        told = settings.kube_proxy(self._name, self._address, self._credentials.admin, PODS, _PROXY_HEALTH)
        flags = {"config": self._written("kube-proxy.yaml", yaml.safe_dump(told))}
        return self._service("kube-proxy", flags, lambda: http_ok(f"http://{self._address}:{_PROXY_HEALTH}/healthz"))

    def _service(self, name: str, flags: Mapping[str, Any], ready: Callable[[], bool]) -> Service:
        command = (str(self._programs[name]), *settings.flags(flags))
        return Service(Program(name, command, self._logs / f"{name}.log"), ready, within=_SECONDS)

    def _written(self, name: str, text: str) -> Path:
        path = self._files / name
        path.write_text(text)
        return path


def ctr(*arguments: str) -> int:
    """Run containerd's own client with k3s's containerd; how it ended."""
    return subprocess.run(["ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments], check=False).returncode


def connect_pods(subnet: str) -> None:
    """Give the pods of this node their network, without which no node is ready."""
    file, text = _NETWORKS / "10-pods.conflist", json.dumps(settings.pod_network(subnet))
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
