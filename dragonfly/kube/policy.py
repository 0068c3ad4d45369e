"""The fence inside the API server: a ValidatingAdmissionPolicy that refuses a write of a former owner (P4). Pure.

Every write of Dragonfly's says under which epoch it was made. The policy compares that with what the stored object
says, and refuses a lower one, be the rest of the write as current as it may. It stands in nobody else's way: who does
not touch the annotation writes what is there, and equal passes; who removes it, or writes something that is no number,
passes too, for no replica ever does, and people must not be locked out.

What it compares are the types of which each object belongs to one machine, so to one shard. A Template serves the
machines of all shards, and the epochs of two shards say nothing about each other. A deletion carries no annotation, and
the API server drops annotations from a write to a status: these, like every other write, name uid and resourceVersion.

Epochs are revisions of etcd, and an etcd that was set up anew or from a backup begins with lower ones. A write that
names the very epoch that it replaces is let through: `controllers.fence` makes one only with etcd's word, got after it
read the object, that its claim is the present one, which proves that the higher epoch is of another history.
"""

from typing import Any, Final

from dragonfly.kube.resources import (
    ADMISSION_POLICY,
    ADMISSION_POLICY_BINDING,
    BMC_JOB,
    BMC_MACHINE,
    HARDWARE,
    WORKFLOW,
    Object,
    Ref,
    Resource,
)
from dragonfly.kube.tinkerbell import EPOCH, MANAGED_BY, MANAGER

REPLACES: Final = "dragonfly.io/replaces-epoch"
"""The higher epoch, of another history of etcd, that a write means to replace."""

FENCED: Final = (HARDWARE, WORKFLOW, BMC_MACHINE, BMC_JOB)

_PREFIX: Final = "dragonfly-epoch."


def policy_name(namespace: str) -> str:
    """Return the name of policy and binding: one for each namespace, so that two swarms in a cluster share nothing."""
    return f"{_PREFIX}{namespace}"


def is_fence(policy: str) -> bool:
    """Whether a policy of this name is one of Dragonfly's."""
    return policy.startswith(_PREFIX)


def policy_ref(namespace: str) -> Ref:
    return Ref(ADMISSION_POLICY, "", policy_name(namespace))


def binding_ref(namespace: str) -> Ref:
    return Ref(ADMISSION_POLICY_BINDING, "", policy_name(namespace))


def policy(namespace: str) -> Object:
    """Return the policy for Tinkerbell's objects of Dragonfly's in `namespace`, all defaults written out."""
    return {
        "apiVersion": ADMISSION_POLICY.api_version,
        "kind": ADMISSION_POLICY.kind,
        "metadata": _metadata(namespace),
        "spec": {
            # The expressions cannot fail as they are. If an API server ever thinks otherwise, Tinkerbell goes on.
            "failurePolicy": "Ignore",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": {"matchLabels": {MANAGED_BY: MANAGER}},
                "resourceRules": _rules(),
            },
            "variables": [
                {"name": "stored", "expression": _annotation("oldObject", EPOCH)},
                {"name": "given", "expression": _annotation("object", EPOCH)},
                {"name": "replaced", "expression": _annotation("object", REPLACES)},
                {"name": "replacedBefore", "expression": _annotation("oldObject", REPLACES)},
            ],
            "validations": [{"expression": _ALLOWED, "messageExpression": _MESSAGE, "reason": "Forbidden"}],
        },
    }


def binding(namespace: str) -> Object:
    """Return what puts the policy in force."""
    return {
        "apiVersion": ADMISSION_POLICY_BINDING.api_version,
        "kind": ADMISSION_POLICY_BINDING.kind,
        "metadata": _metadata(namespace),
        "spec": {"policyName": policy_name(namespace), "validationActions": ["Deny"]},
    }


def correction(wanted: Any, live: Any) -> dict[str, Any]:
    """Return the merge patch (RFC 7396) that makes the map `live` into `wanted`; empty if they are equal.

    Server-side apply would leave what others have added, such as a condition under which the policy is not asked.
    """
    changes: dict[str, Any] = {name: None for name in live if name not in wanted}
    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(live.get(name), dict):
            if inner := correction(value, live[name]):
                changes[name] = inner
        elif live.get(name) != value:
            changes[name] = value
    return changes


def _annotation(obj: str, name: str) -> str:
    return f"{obj}.metadata.?annotations[?'{name}'].orValue('')"


_NUMBER: Final = "matches('^[0-9]{1,18}$')"
_ALLOWED: Final = (
    f"!variables.stored.{_NUMBER} || !variables.given.{_NUMBER}"
    " || int(variables.given) >= int(variables.stored)"
    " || (variables.replaced == variables.stored && variables.replacedBefore != variables.replaced)"
)
_MESSAGE: Final = "'epoch ' + variables.given + ' is over: epoch ' + variables.stored + ' has written this object'"


def _rules() -> list[Object]:
    """Updates of whole objects; writes to their status, most of them Tinkerbell's, are not even looked at."""
    groups: dict[str, list[Resource]] = {}
    for resource in FENCED:
        groups.setdefault(resource.group, []).append(resource)
    return [
        {
            "apiGroups": [group],
            "apiVersions": ["*"],
            "operations": ["UPDATE"],
            "resources": [resource.plural for resource in resources],
            "scope": "Namespaced",
        }
        for group, resources in groups.items()
    ]


def _metadata(namespace: str) -> Object:
    return {"name": policy_name(namespace), "labels": {MANAGED_BY: MANAGER}}
