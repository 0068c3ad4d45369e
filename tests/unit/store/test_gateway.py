"""The gateway against a server of the test's own, which answers what a real etcd rarely does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dragonfly.store.errors import Behind, Denied, OtherEtcd, Unavailable
from dragonfly.store.faults import Fault
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Put
from tests.unit.store.stub import Answer, Reply, Stub


@pytest.fixture
def stub() -> Iterator[Callable[[Answer], Stub]]:
    opened: list[Stub] = []

    def open_(answer: Answer) -> Stub:
        opened.append(Stub(answer))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


_PATIENT: dict[str, Any] = {"timeout": 10.0, "attempt_timeout": 5.0}
_SOON: dict[str, Any] = {"timeout": 0.5, "attempt_timeout": 0.2}


@pytest.fixture
def gateway() -> Iterator[Callable[..., Gateway]]:
    opened: list[Gateway] = []

    def open_(*stubs: Stub, soon: bool = False, **settings: Any) -> Gateway:
        """`soon`: gives up after half a second; only for those to whom nobody answers well."""
        urls = tuple(one.url for one in stubs)
        opened.append(Gateway.open(EtcdSettings(endpoints=urls, **(_SOON if soon else _PATIENT), **settings)))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def _at(revision: int, *, term: int = 2, cluster: int = 7) -> Answer:
    header = {"cluster_id": str(cluster), "revision": str(revision), "raft_term": str(term)}
    return lambda *_: (200, {"header": header, "succeeded": True})


Stubs = Callable[[Answer], Stub]
Gateways = Callable[..., Gateway]


def test_a_member_that_lags_is_left_for_one_that_does_not(stub: Stubs, gateway: Gateways) -> None:
    member, other = stub(_at(10)), stub(_at(11))
    etcd = gateway(member, other)
    assert etcd.read("k") == (None, 10)

    member.answer = _at(9)

    assert etcd.read("k") == (None, 11)
    assert etcd.read("k") == (None, 11)
    assert len(member.asked) == 2, "it is asked no more"


def test_if_all_lag_nothing_older_is_told(stub: Stubs, gateway: Gateways) -> None:
    members = stub(_at(10)), stub(_at(10))
    etcd = gateway(*members, soon=True)
    etcd.read("k")
    for member in members:
        member.answer = _at(12, term=1)

    with pytest.raises(Behind) as caught:
        etcd.commit([Put("k", b"")], [])
    assert caught.value.maybe_written, "it was sent before the answer told"
    with pytest.raises(Behind) as caught:
        etcd.read("k")
    assert not caught.value.maybe_written


def test_if_all_have_lagged_nothing_more_is_sent(stub: Stubs, gateway: Gateways) -> None:
    members = stub(_at(10)), stub(_at(10))
    etcd = gateway(*members, soon=True)
    etcd.read("k")
    for member in members:
        member.answer = _at(9)
    with pytest.raises(Behind):
        etcd.read("k")
    asked = [len(member.asked) for member in members]
    for member in members:
        member.answer = _at(11)

    with pytest.raises(Behind) as caught:
        etcd.commit([Put("k", b"")], [])

    assert not caught.value.maybe_written
    assert [len(member.asked) for member in members] == asked


def test_siblings_know_what_was_seen(stub: Stubs, gateway: Gateways) -> None:
    member = stub(_at(10))
    etcd = gateway(member, soon=True)
    etcd.read("k")
    sibling = etcd.sibling()
    member.answer = _at(9)

    with pytest.raises(Behind):
        sibling.read("k")
    sibling.close()


def test_another_etcd_is_refused_by_all_siblings(stub: Stubs, gateway: Gateways) -> None:
    member = stub(_at(10))
    etcd = gateway(member)
    etcd.read("k")
    member.answer = _at(11, cluster=8)
    with pytest.raises(OtherEtcd):
        etcd.keep_alive(1)
    member.answer = _at(11)

    sibling = etcd.sibling()
    with pytest.raises(OtherEtcd):
        sibling.read("k")
    sibling.close()


@pytest.mark.parametrize(
    ("answer", "maybe"),
    [
        ((503, {"code": 14, "message": "etcdserver: request timed out"}), True),
        ((503, {"code": 14, "message": "etcdserver: no leader"}), False),
        ((502, "<html>bad gateway</html>"), True),
        ((200, "no json"), True),
        (b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", True),
        (b"nonsense\r\n\r\n", True),
    ],
)
def test_a_write_is_sent_again_only_if_it_had_no_effect(
    answer: tuple[int, object] | bytes, maybe: bool, stub: Stubs, gateway: Gateways
) -> None:
    failing = stub(lambda *_: iter([answer]) if isinstance(answer, bytes) else answer)
    other = stub(_at(5))
    etcd = gateway(failing, other)

    if maybe:
        with pytest.raises(Unavailable) as caught:
            etcd.commit([Put("k", b"")], [])
        assert caught.value.maybe_written
        assert other.asked == []
    else:
        assert etcd.commit([Put("k", b"")], []) == 5
    assert len(failing.asked) == 1


def test_connections_are_kept_and_made_anew_when_the_server_closed_them(stub: Stubs, gateway: Gateways) -> None:
    member = stub(_at(5))
    etcd = gateway(member)
    for _ in range(10):
        etcd.read("k")
    assert member.connections == 1

    body = b'{"header":{"cluster_id":"7","revision":"5","raft_term":"2"}}'
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    member.answer = lambda *_: iter([closing])
    for _ in range(3):
        etcd.read("k")
    assert member.connections == 3


def test_a_read_is_asked_of_the_next_whatever_went_wrong(stub: Stubs, gateway: Gateways) -> None:
    etcd = gateway(stub(lambda *_: (200, "no json")), stub(lambda *_: iter(())), stub(_at(5)))

    assert etcd.read("k") == (None, 5)


def test_an_answer_that_trickles_in_is_cut_off_at_its_deadline(stub: Stubs, gateway: Gateways) -> None:
    """Each byte comes in time, the whole does not."""
    stopped = threading.Event()

    def trickle() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        while not stopped.wait(0.02):
            yield b" "

    etcd = gateway(stub(lambda *_: trickle()), soon=True)

    with pytest.raises(Unavailable):
        etcd.read("k")

    stopped.set()


def test_every_call_but_the_status_refuses_a_member_without_leader(stub: Stubs, gateway: Gateways) -> None:
    member = stub(_at(5))
    etcd = gateway(member)

    etcd.read("k")
    assert etcd.status(etcd.endpoints[0]).reachable

    assert [headers.get("Grpc-Metadata-hasleader") for _, headers, _ in member.asked] == ["true", None]


def test_a_refused_token_is_renewed_once_and_for_all_threads(stub: Stubs, gateway: Gateways, tmp_path: Any) -> None:
    tokens = iter(["one", "two", "three"])
    valid = ["two"]

    def answer(path: str, body: dict[str, Any]) -> Reply:
        if path.endswith("authenticate"):
            assert body == {"name": "me", "password": "secret"}
            return 200, {"header": {"cluster_id": "7"}, "token": next(tokens)}
        if member.asked[-1][1].get("Authorization") not in valid:
            return 401, {"code": 16, "message": "etcdserver: invalid auth token"}
        return _at(5)(path, body)

    member = stub(answer)
    (tmp_path / "password").write_text("secret\n")
    etcd = gateway(member, username="me", password_file=tmp_path / "password")

    assert etcd.read("k") == (None, 5)
    assert etcd.read("k") == (None, 5)

    assert [path.rpartition("/")[2] for path, _, _ in member.asked] == [
        "authenticate",
        "range",
        "authenticate",
        "range",
        "range",
    ]
    valid[:] = []
    with pytest.raises(Denied):
        etcd.read("k")


def test_a_missing_password_file_is_told_as_such(stub: Stubs, gateway: Gateways, tmp_path: Any) -> None:
    etcd = gateway(stub(_at(5)), username="me", password_file=tmp_path / "none")

    with pytest.raises(Denied, match="none"):
        etcd.read("k")


def test_a_silent_stream_ends(stub: Stubs, gateway: Gateways) -> None:
    released = threading.Event()

    def silence() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\n"
        released.wait(60)

    etcd = gateway(stub(lambda *_: silence()))

    def follow() -> Iterator[bytes]:
        with etcd.stream("watch", {}, silence=2.0) as (_, lines):
            yield from lines

    lines = follow()
    assert next(lines) == b"a"
    with pytest.raises(Fault, match="in time"):
        next(lines)
    released.set()
