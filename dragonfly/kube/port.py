"""What Dragonfly asks of a Kubernetes API server.

`connection.Connection` carries it out against a real one, the simulator's model against itself; both pass the same
contract tests. Every call raises a `KubeError` (errors.py) and nothing else, besides cancellation and what `MAY_SEND`
raises. A write that is
cancelled may have happened, as after `Unreachable.maybe_done`.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, NamedTuple, Protocol

from dragonfly.kube.resources import Object, Ref, Resource

FIELD_MANAGER: Final = "dragonfly"
"""The owner of Dragonfly's fields in server-side apply; the same for all replicas, since they are stateless."""

MAY_SEND: Final[ContextVar[Callable[[], None]]] = ContextVar("may_send", default=lambda: None)
"""Asked in the very step in which a write leaves, each time that it does; what it raises ends the call.

A write may wait long for its turn, for a login, a connection, or between two tries, and whether it is still right to
send it is its caller's to say: after a SIGSTOP whatever timers ran out meanwhile go off at once, in the order in which
they were due, and the caller's own look may come after the next try. It is no argument, for it is the same for all that
a caller does for one machine.
"""

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


class Listing(NamedTuple):
    """All objects of a type, and the resourceVersion from which a watch continues."""

    items: list[Object]
    resource_version: str


class WatchEvent(NamedTuple):
    """One change. A BOOKMARK's object has nothing but metadata.resourceVersion."""

    type: EventType
    object: Object


class Kube(Protocol):
    """One cluster's API."""

    async def get(self, ref: Ref) -> Object:
        """Raises NotFound."""

    async def list(self, resource: Resource, namespace: str, *, label_selector: str = "") -> Listing:
        """Everything of a type in `namespace` (empty: everywhere), consistent as of one resourceVersion."""

    async def create(self, obj: Object) -> Object:
        """Create `obj`, unknown fields refused (Invalid).

        Raises:
            AlreadyExists: the name is taken, perhaps by an earlier try of this very call.
        """

    async def apply(self, obj: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        """Server-side apply as `FIELD_MANAGER`, creating if absent; unknown fields are refused (Invalid).

        A metadata.resourceVersion or metadata.uid in `obj` is a precondition. An apply that changes nothing costs the
        server as much as one that does: compare first.

        Raises:
            Conflict: another manager owns a field (`fields` names both), or a precondition did not hold.
        """

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        """JSON merge patch. metadata.uid and metadata.resourceVersion in `body` are preconditions.

        Raises:
            Conflict: a precondition did not hold.
            NotFound: no such object.
        """

    async def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "") -> None:
        """Delete, given that uid and resourceVersion (where not empty) are as seen.

        Success means accepted: an object with finalizers stays until they are gone.

        Raises:
            Conflict: a precondition did not hold.
            NotFound: no such object.
        """

    async def version(self) -> str:
        """The API server's version, such as `v1.36.3`."""

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        """Whether these credentials may do `verb` (SelfSubjectAccessReview).

        Args:
            verb: as in RBAC's rules.
            resource: what it is done to.
            namespace: where; empty for what is in none.
            name: to the one object of this name; empty for each of them.
            subresource: to a part of it such as `status`.
        """

    def watch(
        self,
        resource: Resource,
        namespace: str,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout: float = 300,
        silence: float = 150,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`, in order, until the server ends the stream; close it with `aclose()`.

        The first event is a BOOKMARK of `resource_version` itself, as soon as the server has accepted the watch.

        Args:
            timeout: seconds after which the server is asked to end the stream, so that watches move between servers.
            silence: seconds without a byte after which the stream counts as dead. API servers try to send a bookmark
                each minute where nothing else happens, on a quiet watch the first after up to two.

        Raises:
            Gone: `resource_version` is too old; list again.
            Unreachable: the stream broke or went silent; watch again from the last event's resourceVersion.
        """
