"""What a cluster lacks for Dragonfly to work in it: types and rights, asked of its API server."""

import asyncio
from http import HTTPStatus
from typing import Final

from dragonfly.kube.errors import Forbidden, KubeError, NotFound
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import (
    BMC_JOB,
    BMC_MACHINE,
    BMC_TASK,
    EVENT,
    HARDWARE,
    NAMESPACE,
    SECRET,
    TEMPLATE,
    WORKFLOW,
    Ref,
    Resource,
)
from dragonfly.model.values import Value

_ALL: Final = ("get", "list", "watch", "create", "patch", "delete")
# As deploy/k3s/base/rbac.yaml grants them; a test compares the two.
NEEDED: Final[tuple[tuple[Resource, tuple[str, ...]], ...]] = (
    (HARDWARE, _ALL),
    (WORKFLOW, _ALL),
    (TEMPLATE, ("get", "list", "watch", "create", "patch")),
    (BMC_MACHINE, _ALL),
    (BMC_JOB, _ALL),
    (BMC_TASK, ("list", "delete")),
    (SECRET, ("get", "create", "patch", "delete")),
    (EVENT, ("create", "patch")),
    (NAMESPACE, ("get",)),
)
_NOBODY: Final = "dragonfly-looks-for-the-type"


class MissingRight(Value, frozen=True, kw_only=True):
    """Something that the credentials may not do."""

    verb: str
    resource: str
    """As in RBAC's rules, with its group: `workflows.tinkerbell.org`."""


class Checkup(Value, frozen=True, kw_only=True):
    """What one replica found."""

    error: str = ""
    """Why the API server could not be asked; then nothing else is known."""
    version: str = ""
    """The API server's."""
    missing_types: tuple[str, ...] = ()
    """Of Tinkerbell's, such as `workflows.tinkerbell.org`."""
    missing_rights: tuple[MissingRight, ...] = ()


async def examine(kube: Kube, namespace: str) -> Checkup:
    """Ask the API server for all that Dragonfly needs of it in Tinkerbell's namespace; never raises a `KubeError`."""
    try:
        version = await kube.version()
        served = [await _is_served(kube, resource, namespace) for resource, _ in NEEDED]
        asked = [(resource, verb) for resource, verbs in NEEDED for verb in verbs]
        allowed = await asyncio.gather(*(kube.can(verb, resource, namespace) for resource, verb in asked))
    except KubeError as error:
        return Checkup(error=error.message)
    missing = [_named(resource) for (resource, _), there in zip(NEEDED, served, strict=True) if not there]
    rights = [
        MissingRight(verb=verb, resource=_named(resource))
        for (resource, verb), may in zip(asked, allowed, strict=True)
        if not may
    ]
    return Checkup(version=version, missing_types=tuple(missing), missing_rights=tuple(rights))


async def _is_served(kube: Kube, resource: Resource, namespace: str) -> bool:
    """Ask for an object that is not there: the answer tells whether it is the object or the type that is missing."""
    try:
        await kube.get(Ref(resource, namespace, _NOBODY))
    except NotFound as error:
        return error.reason == "NotFound"
    except Forbidden as error:
        # Who may not read it is told so besides; a login that is refused says nothing of the type.
        if error.status == HTTPStatus.UNAUTHORIZED:
            raise
    return True


def _named(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural
