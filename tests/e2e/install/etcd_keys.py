"""What is in an etcd below the swarm's prefix, read and written from a host with a certificate that lets in."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.e2e.install.bare_host import BareHost

_PREFIX: Final = "/dragonfly/"
_TLS: Final = "/var/lib/rancher/k3s/server/tls/etcd"


class EtcdKeys(NamedTuple):
    """A member that a host reaches."""

    host: BareHost
    url: str
    flags: tuple[str, ...]
    """What curl is told of certificates."""

    def put(self, key: str, value: str) -> None:
        self._post("kv/put", {"key": _base64(_PREFIX + key), "value": _base64(value)})

    def amount(self) -> int | None:
        """How many keys the swarm has there; None while it does not answer."""
        end = _PREFIX[:-1] + chr(ord(_PREFIX[-1]) + 1)
        body = {"key": _base64(_PREFIX), "range_end": _base64(end), "count_only": True}
        found = self._post("kv/range", body)
        return int(found.get("count", 0)) if found else None

    def members(self) -> set[str]:
        """The names of all members; none while it does not answer."""
        return {member.get("name", "") for member in self._post("cluster/member/list", {}).get("members", ())}

    def _post(self, path: str, body: Any) -> Any:
        done = self.host.run("curl", "-sf", "-m", "20", *self.flags, "-d", json.dumps(body), f"{self.url}/v3/{path}")
        return json.loads(done.out or "{}")


def control_planes(host: BareHost) -> EtcdKeys:
    """The etcd of k3s, as k3s itself gets in."""
    certificates = ("--cacert", f"{_TLS}/server-ca.crt", "--cert", f"{_TLS}/client.crt", "--key", f"{_TLS}/client.key")
    return EtcdKeys(host, "https://127.0.0.1:2382", certificates)


def replicas(host: BareHost, directory: Path) -> EtcdKeys:
    """The etcd that the replicas are told of, by the member on this host, entered with their certificate."""
    flags: list[str] = []
    for flag, key in (("--cacert", "ca"), ("--cert", "cert"), ("--key", "key")):
        (directory / key).write_text(host.secret("dragonfly-etcd", key))
        flags += (flag, str(directory / key))
    (here,) = (url for url in host.secret("dragonfly-etcd", "endpoints").split(",") if f"//{host.address}:" in url)
    return EtcdKeys(host, here, tuple(flags))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
