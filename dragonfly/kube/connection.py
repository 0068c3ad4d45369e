"""The connection to one cluster: what `port.Kube` promises, over HTTP.

Each cluster has a connection of its own with its own session, rate, concurrency and deadlines, so that a slow or dead
one takes nothing from the others (P12).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from dragonfly.kube import errors
from dragonfly.kube.channel import DEFAULT_LIMITS, REAL, Channel, Limits, Surroundings
from dragonfly.kube.credentials import Source
from dragonfly.kube.errors import Gone, NotFound, Unreachable
from dragonfly.kube.port import FIELD_MANAGER, Listing, WatchEvent
from dragonfly.kube.resources import Object, Ref, Resource, ref_of
from dragonfly.kube.transport import Request

T = TypeVar("T")


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    """A part of a list."""

    api_version: str
    kind: str
    metadata: _ListMeta
    items: list[Object]


class _Frame(msgspec.Struct, frozen=True):
    """A line of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: Object


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    git_version: str


class _Type(msgspec.Struct, frozen=True):
    name: str


class _Types(msgspec.Struct, frozen=True):
    """An APIResourceList."""

    resources: list[_Type]


class _Verdict(msgspec.Struct, frozen=True):
    allowed: bool


class _Review(msgspec.Struct, frozen=True):
    """The answer to a SelfSubjectAccessReview."""

    status: _Verdict


_encode: Final = msgspec.json.Encoder().encode
_as_object: Final = msgspec.json.Decoder(Object).decode
_as_page: Final = msgspec.json.Decoder(_Page).decode
_as_frame: Final = msgspec.json.Decoder(_Frame).decode
_as_version: Final = msgspec.json.Decoder(_Version).decode
_as_types: Final = msgspec.json.Decoder(_Types).decode
_as_review: Final = msgspec.json.Decoder(_Review).decode

_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
# JSON is YAML, and this is the only name that API servers of all supported releases know.
_APPLY_PATCH: Final = "application/apply-patch+yaml"


class Connection:
    """`port.Kube` against a real API server. Make it inside the event loop that uses it, and `close` it there."""

    def __init__(self, source: Source, limits: Limits = DEFAULT_LIMITS, around: Surroundings = REAL) -> None:
        self._limits = limits
        self._around = around
        self._channel = Channel(source, limits, around)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut off what is under way and close all sockets."""
        await self._channel.close()

    async def left(self) -> None:
        """Return once its kubeconfig leads to another API server; from then on every call is `Unreachable`.

        Whatever is known of the one is not true of the other, so a connection never passes from one to another.
        """
        await self._channel.left.wait()

    def renew(self, source: Source) -> None:
        """Go on with other credentials for the same server; watches that are open stay as they are."""
        self._channel.renew(source)

    async def get(self, ref: Ref) -> Object:
        return _read(_as_object, await self._channel.call(Request("GET", ref.path)))

    async def list(self, resource: Resource, namespace: str, *, label_selector: str = "") -> Listing:
        path, query = resource.path(namespace), {"labelSelector": label_selector, "limit": str(self._limits.page)}
        while True:
            try:
                return await self._list_pages(path, query)
            except Gone:
                # The list took longer than the server keeps history: what was read so far can't be completed.
                await self._around.sleep(self._around.random())

    async def _list_pages(self, path: str, query: dict[str, str]) -> Listing:
        items: list[Object] = []
        token = ""
        while True:
            request = Request("GET", _target(path, query | {"continue": token}))
            page = _read(_as_page, await self._channel.call(request))
            items += page.items
            token = page.metadata.continue_
            if not token:
                return Listing(_typed(items, page), page.metadata.resource_version)

    async def create(self, obj: Object) -> Object:
        ref = ref_of(obj)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._write("POST", ref.resource.path(ref.namespace), query, obj, _JSON)

    async def apply(self, obj: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        query = {
            "fieldManager": FIELD_MANAGER,
            "fieldValidation": "Strict",
            "force": "true" if force else "",
            "dryRun": "All" if dry_run else "",
        }
        return await self._write("PATCH", ref_of(obj).path, query, obj, _APPLY_PATCH)

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Object:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        path = ref.resource.path(ref.namespace, ref.name, subresource)
        return await self._write("PATCH", path, query, body, _MERGE_PATCH)

    async def delete(self, ref: Ref, *, uid: str = "", resource_version: str = "") -> None:
        given = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {name: value for name, value in given.items() if value},
        }
        await self._write("DELETE", ref.path, {}, options, _JSON)

    async def evict(self, ref: Ref) -> None:
        """Delete a pod where its PodDisruptionBudget lets it go; `Throttled` where that does not, for now."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": ref.name, "namespace": ref.namespace},
        }
        path = ref.resource.path(ref.namespace, ref.name, "eviction")
        await self._write("POST", path, {}, body, _JSON)

    async def version(self) -> str:
        return _read(_as_version, await self._channel.call(Request("GET", "/version"))).git_version

    async def types(self, group_version: str) -> tuple[str, ...]:
        """Return the plural names of what the server knows in an API group, such as `apps/v1`; empty if it is none."""
        try:
            answer = await self._channel.call(Request("GET", f"/apis/{group_version}"))
        except NotFound:
            return ()
        return tuple(resource.name for resource in _read(_as_types, answer).resources if "/" not in resource.name)

    async def can(
        self, verb: str, resource: Resource, namespace: str, *, name: str = "", subresource: str = ""
    ) -> bool:
        attributes = {
            "verb": verb,
            "group": resource.group,
            "version": resource.version,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": namespace,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._channel.call(Request("POST", path, _encode(review), _JSON, write=False))
        return _read(_as_review, answer).status.allowed

    async def watch(
        self,
        resource: Resource,
        namespace: str,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout: float = 300,
        silence: float = 150,
    ) -> AsyncGenerator[WatchEvent, None]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "timeoutSeconds": str(max(1, int(timeout))),
        }
        target = _target(resource.path(namespace), query)
        async with self._channel.stream(target, silence=silence) as pieces, aclosing(lines(pieces)) as whole:
            yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": resource_version}})
            async for line in whole:
                yield _event(line)

    async def _write(self, method: str, path: str, query: Mapping[str, str], body: Any, content_type: str) -> Object:
        request = Request(method, _target(path, query), _encode(body), content_type, write=True)
        return _read(_as_object, await self._channel.call(request), write=True)


async def lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Whole lines out of pieces of any size; one without a newline at the end was cut off, and is dropped."""
    begun: list[bytes] = []
    async for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for start in others:
            if line := b"".join(begun):
                yield line
            begun = [start]


def _target(path: str, query: Mapping[str, str]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def _read(decode: Callable[[bytes], T], body: bytes, *, write: bool = False) -> T:
    """Decode what came with a success.

    Raises:
        Unreachable: it is not what an API server says, but the page of a proxy in between, say.
    """
    try:
        return decode(body)
    except ValueError as error:  # not only msgspec's: text that is no UTF-8 is a UnicodeDecodeError
        # Of an object nothing is shown: it might be a Secret (P11).
        start = "{…" if body.lstrip().startswith(b"{") else body[:60].decode(errors="replace")
        message = f"not an API server's answer ({error}): {start!r}"
        raise Unreachable(message, maybe_done=write, reason="NotKubernetes") from error


def _typed(items: list[Object], page: _Page) -> list[Object]:
    """`items` with kind and apiVersion, which the items of a list come without if they are built-in types."""
    kind = page.kind.removesuffix("List")
    for item in items:
        item["kind"], item["apiVersion"] = kind, page.api_version
    return items


def _event(line: bytes) -> WatchEvent:
    frame = _read(_as_frame, line)
    if frame.type != "ERROR":
        return WatchEvent(frame.type, frame.object)
    status = frame.object
    raise errors.from_status(
        status.get("code", 500), status.get("message", ""), status.get("reason", ""), status.get("details"), write=False
    )
