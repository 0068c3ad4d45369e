"""Replicas of Dragonfly as processes: started together, each with its log, and started again when one dies."""

import base64
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import Final

import msgspec

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.keeper import Death, Keepers
from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service

COMMAND: Final[tuple[str, ...]] = (sys.executable, "-m", "dragonfly", "server")

_READY_SECONDS: Final = 120


class Replica(msgspec.Struct, frozen=True):
    """One replica: its id and address stay the same when it is started again, its process does not."""

    id: str
    url: str
    service: Service


class Swarm:
    """A number of replicas, called a, b, c and so on."""

    def __init__(
        self,
        directory: Path,
        ports: PortLease,
        environment: Mapping[str, str],
        *,
        replicas: int = 3,
        restart: bool = True,
        command: tuple[str, ...] | None = None,
        own: Mapping[str, Mapping[str, str]] | None = None,
        hosts: Mapping[str, Host] | None = None,
        on_death: Callable[[Death], None] = lambda _: None,
    ) -> None:
        """Nothing starts before `start`.

        Args:
            command: the server's, `COMMAND` if None.
            environment: what all replicas are told; each gets its own DRAGONFLY_LISTEN and DRAGONFLY_REPLICA.
            own: what single replicas are told besides, by id.
            hosts: where single replicas run, by id; the others on loopback.
            restart: start a replica again that died; `on_death` is told either way, in a thread of the swarm's own.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._environment = environment
        self._own = own or {}
        self._hosts = hosts or {}
        self._command = command or COMMAND
        self.replicas = tuple(self._replica(chr(ord("a") + number), ports.take()) for number in range(replicas))
        services = tuple(replica.service for replica in self.replicas)
        self._keepers = Keepers(services, restart=restart, on_death=on_death)

    def start(self) -> None:
        """Start all replicas and wait until each is ready.

        Raises:
            ProcessFailed: one was not; the others still run until `stop`.
        """
        for replica in self.replicas:
            replica.service.spawn()
        for replica in self.replicas:
            replica.service.wait_ready()
        self._keepers.start()

    def stop(self) -> None:
        """Stop all replicas at once, by SIGTERM first."""
        self._keepers.stop()
        with ExitStack() as stack:
            for replica in self.replicas:
                stack.callback(replica.service.stop)
                replica.service.terminate()

    def replica(self, replica_id: str) -> Replica:
        return next(replica for replica in self.replicas if replica.id == replica_id)

    def kill(self, replica_id: str, number: Signals) -> None:
        """Send a signal to a replica's process."""
        self.replica(replica_id).service.signal(number)

    def _replica(self, replica_id: str, port: int) -> Replica:
        host = self._hosts.get(replica_id, Host())
        url = f"http://{host.seen_at}:{port}"
        environment = {
            **self._environment,
            "DRAGONFLY_LISTEN": f"{host.seen_at}:{port}",
            "DRAGONFLY_REPLICA": replica_id,
            **self._own.get(replica_id, {}),
        }
        program = Program(
            f"replica-{replica_id}",
            (*host.enter, *self._command),
            self._directory / f"replica-{replica_id}.log",
            environment,
        )
        return Replica(replica_id, url, Service(program, lambda: http_ok(f"{url}/readyz"), within=_READY_SECONDS))


def replica_environment(plane: ControlPlane, directory: Path) -> dict[str, str]:
    """What replicas need to know of a control plane; makes the admin's token and the swarm's secret key there."""
    token = directory / "admin.token"
    write_private(token, f"df_{secrets.token_urlsafe(32)}\n".encode())
    key = directory / "secret.key"
    write_private(key, base64.b64encode(secrets.token_bytes(32)))
    return {
        "DRAGONFLY_ETCD_ENDPOINTS": ",".join(plane.etcd_endpoints),
        "DRAGONFLY_ETCD_CA_FILE": str(plane.etcd_ca),
        "DRAGONFLY_ETCD_CERT_FILE": str(plane.etcd_cert),
        "DRAGONFLY_ETCD_KEY_FILE": str(plane.etcd_key),
        "KUBECONFIG": str(plane.kubeconfig),
        "DRAGONFLY_NAMESPACE": NAMESPACE,
        "DRAGONFLY_ADMIN_TOKEN_FILE": str(token),
        "DRAGONFLY_SECRET_KEY_FILE": str(key),
        "DRAGONFLY_LOG_FORMAT": "json",
    }
