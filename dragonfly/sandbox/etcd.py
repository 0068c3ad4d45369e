"""etcd of one or more members, with TLS and client certificates, for the API server and for Dragonfly.

The API server speaks gRPC, Dragonfly the JSON gateway, both on the client port. The gateway is a gRPC client of its own
member: it presents the server's certificate, which therefore needs the usage `clientAuth` too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from dragonfly.sandbox.host import Host
from dragonfly.sandbox.pki import Authority, KeyPair
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service

_READY_SECONDS = 60


class Access(msgspec.Struct, frozen=True):
    """What a client needs: the authority's certificate and its own."""

    ca: Path
    client: KeyPair


class Member(msgspec.Struct, frozen=True):
    """One member: where it serves and keeps its data, and its process."""

    name: str
    client_url: str
    """Where other hosts reach it."""
    url: str
    """Where this process reaches it."""
    data: Path
    service: Service


class _Place(msgspec.Struct, frozen=True):
    host: Host
    client_port: int
    peer_url: str

    @property
    def client_urls(self) -> tuple[str, ...]:
        return tuple(f"https://{address}:{self.client_port}" for address in self.host.addresses)


class Etcd:
    """A cluster; data survives `stop` and `start` of a member, not of the directory."""

    def __init__(
        self,
        binary: Path,
        directory: Path,
        authority: Authority,
        ports: PortLease,
        *,
        hosts: Sequence[Host] = (Host(),),
        flags: Mapping[str, str] | None = None,
    ) -> None:
        """Make the certificates; nothing starts before `start`.

        Args:
            hosts: where the members run, one on each.
            flags: what all members are told besides.
        """
        self.access = Access(authority.ca, authority.client("etcd-client"))
        addresses = [address for host in hosts for address in host.addresses]
        self._pair = authority.server("etcd", addresses=addresses, also_client=True)
        self.tls = authority.context(self.access.client)
        self._flags = flags or {}
        places = {
            f"etcd-{number}": _Place(host, ports.take(), f"https://{host.address}:{ports.take()}")
            for number, host in enumerate(hosts)
        }
        self.members = tuple(self._member(binary, directory, name, places) for name in places)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.client_url for member in self.members)

    def start(self) -> None:
        """Start all members and wait until each serves.

        Raises:
            ProcessFailed: one did not.
        """
        for member in self.members:
            member.service.spawn()
        for member in self.members:
            member.service.wait_ready()

    def stop(self) -> None:
        with ExitStack() as stack:
            for member in self.members:
                stack.callback(member.service.stop)

    def _member(self, binary: Path, directory: Path, name: str, places: dict[str, _Place]) -> Member:
        place, data = places[name], directory / name
        client_url, url = place.client_urls[0], place.client_urls[-1]
        command = (*place.host.enter, str(binary), *self._arguments(name, data, places))
        program = Program(name, command, directory / f"{name}.log")
        service = Service(program, lambda: http_ok(f"{url}/health", self.tls), within=_READY_SECONDS)
        return Member(name, client_url, url, data, service)

    def _arguments(self, name: str, data: Path, places: dict[str, _Place]) -> Iterator[str]:
        place = places[name]
        client_urls = ",".join(place.client_urls)
        flags = {
            "name": name,
            "data-dir": data,
            "listen-client-urls": client_urls,
            "advertise-client-urls": client_urls,
            "listen-peer-urls": place.peer_url,
            "initial-advertise-peer-urls": place.peer_url,
            "initial-cluster": ",".join(f"{peer}={there.peer_url}" for peer, there in places.items()),
            "initial-cluster-token": "dragonfly-sandbox",
            "client-cert-auth": "true",
            "trusted-ca-file": self.access.ca,
            "cert-file": self._pair.certificate,
            "key-file": self._pair.key,
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": self.access.ca,
            "peer-cert-file": self._pair.certificate,
            "peer-key-file": self._pair.key,
            # A sandbox need not survive a power cut. Without this, each write waits for the disk, and a slow laptop or
            # a busy CI machine spends more time in fsync than in all else. kill -9 loses nothing: the page cache stays.
            "unsafe-no-fsync": "true",
            # An idle watch is proved by etcd's own marks; at the default of 10 minutes replicas would have to write.
            "watch-progress-notify-interval": "2s",
            "log-level": "warn",
            **self._flags,
        }
        return (f"--{flag}={value}" for flag, value in flags.items())
