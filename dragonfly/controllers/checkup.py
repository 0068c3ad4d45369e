"""What a cluster lacks for Dragonfly to work in it: types and rights, asked of its API server."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from dragonfly.kube.errors import Forbidden, KubeError, NotFound
from dragonfly.kube.policy import policy_name
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import (
    ADMISSION_POLICY,
    ADMISSION_POLICY_BINDING,
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
from dragonfly.model.cluster import Checkup, MissingRight

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
OPTIONAL: Final[tuple[tuple[Resource, tuple[str, ...]], ...]] = (
    (DEPLOYMENT, ("get",)),
    # The fence's (rbac-fence.yaml): for the one object of each that is Dragonfly's.
    (ADMISSION_POLICY, ("get", "create", "patch")),
    (ADMISSION_POLICY_BINDING, ("get", "create", "patch")),
)

_DEPLOYMENT: Final = "tinkerbell"
"""The name that its Helm chart gives it, and its image."""

_GLANCE: Final = 2.0
"""Seconds between two looks at whose task it is."""

_SOON: Final = 30.0
_LATER: Final = 600.0
"""Seconds until a cluster is examined again: people grant rights and update Tinkerbell, and seldom."""

_NOBODY: Final = "dragonfly-looks-for-the-type"


async def examine(kube: Kube, namespace: str) -> Checkup:
    """Ask the API server for all that Dragonfly needs of it in Tinkerbell's namespace; never raises a `KubeError`."""
    try:
        version = await kube.version()
        served = [await _is_served(kube, resource, namespace) for resource, _ in NEEDED]
        asked = [(resource, verb) for resource, verbs in NEEDED for verb in verbs]
        allowed = await asyncio.gather(*(kube.can(verb, resource, namespace) for resource, verb in asked))
        denied = [part for part in NEEDED_PARTS if not await _may(kube, namespace, *part)]
        optional = await _missing_optional(kube, namespace)
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
        missing_optional=tuple(optional),
    )


class Turns:
    """Spreads the examinations of a replica's clusters over time, without any of them waiting for another's end.

    Who takes over the clusters of a replica that died would else ask their API servers thousands of questions at once,
    just when work waits there.
    """

    def __init__(self, clock: Callable[[], float], every: float = 0.5) -> None:
        """`clock`: monotonic seconds. `every`: seconds between the beginnings of two of them."""
        self._clock = clock
        self._every = every
        self._free = 0.0

    async def wait(self) -> None:
        """Return when it is the caller's turn to begin: at once, if nobody began a moment ago."""
        now = self._clock()
        mine = max(now, self._free)
        self._free = mine + self._every
        await asyncio.sleep(mine - now)


class Examiner:
    """Examines one cluster now and then, while this replica is the one to do so, and keeps what it found last."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        *,
        mine: Callable[[], bool],
        clock: Callable[[], float],
        turns: Turns,
        changed: Callable[[], None],
    ) -> None:
        """Make it, not yet running.

        Args:
            kube: the cluster.
            namespace: Tinkerbell's.
            mine: whether this replica is the one that examines it now.
            clock: monotonic seconds.
            turns: when to begin, which it shares with those of the replica's other clusters.
            changed: told when `found` is another.
        """
        self.found: Checkup | None = None
        """None while it is not this replica's task, or the API server has not said yet."""
        self._kube = kube
        self._namespace = namespace
        self._mine = mine
        self._clock = clock
        self._turns = turns
        self._changed = changed
        self._due = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._mine():
                self._due = 0.0
                self._tell(None)
            elif self._clock() >= self._due:
                await self._turns.wait()
                if self._mine():
                    await self.look()
            await asyncio.sleep(_GLANCE)

    async def look(self) -> None:
        """Examine it now; what an API server that does not answer lacks stays as it was."""
        found = await examine(self._kube, self._namespace)
        self._due = self._clock() + (_SOON if found.error else _LATER)
        if not found.error:
            self._tell(found)

    def _tell(self, found: Checkup | None) -> None:
        if found != self.found:
            self.found = found
            self._changed()


async def _may(kube: Kube, namespace: str, resource: Resource, part: str, verb: str) -> bool:
    return await kube.can(verb, resource, namespace, subresource=part)


async def _missing_optional(kube: Kube, namespace: str) -> list[MissingRight]:
    asked = [(resource, verb) for resource, verbs in OPTIONAL for verb in verbs]
    allowed = await asyncio.gather(*(_may_optionally(kube, namespace, *one) for one in asked))
    return [
        MissingRight(verb=verb, resource=_named(resource))
        for (resource, verb), may in zip(asked, allowed, strict=True)
        if not may
    ]


async def _may_optionally(kube: Kube, namespace: str, resource: Resource, verb: str) -> bool:
    name = _DEPLOYMENT if resource == DEPLOYMENT else policy_name(namespace)
    return await kube.can(verb, resource, namespace if resource.namespaced else "", name=name)


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
