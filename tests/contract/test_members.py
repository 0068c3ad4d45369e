"""A real etcd gets one more member, which has no vote before it has caught up, and one fewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.store.errors import Rejected, StoreError
from dragonfly.store.members import EtcdMembers
from tests.contract.etcds import CURRENT, Build, Etcds, build
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = pytest.mark.etcd


@pytest.fixture
def first(tmp_path: Path, ports: PortLease) -> Iterator[Etcds]:
    etcds = Etcds(tmp_path, ports, build(CURRENT))
    etcds.start()
    try:
        yield etcds
    finally:
        etcds.stop()


class Second:
    """A member that is started once it was added."""

    def __init__(self, directory: Path, ports: PortLease, program: Build) -> None:
        self.client, self.peer, self._metrics = (f"http://{LOOPBACK}:{ports.take()}" for _ in range(3))
        self._directory = directory
        self._build = program

    def service(self, others: str) -> Service:
        flags = {
            "name": "second",
            "data-dir": str(self._directory / "second"),
            "listen-client-urls": self.client,
            "advertise-client-urls": self.client,
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": f"{others},second={self.peer}",
            "initial-cluster-state": "existing",
            "listen-metrics-urls": self._metrics,
            "unsafe-no-fsync": "true",
            **self._build.flags,
        }
        command = (str(self._build.binary), *(f"--{flag}={value}" for flag, value in flags.items()))
        program = Program("second", command, self._directory / "second.log")
        return Service(program, lambda: http_ok(f"{self._metrics}/livez"), within=30)


def test_a_member_is_added_promoted_and_taken_out(first: Etcds, tmp_path: Path, ports: PortLease) -> None:
    second = Second(tmp_path, ports, build(CURRENT))
    with closing(EtcdMembers.open(first.settings())) as etcd:
        (founder,) = etcd.members()
        assert (founder.name, founder.clients, founder.is_learner) == ("m0", first.urls, False)
        assert etcd.answering() == {founder.id}

        etcd.add_learner(second.peer)

        (added,) = (one for one in etcd.members() if one.id != founder.id)
        assert (added.name, added.peers, added.is_started, added.is_learner) == ("", (second.peer,), False, True)
        with pytest.raises(Rejected, match="too many learner members"):
            etcd.add_learner(f"http://{LOOPBACK}:{ports.take()}")
        with pytest.raises(StoreError):
            etcd.promote(added.id)
        service = second.service(f"m0={founder.peers[0]}")
        try:
            service.start()
            eventually("it has its vote", lambda: is_promoted(etcd, added.id), within=60)
            assert {one.name for one in etcd.members()} == {"m0", "second"}
            with closing(EtcdMembers.open(first.settings(endpoints=(*first.urls, second.client)))) as both:
                eventually_equal(both.answering, {founder.id, added.id}, within=30)
            eventually("it is taken out", lambda: is_removed(etcd, added.id), within=60)
        finally:
            service.kill()
        assert etcd.members() == (founder,)
        with pytest.raises(Rejected):
            etcd.remove(added.id)


def is_promoted(etcd: EtcdMembers, member: int) -> bool:
    try:
        etcd.promote(member)
    except StoreError:
        return any(one.id == member and not one.is_learner for one in etcd.members())
    return True


def is_removed(etcd: EtcdMembers, member: int) -> bool:
    """It is refused while the two have not been connected for long enough."""
    try:
        etcd.remove(member)
    except StoreError:
        return all(one.id != member for one in etcd.members())
    return True
