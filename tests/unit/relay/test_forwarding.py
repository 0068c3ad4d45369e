"""What a relay does with an etcd that answers oddly; the server is the test's own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dragonfly.store.errors import OtherEtcd
from dragonfly.store.faults import Fault
from dragonfly.store.forwarding import Errand, Forwarder
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import EtcdSettings
from tests.unit.store.stub import Answer, Stub

TXN = Errand("kv/txn", {}, write=True, linearizable=True)
RANGE = Errand("kv/range", {}, linearizable=True)
KEEPALIVE = Errand("lease/keepalive", {"ID": 1})


def header(revision: int = 5, cluster: str = "7") -> dict[str, Any]:
    return {"header": {"cluster_id": cluster, "revision": str(revision), "raft_term": "2"}}


@pytest.fixture
def stub() -> Iterator[Callable[[Answer], Stub]]:
    opened: list[Stub] = []

    def open_(answer: Answer) -> Stub:
        opened.append(Stub(answer))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.fixture
def forwarder_to() -> Iterator[Callable[..., Forwarder]]:
    opened: list[Forwarder] = []

    def open_(*stubs: Stub) -> Forwarder:
        settings = EtcdSettings(endpoints=tuple(stub.url for stub in stubs))
        opened.append(Forwarder(Gateway.open(settings).shared, timeout=2.0, attempt_timeout=2.0))
        return opened[-1]

    yield open_
    for forwarder in opened:
        forwarder.close()


Stubs = Callable[[Answer], Stub]
Forwarders = Callable[..., Forwarder]


@pytest.mark.parametrize("errand", [TXN, RANGE, KEEPALIVE])
def test_etcds_own_errors_are_answers_to_the_byte(errand: Errand, stub: Stubs, forwarder_to: Forwarders) -> None:
    told = '{"error":"x","code":11,"message":"etcdserver: mvcc: required revision has been compacted"}'
    etcd, other = stub(lambda *_: (400, told)), stub(lambda *_: (200, header()))

    reply = forwarder_to(etcd, other).forward(errand)

    assert (reply.status_code, reply.content) == (400, told.encode())
    assert not other.asked


@pytest.mark.parametrize("errand", [TXN, RANGE, KEEPALIVE])
def test_a_member_without_a_leader_is_left_for_another(errand: Errand, stub: Stubs, forwarder_to: Forwarders) -> None:
    """It did nothing, so that a write may be sent again."""
    lone = stub(lambda *_: (503, {"code": 14, "message": "etcdserver: no leader"}))
    other = stub(lambda *_: (200, header()))

    assert forwarder_to(lone, other).forward(errand).status_code == 200
    assert lone.asked[0][1]["Grpc-Metadata-hasleader"] == "true"


def test_a_write_whose_answer_was_lost_is_not_sent_again(stub: Stubs, forwarder_to: Forwarders) -> None:
    lost, other = stub(lambda *_: iter(())), stub(lambda *_: (200, header()))

    with pytest.raises(Fault) as caught:
        forwarder_to(lost, other).forward(TXN)

    assert not caught.value.unsent
    assert not other.asked


def test_a_member_behind_what_was_seen_is_not_passed_on(stub: Stubs, forwarder_to: Forwarders) -> None:
    member = stub(lambda *_: (200, header(revision=9)))
    forwarder = forwarder_to(member)
    forwarder.forward(RANGE)

    member.answer = lambda *_: (200, header(revision=8))

    with pytest.raises(Fault, match="revision 9 was seen already"):
        forwarder.forward(RANGE)


@pytest.mark.parametrize("errand", [TXN, RANGE, KEEPALIVE])
def test_another_etcd_is_not_passed_on(errand: Errand, stub: Stubs, forwarder_to: Forwarders) -> None:
    member = stub(lambda *_: (200, header()))
    forwarder = forwarder_to(member)
    forwarder.forward(RANGE)

    other = header(cluster="8")
    member.answer = lambda *_: (200, {"result": other} if errand is KEEPALIVE else other)

    with pytest.raises(OtherEtcd):
        forwarder.forward(errand)


def test_an_error_inside_a_streams_answer_is_none_of_another_etcd(stub: Stubs, forwarder_to: Forwarders) -> None:
    member = stub(lambda *_: (200, header()))
    forwarder = forwarder_to(member)
    forwarder.forward(RANGE)
    member.answer = lambda *_: (200, {"error": {"code": 5, "message": "etcdserver: requested lease not found"}})

    assert b"requested lease not found" in forwarder.forward(KEEPALIVE).content
