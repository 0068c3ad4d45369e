"""etcd of three members, each on a node of a network of the test's own, and what an operator does to it.

It is Dragonfly's alone: Kubernetes has another one, which nobody disturbs.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.etcd import Etcd, Member
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import PortLease
from tests.chaos.netns import Network
from tests.e2e.waiting import eventually

QUOTA: Final = 48 << 20
"""Bytes; many times what the tests write, and filled in a second or two."""
_CHUNK: Final = 1 << 20
_FILLER: Final = "/filler/"


class Members:
    """The members; number n is on node n."""

    def __init__(self, directory: Path, network: Network, ports: PortLease) -> None:
        """Nothing starts before `running`."""
        authority = Authority(directory, "swarm-etcd-ca", dt.datetime.now(dt.UTC))
        hosts = [node.host for node in network.nodes]
        flags = {"quota-backend-bytes": str(QUOTA)}
        self.etcd = Etcd(toolchain.binary("etcd"), directory, authority, ports, hosts=hosts, flags=flags)
        self._tls = authority.context(self.etcd.access.client)

    @contextmanager
    def running(self) -> Iterator[Members]:
        try:
            self.etcd.start()
            yield self
        finally:
            self.etcd.stop()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where this process reaches them."""
        return tuple(member.url for member in self.etcd.members)

    def leader(self) -> int:
        """The number of the member that leads, once there is one."""
        return eventually("etcd has a leader", self._leader, within=60) - 1

    def kill(self, *numbers: int) -> None:
        for number in numbers:
            self.etcd.members[number].service.kill()

    def mend(self) -> None:
        """Start what does not run and make room if there is none, until all members serve again."""
        for member in self.etcd.members:
            member.service.spawn()
        leader = self.leader()
        if self._alarms(leader):
            self._make_room(leader)
        for member in self.etcd.members:
            member.service.wait_ready()

    def compact(self, number: int) -> int:
        """Forget all of the past; the revision that is the first from now on."""
        revision = self.revision(number)
        self.ask(number, "kv/compaction", {"revision": revision, "physical": True})
        return revision

    def revision(self, number: int) -> int:
        """The newest, as the whole cluster has it."""
        return int(self._ask_patiently(number, "kv/range", {"key": _encoded("/")})["header"]["revision"])

    def fill(self) -> None:
        """Write until the quota is used up, which raises the alarm."""
        leader = self.leader()
        for number in range(2 * QUOTA // _CHUNK):
            if not self._is_taken(leader, f"{_FILLER}{number}"):
                return
        raise AssertionError("the quota was not used up")

    def ask(self, number: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call of etcd's gateway.

        Raises:
            OSError: there is no answer, or it is an error.
        """
        status, answer = self._post(self.etcd.members[number], path, body)
        if status != http.client.OK:
            raise OSError(f"{path}: {status} {answer}")
        return answer

    def _make_room(self, leader: int) -> None:
        """What etcd's documentation tells an operator to do: compact, defragment each member, disarm."""
        self._ask_patiently(leader, "kv/deleterange", {"key": _encoded(_FILLER), "range_end": _encoded("/filler0")})
        self.compact(leader)
        for number in range(len(self.etcd.members)):
            self._ask_patiently(number, "maintenance/defragment", {})
        # Each member raises its own.
        for alarm in self._alarms(leader):
            self._ask_patiently(leader, "maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    def _alarms(self, leader: int) -> list[dict[str, str]]:
        """Of each member that raised one."""
        found = self._ask_patiently(leader, "maintenance/alarm", {"action": "GET"})
        alarms: list[dict[str, str]] = found.get("alarms", [])
        return alarms

    def _ask_patiently(self, number: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """As `ask`, of what may be done twice: again while a leader is missing, or too busy to answer in time."""

        def answers() -> list[dict[str, Any]]:
            try:
                return [self.ask(number, path, body)]
            except OSError:
                return []

        return eventually(f"{path} is answered", answers, within=60)[0]

    def _is_taken(self, number: int, key: str) -> bool:
        """Whether there was room for another chunk; it is sent again while a leader is missing, or too busy."""

        def put() -> str:
            try:
                self.ask(number, "kv/put", {"key": _encoded(key), "value": _encoded("x" * _CHUNK)})
            except OSError as error:
                return "full" if "database space exceeded" in str(error) else ""
            return "taken"

        return eventually(f"{key} is taken or refused for want of room", put, within=60) == "taken"

    def _leader(self) -> int:
        """The number of the leader, from one; 0 while there is none."""
        for number, member in enumerate(self.etcd.members, 1):
            try:
                _, answer = self._post(member, "maintenance/status", {})
            except OSError:
                continue
            if answer.get("leader", "") == answer.get("header", {}).get("member_id"):
                return number
        return 0

    def _post(self, member: Member, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPSConnection(urlsplit(member.url).netloc, timeout=10, context=self._tls)
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(body).encode())
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except http.client.HTTPException as error:
            raise OSError(f"{member.name}: {error}") from error
        finally:
            connection.close()


class SplitPlane(ControlPlane):
    """Kubernetes and Tinkerbell; what is said of etcd is said of the swarm's own."""

    def __init__(self, members: Members, *, address: str) -> None:
        super().__init__(address=address)
        self._members = members

    @property
    def etcd_endpoints(self) -> tuple[str, ...]:
        return self._members.urls

    @property
    def etcd_ca(self) -> Path:
        return self._members.etcd.access.ca

    @property
    def etcd_cert(self) -> Path:
        return self._members.etcd.access.client.certificate

    @property
    def etcd_key(self) -> Path:
        return self._members.etcd.access.client.key


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
