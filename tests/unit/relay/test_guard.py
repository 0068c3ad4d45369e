"""No request that touches a key outside the prefix passes, and every request of the store does."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dragonfly.relay.guard import CALLS, MOST_BYTES, Guard, Refused
from dragonfly.store.values import Absent, Claimed, Delete, Put, Unchanged
from dragonfly.store.wire import MAX_BYTES, Prefix

PREFIX = "/swarm/"
START, END = b"/swarm/", b"/swarm0"
GUARD = Guard(PREFIX)
OURS = Prefix(PREFIX)


def encoded(body: Any) -> bytes:
    return msgspec.json.encode(body)


def refused(call: str, body: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        GUARD.checked(call, body if isinstance(body, bytes) else encoded(body))
    return caught.value


# Around the prefix and etcd's special ends, where mistakes live.
near = st.sampled_from(
    [b"", b"\0", b"/", b"/swarm", b"/swarm.", START, b"/swarm/\0", b"/swarm/a", END, b"/swarm0a", b"0", b"\xff"]
)
keys = near | st.binary(max_size=12) | st.builds(bytes.__add__, near, st.binary(max_size=4))


def touched(key: bytes, end: bytes, candidate: bytes) -> bool:
    """Whether etcd's range of these touches a key (`key` and `range_end` in etcd's rpc.proto)."""
    if not end:
        return candidate == key
    return candidate >= key and (end == b"\0" or candidate < end)


def let_through(call: str, body: Any) -> bool:
    try:
        GUARD.checked(call, encoded(body))
    except Refused:
        return False
    return True


@settings(max_examples=1_000)
@given(keys, keys, keys, st.sampled_from(["kv/range", "watch"]))
@example(b"/swarm/a", b"\0", b"\xff", "kv/range")
@example(b"/swarm/a", b"\0", b"\xff", "watch")
@example(START, b"\xff", END, "watch")
def test_what_passes_touches_no_key_outside(key: bytes, end: bytes, candidate: bytes, call: str) -> None:
    span: dict[str, Any] = {"key": key, "range_end": end}
    body = {**span, "limit": 10} if call == "kv/range" else {"create_request": span}

    if let_through(call, body) and touched(key, end, candidate):
        assert candidate.startswith(START)


@given(keys, st.sampled_from(["compare", "put", "delete", "read"]))
def test_a_transaction_with_one_key_outside_does_not_pass(key: bytes, place: str) -> None:
    mine = b"/swarm/mine"

    def where(part: str) -> bytes:
        return key if part == place else mine

    body = {
        "compare": [{"key": where("compare"), "result": "EQUAL", "target": "MOD", "mod_revision": 3}],
        "success": [
            {"request_put": {"key": where("put"), "value": b"x", "lease": 7}},
            {"request_delete_range": {"key": where("delete")}},
        ],
        "failure": [{"request_range": {"key": where("read")}}],
    }

    assert let_through("kv/txn", body) == key.startswith(START)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(CALLS)), json_values)
def test_whatever_comes_is_refused_or_understood(call: str, body: Any) -> None:
    if let_through(call, body):
        again = GUARD.checked(call, encoded(body))
        assert GUARD.checked(call, encoded(again)) == again


@given(st.sampled_from(sorted(CALLS)), st.binary(max_size=64).filter(lambda text: not _is_json(text)))
def test_bytes_that_are_no_request_are_refused(call: str, text: bytes) -> None:
    assert refused(call, text).status == 400


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return False
    return True


def test_what_the_store_sends_passes_and_stays_the_same() -> None:
    sent: list[tuple[str, Any]] = [
        ("kv/range", OURS.read("machines/a")),
        ("kv/range", OURS.range("", after=b"", limit=1000, revision=0)),
        ("kv/range", OURS.range("machines/", after=b"/swarm/machines/m", limit=1000, revision=12)),
        (
            "kv/txn",
            OURS.transaction(
                [Put("a", b"\x00\xff", 2**62), Delete("b")], [Absent("a"), Claimed("c", 4), Unchanged("b", 9)]
            ),
        ),
        ("watch", OURS.watch(17)),
        ("lease/grant", {"TTL": 3}),
        ("lease/revoke", {"ID": 2**63 - 1}),
        ("lease/keepalive", {"ID": 2**63 - 1}),
        ("lease/timetolive", {"ID": 2**63 - 1}),
        ("maintenance/status", {}),
    ]
    assert {call for call, _ in sent} == set(CALLS)

    for call, body in sent:
        passed = msgspec.json.decode(encoded(GUARD.checked(call, encoded(body))))
        wanted = msgspec.json.decode(encoded(body))
        # etcd reads a field that is left out as its zero.
        assert {name: value for name, value in wanted.items() if value not in (0, "")} == {
            name: value for name, value in passed.items() if value not in (0, "")
        }


def test_the_largest_transaction_that_etcd_takes_passes() -> None:
    overhead = 128 * 48 * 2
    value = b"x" * (MAX_BYTES - overhead)

    assert let_through("kv/txn", OURS.transaction([Put("a", value)], [Absent("a")] * 60))
    assert refused("kv/txn", b'"' + b"x" * MOST_BYTES + b'"').status == 413


KEY = b64encode(b"/swarm/a").decode()
OTHER = b64encode(b"/registry/secrets/a").decode()


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("kv/range", {"key": KEY, "limit": 1, "rangeEnd": "AA=="}),
        ("kv/range", {"key": KEY, "range_end": b64encode(END).decode()}),  # no limit
        ("kv/range", {"key": KEY, "range_end": b64encode(END).decode(), "limit": 100_000}),
        ("kv/range", {"key": KEY, "serializable": True}),
        ("kv/range", {"key": KEY, "limit": -1}),
        ("kv/range", {"key": KEY, "revision": 2**63}),
        ("kv/range", f'{{"key":"{KEY}"}}{{"key":"{OTHER}"}}'.encode()),
        ("kv/txn", {"success": [{"request_txn": {"success": [{"request_put": {"key": OTHER}}]}}]}),
        ("kv/txn", {"success": [{"request_range": {"key": KEY}}]}),
        ("kv/txn", {"success": [{}]}),
        ("kv/txn", {"success": [{"request_put": {"key": KEY}, "request_delete_range": {"key": KEY}}]}),
        ("kv/txn", {"success": [{"request_delete_range": {"key": KEY, "range_end": "AA=="}}]}),
        ("kv/txn", {"success": [{"request_put": {"key": KEY, "prev_kv": True}}]}),
        ("kv/txn", {"failure": [{"request_put": {"key": KEY}}]}),
        ("kv/txn", {"failure": [{"request_range": {"key": KEY, "range_end": "AA=="}}]}),
        ("kv/txn", {"compare": [{"key": KEY, "range_end": "AA==", "result": "EQUAL", "target": "MOD"}]}),
        ("kv/txn", {"compare": [{"key": KEY, "result": "GREATER", "target": "MOD", "mod_revision": 1}]}),
        ("kv/txn", {"success": [{"request_put": {"key": KEY}}] * 129}),
        ("watch", {"create_request": {"key": KEY, "watch_id": 1}}),
        ("watch", {"cancel_request": {"watch_id": 0}}),
        ("watch", {"create_request": {"key": KEY}, "cancel_request": {"watch_id": 0}}),
        ("watch", encoded({"create_request": {"key": KEY}}) + b"\n" + encoded({"create_request": {"key": OTHER}})),
        ("lease/grant", {"TTL": 3, "ID": 7}),
        ("lease/timetolive", {"ID": 7, "keys": True}),
        ("lease/keepalive", encoded({"ID": 7}) + encoded({"ID": 8})),
        ("lease/revoke", {"ID": 0}),
        ("lease/revoke", {}),
        ("maintenance/status", {"anything": 1}),
    ],
)
def test_what_the_store_never_says_is_refused(call: str, body: Any) -> None:
    assert refused(call, body).status == 400


def test_of_a_key_that_is_told_twice_the_one_that_was_looked_at_is_passed_on() -> None:
    text = f'{{"key":"{OTHER}","key":"{KEY}"}}'.encode()

    assert msgspec.json.decode(encoded(GUARD.checked("kv/range", text)))["key"] == KEY
    assert refused("kv/range", f'{{"key":"{KEY}","key":"{OTHER}"}}'.encode()).status == 403


@pytest.mark.parametrize(
    "call",
    [
        "kv/compaction",
        "kv/put",
        "kv/deleterange",
        "lease/leases",
        "maintenance/snapshot",
        "maintenance/alarm",
        "auth/authenticate",
        "auth/user/add",
        "cluster/member/list",
        "kv/range/",
        "../v3/kv/range",
        "",
    ],
)
def test_other_calls_are_refused(call: str) -> None:
    assert refused(call, {}).status == 404


def test_a_lease_is_the_swarms_if_all_of_its_keys_are() -> None:
    assert GUARD.all_inside([])
    assert GUARD.all_inside([b"/swarm/a", b"/swarm/b"])
    assert not GUARD.all_inside([b"/swarm/a", b"/swarm0"])


def test_a_prefix_that_others_begin_with_cannot_be_guarded() -> None:
    with pytest.raises(ValueError, match="slash"):
        Guard("/swarm")
