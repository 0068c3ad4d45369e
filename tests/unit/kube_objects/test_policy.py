"""The admission policy as an object; what it refuses is tested in tests/contract/test_policy.py."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.kube.policy import FENCED, binding, binding_ref, correction, is_fence, policy, policy_name, policy_ref
from dragonfly.kube.resources import TEMPLATE, ref_of

SPECS = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner | st.integers(0, 2)),
    max_leaves=12,
)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


def test_two_namespaces_share_nothing() -> None:
    names = {ref.name for make in (policy_ref, binding_ref) for ref in (make("a"), make("b"))}

    assert names == {policy_name("a"), policy_name("b")}
    assert all(is_fence(name) for name in names)
    assert not is_fence("require-labels")


def test_they_are_what_is_looked_for_and_belong_together() -> None:
    assert ref_of(policy("ns")) == policy_ref("ns")
    assert ref_of(binding("ns")) == binding_ref("ns")
    assert binding("ns")["spec"]["policyName"] == policy("ns")["metadata"]["name"]


def test_each_type_of_one_shard_is_covered_and_no_status() -> None:
    rules = policy("ns")["spec"]["matchConstraints"]["resourceRules"]

    covered = {(group, plural) for rule in rules for group in rule["apiGroups"] for plural in rule["resources"]}
    assert covered == {(resource.group, resource.plural) for resource in FENCED}
    assert TEMPLATE not in FENCED
    assert {operation for rule in rules for operation in rule["operations"]} == {"UPDATE"}


@given(wanted=SPECS, live=SPECS)
def test_a_correction_makes_it_what_is_wanted(wanted: dict[str, Any], live: dict[str, Any]) -> None:
    assert patched(live, correction(wanted, live)) == wanted


@given(spec=SPECS)
def test_what_is_right_needs_no_correction(spec: dict[str, Any]) -> None:
    assert correction(spec, spec) == {}


@pytest.mark.parametrize("added", [{"matchConditions": [{"name": "x", "expression": "false"}]}, {"paramKind": {}}])
def test_what_others_added_is_taken_out(added: dict[str, Any]) -> None:
    spec = policy("ns")["spec"]

    assert correction(spec, spec | added) == dict.fromkeys(added)
