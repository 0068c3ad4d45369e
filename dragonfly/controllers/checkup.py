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
    DEPLOYMENT,
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
NEEDED_PARTS: Final[tuple[tuple[Resource, str, str], ...]] = ((WORKFLOW, "status", "patch"),)
"""Rights to subresources: without this one no Workflow could be taken from its agent."""

_DEPLOYMENT: Final = "tinkerbell"
"""The name that its Helm chart gives it, and its image."""

_NOBODY: Final = "dragonfly-looks-for-the-type"


class MissingRight(Value, frozen=True, kw_only=True):
    """Something that the credentials may not do."""

    verb: str
    resource: str
    """As in RBAC's rules, with its group: `workflows.tinkerbell.org`."""


class Checkup(Value, frozen=True, kw_only=True):
    """What one replica found."""

    namespace: str = ""
    """Where it looked for Tinkerbell."""
    error: str = ""
    """Why the API server could not be asked; then nothing else is known."""
    version: str = ""
    """The API server's."""
    tinkerbell: str = ""
    """Tinkerbell's version, as the image of its Deployment says; empty where there is none, or it may not be read."""
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
        denied = [part for part in NEEDED_PARTS if not await _may(kube, namespace, *part)]
        tinkerbell = await _tinkerbell(kube, namespace)
    except KubeError as error:
        return Checkup(namespace=namespace, error=error.message)
    missing = [_named(resource) for (resource, _), there in zip(NEEDED, served, strict=True) if not there]
    rights = [
        MissingRight(verb=verb, resource=_named(resource))
        for (resource, verb), may in zip(asked, allowed, strict=True)
        if not may
    ]
    rights += [MissingRight(verb=verb, resource=f"{_named(resource)}/{part}") for resource, part, verb in denied]
    return Checkup(
        namespace=namespace,
        version=version,
        tinkerbell=tinkerbell,
        missing_types=tuple(missing),
        missing_rights=tuple(rights),
    )


async def _may(kube: Kube, namespace: str, resource: Resource, part: str, verb: str) -> bool:
    return await kube.can(verb, resource, namespace, subresource=part)


async def _tinkerbell(kube: Kube, namespace: str) -> str:
    try:
        found = await kube.get(Ref(DEPLOYMENT, namespace, _DEPLOYMENT))
    except (NotFound, Forbidden):
        return ""
    images = (container.get("image", "") for container in found["spec"]["template"]["spec"]["containers"])
    # A registry's port has a colon, too; a digest says nothing to people.
    names = (image.partition("@")[0].rpartition("/")[2] for image in images)
    return next((version for name, _, version in (name.partition(":") for name in names) if name == _DEPLOYMENT), "")


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
