"""kube-apiserver as a cluster would run it: TLS, RBAC, bound ServiceAccount tokens, and an audit log.

Only the admin has a client certificate; everybody else comes with a ServiceAccount's token. The audit log has the
request and response bodies of every write to Tinkerbell's groups, so that a test can ask the API server itself what
Dragonfly did; of everything else, Secrets above all, it has the metadata only.
"""

import base64
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import yaml

from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.pki import Authority, KeyPair, service_account_key, write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service

_READY_SECONDS = 120
_SERVICES: Final = IPv4Network("10.96.0.0/16")
_WRITES: Final = ["create", "update", "patch", "delete", "deletecollection"]

AUDIT_POLICY: Final[dict[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse",
            "verbs": _WRITES,
            "resources": [{"group": "tinkerbell.org"}, {"group": "bmc.tinkerbell.org"}],
        },
        {"level": "Metadata"},
    ],
}


class ApiServer:
    """One kube-apiserver, its admin, and kubeconfig files for others."""

    def __init__(
        self,
        binary: Path,
        directory: Path,
        authority: Authority,
        etcd: Etcd,
        ports: PortLease,
        *,
        host: Host | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing starts before `service.start`.

        Args:
            host: where it runs and listens; loopback unless said.
            flags: what it is told besides.
        """
        directory.mkdir(parents=True, exist_ok=True)
        port = ports.take()
        host = host or Host()
        self._address = host.address
        self._flags = flags or {}
        self.url = f"https://{host.address}:{port}"
        self.audit_log = directory / "audit.log"
        self.admin_kubeconfig = directory / "admin.kubeconfig"
        self._authority = authority
        self._directory = directory
        admin = authority.client("admin", ["system:masters"])
        self._tls = authority.context(admin)
        self.admin = KubeApi(self.url, self._tls)
        self.kubeconfig_of(self.admin_kubeconfig, admin)
        program = Program(
            "kube-apiserver",
            (*host.enter, str(binary), *self._arguments(port, etcd)),
            directory / "kube-apiserver.log",
        )
        self.service = Service(program, lambda: http_ok(f"{self.url}/readyz", self._tls), within=_READY_SECONDS)

    def kubeconfig(self, path: Path, namespace: str, service_account: str, *, token_hours: int) -> Path:
        """Write a kubeconfig with a fresh token of a ServiceAccount.

        Raises:
            Refused: the API server did not issue the token.
        """
        token = self.admin.token(namespace, service_account, hours=token_hours)
        self._write_kubeconfig(path, service_account, {"token": token}, namespace)
        return path

    def kubeconfig_of(self, path: Path, client: KeyPair) -> Path:
        """Write a kubeconfig with a client's certificate."""
        pair = {"client-certificate-data": _base64(client.certificate), "client-key-data": _base64(client.key)}
        self._write_kubeconfig(path, client.certificate.stem, pair, "default")
        return path

    def as_bearer(self, token: str) -> KubeApi:
        """The API as somebody else sees it."""
        return KubeApi(self.url, self._authority.context(), token)

    def _write_kubeconfig(self, path: Path, user: str, credentials: dict[str, str], namespace: str) -> None:
        cluster = {"server": self.url, "certificate-authority-data": _base64(self._authority.ca)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user, "namespace": namespace}}],
            "current-context": "sandbox",
        }
        write_private(path, yaml.safe_dump(document, sort_keys=False).encode())

    def _arguments(self, port: int, etcd: Etcd) -> Iterator[str]:
        policy = self._directory / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(AUDIT_POLICY, sort_keys=False))
        # The first address of Services is its own, and what pods know it by.
        pair = self._authority.server("kube-apiserver", addresses=[self._address, str(_SERVICES[1])])
        self.certificate = pair.certificate
        self.signing_key = service_account_key(self._directory)
        flags = {
            "etcd-servers": ",".join(etcd.endpoints),
            "etcd-cafile": etcd.access.ca,
            "etcd-certfile": etcd.access.client.certificate,
            "etcd-keyfile": etcd.access.client.key,
            "bind-address": self._address,
            "advertise-address": self._address,
            "secure-port": port,
            "tls-cert-file": self.certificate,
            "tls-private-key-file": pair.key,
            "client-ca-file": self._authority.ca,
            "anonymous-auth": "false",
            "authorization-mode": "RBAC",
            "service-account-issuer": self.url,
            "service-account-key-file": self.signing_key,
            "service-account-signing-key-file": self.signing_key,
            "service-cluster-ip-range": _SERVICES,
            # There is no kubelet; the default is to keep an Endpoints object of this address up to date for pods.
            "endpoint-reconciler-type": "none",
            "audit-policy-file": policy,
            "audit-log-path": self.audit_log,
            # The default, 0, means 100 MB; then the file is renamed, and whoever reads it loses the beginning.
            "audit-log-maxsize": 100_000,
            "v": 1,
            **self._flags,
        }
        return (f"--{flag}={value}" for flag, value in flags.items())


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
