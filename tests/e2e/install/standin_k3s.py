"""A stand-in for the k3s executable, for tests alone: the real parts, with k3s's files, ports and flags.

They are separate programs here, with Debian's containerd; k3s's own controllers are played (`standin_controllers`).

    python -m tests.e2e.install.standin_k3s server     as systemd would run it; NOTIFY_SOCKET is told when it is ready
    python -m tests.e2e.install.standin_k3s ctr ...    containerd's own client
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import ssl
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.pki import KeyPair, service_account_key, write_private
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from tests.e2e.install.issuer import Issuer
from tests.e2e.install.standin_charts import DEFINITION, DEFINITIONS, KUBECONFIG
from tests.e2e.install.standin_controllers import Controllers
from tests.e2e.install.standin_node import Credentials, NodeParts, ctr
from tests.e2e.install.supervisor import Supervisor, bootstrap, joined
from tests.node import settings

CONFIG: Final = Path("/etc/rancher/k3s/config.yaml")
API: Final = "10.43.0.1"
"""The API server, as pods know it."""
SERVER: Final = Path("/var/lib/rancher/k3s/server")
FLAGS: Final = {
    "cluster-init",
    "server",
    "token-file",
    "node-ip",
    "tls-san",
    "disable",
    "secrets-encryption",
    "write-kubeconfig-mode",
    "etcd-arg",
}
"""Those that the installer may use; k3s ends with an error at one that it does not know."""


class Server:
    """One k3s server."""

    def __init__(self, config: dict[str, Any], logs: Path) -> None:
        self.config = config
        self.logs = logs
        self.name = socket.gethostname().lower()
        self.address: str = config["node-ip"]
        self.tls = SERVER / "tls"
        self.is_first = bool(config.get("cluster-init"))

    def run(self, stack: ExitStack) -> None:
        self._token()
        self._authorities()
        initial = f"{self.name}=https://{self.address}:2380"
        if not self.is_first and not (SERVER / "db" / "etcd" / "member").exists():
            initial = joined(self.config["server"], self.token, self.name, f"https://{self.address}:2380")
        self._start_etcd(stack, initial)
        self._start_api(stack)
        supervisor = Supervisor(self.token, self.server_pair, self.tls, self.etcd_tls)
        stack.callback(supervisor.close)
        NodeParts(self.name, self.address, self._credentials(), self.logs).start(stack)
        self.api.request("POST", DEFINITIONS, DEFINITION)
        controllers = Controllers(self.api, self.name, self.address, self.etcd_tls)
        stack.callback(controllers.close)

    def _token(self) -> None:
        file = SERVER / "token"
        if "token-file" in self.config:
            self.token = Path(self.config["token-file"]).read_text().strip()
        elif file.exists():
            self.token = file.read_text().strip()
        else:
            self.token = secrets.token_hex(16)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, f"{self.token}\n".encode())

    def _authorities(self) -> None:
        if not self.is_first and not (self.tls / "etcd" / "server-ca.key").exists():
            for name, content in bootstrap(self.config["server"], self.token).items():
                (self.tls / name).parent.mkdir(parents=True, exist_ok=True)
                write_private(self.tls / name, base64.b64decode(content))
        etcd, peers, kube = (
            Issuer(self.tls / f"{name}.crt", self.tls / f"{name}.key")
            for name in ("etcd/server-ca", "etcd/peer-ca", "server-ca")
        )
        if not (self.tls / "service-account.key").exists():
            service_account_key(self.tls)
        own = (self.address, *self.config.get("tls-san", ()))
        self.etcd_server = etcd.issue(self._pair("etcd/server-client"), "etcd-server", addresses=own)
        self.etcd_client = etcd.issue(self._pair("etcd/client"), "etcd-client")
        self.etcd_peer = peers.issue(self._pair("etcd/peer-server-client"), "etcd-peer", addresses=own)
        self.server_pair = kube.issue(self._pair("serving-kube-apiserver"), "kube-apiserver", addresses=(*own, API))
        self.kubelet_server = kube.issue(self._pair("serving-kubelet"), self.name, addresses=(self.address,))
        self.kubelet = kube.issue(self._pair("client-kubelet"), f"system:node:{self.name}", group="system:nodes")
        self.kubelet_client = kube.issue(self._pair("client-kube-apiserver"), "kube-apiserver", group="system:masters")
        self.admin = kube.issue(self._pair("client-admin"), "system:admin", group="system:masters")
        self.etcd_tls = _context(etcd.certificate, self.etcd_client)

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self.tls / f"{name}.crt", self.tls / f"{name}.key")

    def _start_etcd(self, stack: ExitStack, initial: str) -> None:
        flags = {
            "name": self.name,
            "data-dir": SERVER / "db" / "etcd",
            "listen-client-urls": f"https://127.0.0.1:2379,https://{self.address}:2379",
            "advertise-client-urls": f"https://{self.address}:2379",
            "listen-peer-urls": f"https://{self.address}:2380",
            "initial-advertise-peer-urls": f"https://{self.address}:2380",
            # As k3s: gRPC has the client port for itself, and the gateway is off unless somebody says otherwise.
            "listen-client-http-urls": "https://127.0.0.1:2382",
            "enable-grpc-gateway": "false",
            "initial-cluster": initial,
            "initial-cluster-state": "new" if self.is_first else "existing",
            "client-cert-auth": "true",
            "trusted-ca-file": self.tls / "etcd" / "server-ca.crt",
            "cert-file": self.etcd_server.certificate,
            "key-file": self.etcd_server.key,
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": self.tls / "etcd" / "peer-ca.crt",
            "peer-cert-file": self.etcd_peer.certificate,
            "peer-key-file": self.etcd_peer.key,
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }
        flags |= dict(argument.split("=", 1) for argument in self.config.get("etcd-arg", ()))
        command = (str(toolchain.binary("etcd")), *settings.flags(flags))
        program = Program("etcd", command, self.logs / "etcd.log")
        service = Service(program, lambda: http_ok("https://127.0.0.1:2382/health", self.etcd_tls), within=60)
        stack.callback(service.stop)
        service.start()

    def _start_api(self, stack: ExitStack) -> None:
        command = (str(toolchain.binary("kube-apiserver")), *self._api_flags())
        program = Program("kube-apiserver", command, self.logs / "kube-apiserver.log")
        tls = _context(self.tls / "server-ca.crt", self.admin)
        service = Service(program, lambda: http_ok("https://127.0.0.1:6443/readyz", tls), within=120)
        stack.callback(service.stop)
        service.start()
        self.api = KubeApi("https://127.0.0.1:6443", tls)
        self._write_kubeconfig(KUBECONFIG, self.admin)

    def _credentials(self) -> Credentials:
        kubeconfig = SERVER / "cred" / "kubelet.kubeconfig"
        kubeconfig.parent.mkdir(exist_ok=True)
        self._write_kubeconfig(kubeconfig, self.kubelet)
        tls = self.tls
        return Credentials(
            tls / "server-ca.crt", self.kubelet_server, KUBECONFIG, kubeconfig, tls / "service-account.key"
        )

    def _api_flags(self) -> tuple[str, ...]:
        key = self.tls / "service-account.key"
        flags = {
            "etcd-servers": "https://127.0.0.1:2379",
            "etcd-cafile": self.tls / "etcd" / "server-ca.crt",
            "etcd-certfile": self.etcd_client.certificate,
            "etcd-keyfile": self.etcd_client.key,
            "advertise-address": self.address,
            "bind-address": "0.0.0.0",
            "secure-port": 6443,
            "tls-cert-file": self.server_pair.certificate,
            "tls-private-key-file": self.server_pair.key,
            "client-ca-file": self.tls / "server-ca.crt",
            "anonymous-auth": "false",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "kubelet-certificate-authority": self.tls / "server-ca.crt",
            "kubelet-client-certificate": self.kubelet_client.certificate,
            "kubelet-client-key": self.kubelet_client.key,
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-cluster-ip-range": "10.43.0.0/16",
            "endpoint-reconciler-type": "lease",
            "v": 1,
        }
        return settings.flags(flags)

    def _write_kubeconfig(self, path: Path, pair: KeyPair) -> None:
        def encoded(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        cluster = {
            "server": "https://127.0.0.1:6443",
            "certificate-authority-data": encoded(self.tls / "server-ca.crt"),
        }
        user = {
            "client-certificate-data": encoded(pair.certificate),
            "client-key-data": encoded(pair.key),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "default", "cluster": cluster}],
            "users": [{"name": "default", "user": user}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "current-context": "default",
        }
        write_private(path, json.dumps(document).encode())


def _context(authority: Path, client: KeyPair) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(client.certificate, client.key)
    return context


def _config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    if unknown := config.keys() - FLAGS:
        sys.exit(f"flag provided but not defined: {', '.join(sorted(unknown))}")
    return config


def _tell_systemd(path: str, state: str) -> None:
    # Whoever asked to start it may be gone.
    if path:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state.encode(), path)


def main() -> None:
    if sys.argv[1:2] == ["ctr"]:
        sys.exit(ctr(*sys.argv[2:]))
    if sys.argv[1:] != ["server"]:
        sys.exit(f"the stand-in knows no {sys.argv[1:]}")
    logs = Path(os.environ["STANDIN_LOGS"])
    logs.mkdir(parents=True, exist_ok=True)
    # Not the children's: etcd and kube-apiserver would tell systemd that they are ready, as if they were k3s.
    notify = os.environ.pop("NOTIFY_SOCKET", "")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with ExitStack() as stack:
        Server(_config(), logs).run(stack)
        _tell_systemd(notify, "READY=1")
        stopped.wait()


if __name__ == "__main__":
    main()
