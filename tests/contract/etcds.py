"""Real etcd on loopback, as the contract tests need it: plain or TLS, one member or more, flags of the test's own.

Of two generations: the current one, and the one that Debian ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.pki import KeyPair
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.store.settings import EtcdSettings
from tests.contract import debian

CURRENT: Final = "current"
DEBIAN: Final = "debian"


class Build(NamedTuple):
    """A program, and what it wants to be told in words of its own."""

    binary: Path
    marks_flag: str
    """How often it marks a quiet watch: experimental until etcd 3.6."""
    flags: Mapping[str, str]


def build(generation: str) -> Build:
    """Find it.

    Raises:
        ToolMissing: it can't be had.
    """
    if generation == CURRENT:
        return Build(toolchain.binary("etcd"), "watch-progress-notify-interval", {})
    # Before 3.5 a member writes a log of another kind, with levels of other names, unless it is told so.
    return Build(debian.etcd(), "experimental-watch-progress-notify-interval", {"logger": "zap"})


class Etcds:
    """A cluster; data survives a member's stop and start."""

    def __init__(
        self,
        directory: Path,
        ports: PortLease,
        build: Build,
        *,
        members: int = 1,
        flags: dict[str, str] | None = None,
        scheme: str = "http",
    ) -> None:
        self._directory = directory
        self._build = build
        self._flags = flags or {}
        self.ports = [ports.take() for _ in range(members)]
        self.urls = tuple(f"{scheme}://{LOOPBACK}:{port}" for port in self.ports)
        self._metrics = [f"http://{LOOPBACK}:{ports.take()}" for _ in range(members)]
        peers = {f"m{number}": f"http://{LOOPBACK}:{ports.take()}" for number in range(members)}
        self.members = tuple(self._service(number, peers) for number in range(members))

    def start(self) -> None:
        for member in self.members:
            member.spawn()
        for member in self.members:
            member.wait_ready()

    def stop(self) -> None:
        with ExitStack() as stack:
            for member in self.members:
                stack.callback(member.kill)

    def data(self, number: int) -> Path:
        """Where a member keeps everything."""
        return self._directory / f"m{number}"

    def settings(self, prefix: str = "/dragonfly/", **more: Any) -> EtcdSettings:
        return EtcdSettings(**{"endpoints": self.urls, "prefix": prefix, **more})

    def _service(self, number: int, peers: dict[str, str]) -> Service:
        name = f"m{number}"
        flags = {
            "name": name,
            "data-dir": str(self._directory / name),
            "listen-client-urls": self.urls[number],
            "advertise-client-urls": self.urls[number],
            "listen-peer-urls": peers[name],
            "initial-advertise-peer-urls": peers[name],
            "initial-cluster": ",".join(f"{peer}={url}" for peer, url in peers.items()),
            "listen-metrics-urls": self._metrics[number],
            "unsafe-no-fsync": "true",
            "log-level": "warn",
            **self._build.flags,
            **self._flags,
        }
        command = (str(self._build.binary), *(f"--{flag}={value}" for flag, value in flags.items()))
        program = Program(name, command, self._directory / f"{name}.log")
        return Service(program, lambda: http_ok(f"{self._metrics[number]}/health"), within=60)


def tls_flags(ca: Path, server: KeyPair) -> dict[str, str]:
    return {
        "client-cert-auth": "true",
        "trusted-ca-file": str(ca),
        "cert-file": str(server.certificate),
        "key-file": str(server.key),
    }
