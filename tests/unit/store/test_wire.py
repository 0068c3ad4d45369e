from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.store.errors import TooLarge
from dragonfly.store.values import Absent, Claimed, Condition, Delete, Put, Unchanged
from dragonfly.store.wire import MAX_BYTES, KeyValue, Prefix, RangeAnswer, decode

NAMES = st.text(st.characters(codec="utf-8"), max_size=20)


@given(NAMES, st.sampled_from(["", "/", "/dragonfly/", "/ü/"]))
def test_a_key_comes_back_without_its_prefix(key: str, prefix: str) -> None:
    assert Prefix(prefix).relative(Prefix(prefix).key(key)) == key


@given(NAMES, NAMES, st.sampled_from(["", "/dragonfly/"]))
def test_a_range_ends_after_the_last_key_of_its_prefix_and_no_later(under: str, key: str, root: str) -> None:
    prefix = Prefix(root)
    start, end = prefix.key(under), prefix.end(under)
    found = prefix.key(key)

    inside = start <= found and (end == b"\0" or found < end)

    assert inside is (found.startswith(start))


def test_bytes_that_are_no_text_do_not_break_a_range() -> None:
    assert Prefix("/p/").relative(b"/p/\xff") == "\\xff"


def test_numbers_are_strings_zero_fields_are_missing_and_unknown_ones_are_passed_over() -> None:
    answer = decode(
        b'{"header":{"cluster_id":"15118495548433857066","revision":"3"},'
        b'"kvs":[{"key":"YQ==","mod_revision":"2"}],"count":"1","later":{}}',
        RangeAnswer,
    )

    assert answer.header.cluster_id == 15118495548433857066
    assert answer.header.raft_term == 0
    assert answer.kvs == [KeyValue(key=b"a", mod_revision=2)]


def test_a_transaction_reads_its_conditions_keys_when_it_fails() -> None:
    given_: list[Condition] = [Unchanged("a", 5), Claimed("b", 6), Absent("c")]

    body = Prefix("/p/").transaction([Put("x", b"1", lease=9), Delete("y")], given_)

    assert [(c["target"], c.get("mod_revision", c.get("create_revision"))) for c in body["compare"]] == [
        ("MOD", 5),
        ("CREATE", 6),
        ("CREATE", 0),
    ]
    assert [f["request_range"]["key"] for f in body["failure"]] == [b"/p/a", b"/p/b", b"/p/c"]
    assert [next(iter(s)) for s in body["success"]] == ["request_put", "request_delete_range"]


def test_what_etcd_would_refuse_for_its_size_is_not_sent() -> None:
    with pytest.raises(TooLarge):
        Prefix("/p/").transaction([Put("k", b"x" * MAX_BYTES)], [])
    with pytest.raises(TooLarge):
        Prefix("/p/").transaction([Delete(str(n)) for n in range(129)], [])
