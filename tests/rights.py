"""The rights that the shipped roles grant, one by one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from dragonfly.sandbox.shipped import shipped


class Right(NamedTuple):
    """A verb on a resource; `resource` is `name/part` for a part of one."""

    group: str
    resource: str
    verb: str

    def named(self) -> str:
        """As people read it."""
        name, slash, part = self.resource.partition("/")
        return f"{self.verb} {name}.{self.group}{slash}{part}" if self.group else f"{self.verb} {name}{slash}{part}"


def _role(file: str, kind: str) -> dict[str, Any]:
    """The one role of that kind in a manifest."""
    (found,) = (one for one in yaml.safe_load_all(shipped(file).read_text()) if one["kind"] == kind)
    return dict(found)


def rights(document: Mapping[str, Any]) -> list[Right]:
    """What a role grants, in its order."""
    return [
        Right(group, resource, verb)
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


ROLE = _role("rbac.yaml", "Role")
FENCE = _role("rbac-fence.yaml", "ClusterRole")
