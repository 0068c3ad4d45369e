"""Documents from people: parsed strictly, patched as RFC 7396 says, each mistake told with its place."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.intent.documents import Malformed, as_input, merged, parsed
from dragonfly.model.machine import MachineInput
from dragonfly.model.template import TemplateInput
from dragonfly.model.values import FieldError, Invalid

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), DOCUMENTS, max_size=4)


def without_nulls(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {name: without_nulls(value) for name, value in document.items() if value is not None}


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    # The table of RFC 7396, appendix A.
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_the_rfc_shows(target: Any, patch: Any, expected: Any) -> None:
    assert merged(target, patch) == expected


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_applied_twice_is_applied_once(target: Any, patch: Any) -> None:
    once = merged(target, patch)

    assert merged(once, patch) == once


@given(OBJECTS, OBJECTS)
def test_a_patch_says_everything_of_what_it_names_and_nothing_of_the_rest(
    target: dict[str, Any], patch: dict[str, Any]
) -> None:
    result = merged(target, patch)

    for name in set(target) - set(patch):
        assert result[name] == target[name]
    for name, value in patch.items():
        assert (name not in result) if value is None else (result[name] == merged(target.get(name), value))


@given(OBJECTS)
def test_a_patch_without_nulls_makes_itself_out_of_nothing(patch: dict[str, Any]) -> None:
    assert merged({}, without_nulls(patch)) == without_nulls(patch)


@given(DOCUMENTS, DOCUMENTS)
def test_a_merge_changes_neither_of_its_parts(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))

    merged(target, patch)

    assert (target, patch) == before


@given(DOCUMENTS)
def test_json_comes_out_as_it_was_sent(document: Any) -> None:
    assert parsed(json.dumps(document).encode()) == document


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_told(body: bytes) -> None:
    try:
        document = parsed(body)
    except (Malformed, Invalid):
        return
    assert document == msgspec.json.decode(body)


@given(DOCUMENTS, st.sampled_from([MachineInput, TemplateInput]))
def test_any_document_becomes_an_input_or_is_told_with_a_field(document: Any, kind: Any) -> None:
    told: tuple[FieldError, ...] = ()
    decoded = None
    try:
        decoded = as_input(document, kind)
    except Invalid as error:
        told = error.errors

    assert (decoded is None) == bool(told)
    assert all(one.field and one.message for one in told)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"a": 1, "a": 2}', ["a"]),
        (b'{"a": [{"b": 1}, {"b": 1, "c": {"d": 1, "d": 1}}]}', ["a[1].c.d"]),
        (b'{"a": 1, "a": 1, "b": {"c": 1, "c": 1}}', ["a", "b.c"]),
    ],
)
def test_repeated_fields_are_told_with_their_places(body: bytes, fields: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        parsed(body)

    assert [error.field for error in caught.value.errors] == fields


@pytest.mark.parametrize(
    ("spec", "field", "message", "value"),
    [
        (
            {"bmc": {"host": "h", "protocol": "telnet"}},
            "spec.bmc.protocol",
            "must be one of redfish, ipmi, rpc",
            "telnet",
        ),
        ({"disks": [{}, {"type": "tape"}]}, "spec.disks[1].type", "must be one of (empty), nvme, ssd, hdd", "tape"),
        ({"bmc": {"host": "h", "password": 4711}}, "spec.bmc.password", "expected `str`, got `int`", None),
        ({"bmc": {"host": "h", "options": {"a": "b", "c": 7}}}, "spec.bmc.options.c", "expected `str`, got `int`", 7),
        (
            {"interfaces": [{"mac": "m", "bond": {"nam": "x"}}]},
            "spec.interfaces[0].bond.nam",
            "there are name, mode",
            None,
        ),
        ({"interfaces": [{"mac": "m", "bond": {}}]}, "spec.interfaces[0].bond.name", "is required", None),
        ({"userData": ["x" * 999]}, "spec.userData", "expected `str`, got `array`", None),
        ({"arch": "x" * 999}, "spec.arch", "must be one of", None),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(
    spec: dict[str, Any], field: str, message: str, value: Any
) -> None:
    with pytest.raises(Invalid) as caught:
        as_input({"spec": spec}, MachineInput)

    (error,) = caught.value.errors
    assert error.field == field
    assert message in error.message
    assert error.value == value
