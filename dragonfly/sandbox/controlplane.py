"""A control plane on loopback: etcd, kube-apiserver and Tinkerbell, the real ones, with certificates and RBAC.

    with ControlPlane() as plane:
        subprocess.run(["kubectl", "--kubeconfig", plane.kubeconfig, "get", "workflows"])

Synchronous: it is used by pytest fixtures, by the demo and by benchmarks, all of which have their own loops or none.
"""

import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.apiserver import ApiServer
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.process import Service
from dragonfly.sandbox.progress import SILENT, Progress
from dragonfly.sandbox.shipped import shipped
from dragonfly.sandbox.tinkerbell import Tinkerbell

NAMESPACE: Final = "tinkerbell"
TOKEN_HOURS: Final = 720


class Running(NamedTuple):
    """A process of the sandbox."""

    name: str
    pid: int


class ControlPlane:
    """Everything that Dragonfly needs around it. The directory is removed at the end unless the caller named one."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        etcd_members: int = 1,
        address: str = LOOPBACK,
        with_tinkerbell: bool = True,
        binaries: Mapping[str, Path] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Nothing starts before `start`.

        Args:
            directory: where all files go; an empty or absent one. A temporary one if None.
            address: of this computer, where kube-apiserver listens.
            with_tinkerbell: without it there are no CRDs either.
            binaries: where the programs are; found by `toolchain.binary` if None.
            progress: shows what is being started.
        """
        self._is_temporary = directory is None
        self._named = directory
        self._etcd_members = etcd_members
        self._address = address
        self._with_tinkerbell = with_tinkerbell
        self._binaries = binaries
        self._progress = progress
        self._cleanup = ExitStack()

    def start(self) -> None:
        """Start all parts, each when the one that it needs is ready.

        Raises:
            ProcessFailed: a part did not become ready; what was started is stopped again.
            ToolMissing: a program is not there and can't be had.
        """
        with ExitStack() as stack:
            self._start(stack)
            self._cleanup = stack.pop_all()

    def stop(self) -> None:
        """Stop all parts in reverse order, the later ones even if an earlier fails to; remove a temporary directory."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def services(self) -> tuple[Service, ...]:
        """All processes, in the order of their start: to pause, kill and start again."""
        members = tuple(member.service for member in self.etcd.members)
        last = (self.tinkerbell.service,) if self._with_tinkerbell else ()
        return (*members, self.apiserver.service, *last)

    @property
    def processes(self) -> tuple[Running, ...]:
        return tuple(Running(service.name, service.pid) for service in self.services)

    @property
    def etcd_endpoints(self) -> tuple[str, ...]:
        return self.etcd.endpoints

    @property
    def etcd_ca(self) -> Path:
        return self.etcd.access.ca

    @property
    def etcd_cert(self) -> Path:
        return self.etcd.access.client.certificate

    @property
    def etcd_key(self) -> Path:
        return self.etcd.access.client.key

    @property
    def admin_kubeconfig(self) -> Path:
        return self.apiserver.admin_kubeconfig

    @property
    def audit_log(self) -> Path:
        return self.apiserver.audit_log

    @property
    def tink_server(self) -> str:
        """Where agents connect, `host:port`."""
        return self.tinkerbell.tink_server

    def _start(self, stack: ExitStack) -> None:
        self.directory = self._make_directory(stack)
        ports = stack.enter_context(PortLease())
        self._start_etcd(stack, ports)
        self._start_apiserver(stack, ports)
        self.kubeconfig = self.apiserver.kubeconfig(
            self.directory / "dragonfly.kubeconfig", NAMESPACE, "dragonfly", token_hours=TOKEN_HOURS
        )
        if self._with_tinkerbell:
            self._start_tinkerbell(stack, ports)

    def _start_etcd(self, stack: ExitStack, ports: PortLease) -> None:
        directory = self.directory / "etcd"
        authority = Authority(directory, "etcd-ca", dt.datetime.now(dt.UTC))
        self.etcd = Etcd(self._binary("etcd"), directory, authority, ports, hosts=[Host()] * self._etcd_members)
        stack.callback(self.etcd.stop)
        with self._progress.step("Starting etcd"):
            self.etcd.start()

    def _start_apiserver(self, stack: ExitStack, ports: PortLease) -> None:
        directory = self.directory / "kubernetes"
        authority = Authority(directory, "kubernetes-ca", dt.datetime.now(dt.UTC))
        self.apiserver = ApiServer(
            self._binary("kube-apiserver"),
            directory,
            authority,
            self.etcd,
            ports,
            host=Host(self._address, self._address),
        )
        stack.callback(self.apiserver.service.stop)
        with self._progress.step("Starting kube-apiserver"):
            self.apiserver.service.start()
        for document in _documents():
            self.apiserver.admin.apply(document)

    def _start_tinkerbell(self, stack: ExitStack, ports: PortLease) -> None:
        directory = self.directory / "tinkerbell"
        directory.mkdir()
        kubeconfig = self.apiserver.kubeconfig(
            directory / "tinkerbell.kubeconfig", NAMESPACE, "tinkerbell", token_hours=TOKEN_HOURS
        )
        self.tinkerbell = Tinkerbell(self._binary("tinkerbell"), directory, kubeconfig, self.apiserver.admin, ports)
        stack.callback(self.tinkerbell.service.stop)
        with self._progress.step("Starting Tinkerbell"):
            self.tinkerbell.service.start()

    def _make_directory(self, stack: ExitStack) -> Path:
        if self._named is not None:
            self._named.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._named
        directory = Path(tempfile.mkdtemp(prefix="dragonfly-sandbox-"))
        stack.callback(shutil.rmtree, directory)
        return directory

    def _binary(self, name: str) -> Path:
        return toolchain.binary(name) if self._binaries is None else self._binaries[name]


def _documents() -> Iterator[dict[str, Any]]:
    """Everything that stands in the cluster before Dragonfly and Tinkerbell come."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    manifests = resources.files("dragonfly.sandbox") / "manifests"
    for path in (shipped("rbac.yaml"), shipped("rbac-fence.yaml"), manifests / "tinkerbell-rbac.yaml"):
        yield from yaml.safe_load_all(path.read_text())
