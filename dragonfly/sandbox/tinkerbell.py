"""Tinkerbell's own binary: tink-server, tink-controller and Rufio, without the parts that need a network of machines.

It installs its CRDs at its start. Like in a cluster it has a ServiceAccount of its own; the rights are those of
`manifests/tinkerbell-rbac.yaml`.
"""

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.probes import accepts, http_ok
from dragonfly.sandbox.process import Program, Service

_READY_SECONDS: Final = 120
_LISTS: Final = (
    *(f"/apis/tinkerbell.org/v1alpha1/{plural}" for plural in ("hardware", "templates", "workflows")),
    *(f"/apis/bmc.tinkerbell.org/v1alpha1/{plural}" for plural in ("machines", "jobs", "tasks")),
)


class Tinkerbell:
    """One process with tink-server, tink-controller and Rufio."""

    def __init__(self, binary: Path, directory: Path, kubeconfig: Path, admin: KubeApi, ports: PortLease) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._admin = admin
        self._grpc_port = ports.take()
        self._http_port = ports.take()
        self.tink_server = f"{LOOPBACK}:{self._grpc_port}"
        arguments = self._arguments(kubeconfig)
        program = Program("tinkerbell", (str(binary), *arguments), directory / "tinkerbell.log")
        self.service = Service(program, self._is_ready, within=_READY_SECONDS)

    def _is_ready(self) -> bool:
        serves = accepts(LOOPBACK, self._grpc_port) and http_ok(f"http://{LOOPBACK}:{self._http_port}/readyz")
        return serves and all(self._is_listed(path) for path in _LISTS)

    def _is_listed(self, path: str) -> bool:
        """The API server answers 429 (storage is initializing) for a moment after it accepted a CRD."""
        try:
            return self._admin.request("GET", f"{path}?limit=1").status == http.client.OK
        except OSError:
            return False

    def _arguments(self, kubeconfig: Path) -> Iterator[str]:
        flags = {
            "backend": "kube",
            "backend-kube-config": kubeconfig,
            # Its default of 100 requests/s bounds a burst of Workflows; the API server has its own fairness.
            "backend-kube-qps": -1,
            "backend-kube-burst": -1,
            "bind-address": LOOPBACK,
            "public-ipv4": LOOPBACK,
            "http-port": self._http_port,
            "tink-server-bind-port": self._grpc_port,
            "enable-tink-server": "true",
            "enable-tink-controller": "true",
            "enable-rufio-controller": "true",
            # DHCP, TFTP, metadata and SSH: they want privileged ports and real machines.
            "enable-smee": "false",
            "enable-tootles": "false",
            "enable-secondstar": "false",
            "enable-ui": "false",
            # A worker sleeps for seconds while a boot job runs; with the default of 1 all others wait.
            "tink-controller-max-concurrent-reconciles": 50,
            "rufio-max-concurrent-reconciles": 10,
            "rufio-power-check-interval": "30s",
            "log-level": 0,
        }
        return (f"--{flag}={value}" for flag, value in flags.items())
