"""The feed over HTTP: as Server-Sent Events, or in pages for those who ask now and then (docs/feed.md)."""

from typing import Any, Final, Literal

import msgspec
from starlette.responses import Response

from dragonfly.api.calls import JSON, Call
from dragonfly.api.desk import ARRIVAL, Desk
from dragonfly.api.operations import Operation, Parameter
from dragonfly.api.problems import Fault
from dragonfly.api.streams import EVENT_STREAM, EventStream
from dragonfly.feed.feed import Lost, Snapshot, Subscription
from dragonfly.feed.frames import item
from dragonfly.feed.shown import KINDS
from dragonfly.feed.view import Filter, View
from dragonfly.model.selectors import requirements
from dragonfly.model.values import FieldError, Invalid, Value

_FACETS: Final = ("phase", "cluster", "machine", "template")
_BUSY_SECONDS: Final = "5"
_LIMIT: Final = 100
_MOST: Final = 1_000


class EventView(Value, frozen=True, kw_only=True):
    """One object that changed at a revision, as a GET shows it; of a deleted one, as it was last in the view."""

    revision: int
    type: Literal["created", "updated", "deleted"]
    kind: Literal["Machine", "Provision", "Template", "Cluster"]
    name: str
    object: dict[str, Any]


class EventPageView(Value, frozen=True, kw_only=True):
    """Changes after `since`; the next page follows `revision`."""

    kind: Literal["EventPage"]
    revision: int
    more: bool
    items: tuple[EventView, ...]


async def list_events(desk: Desk, call: Call) -> Response:
    view = _view(call)
    coalesce, snapshots, since = call.flag("coalesce"), call.flag("snapshot"), _since(call)
    limit = _limit(call)
    if EVENT_STREAM not in call.request.headers.get("accept", ""):
        if coalesce or snapshots:
            raise Invalid([FieldError("?snapshot", f"and coalesce are for streams: ask with Accept: {EVENT_STREAM}")])
        return await _page(desk, call, view, since, limit)
    _take_place(desk)
    try:
        begin = await _begin(desk, call, view, since, snapshots=snapshots, coalesce=coalesce)
    except BaseException:
        desk.context.streams.leave_place()
        raise
    greeting = {"replica": desk.context.replica, "etcd": desk.context.etcd_id()}
    state = call.request.scope["dragonfly"]
    state["stream"] = True
    return EventStream(
        desk.context.streams,
        view,
        begin,
        greeting=greeting,
        snapshots=snapshots,
        coalesce=coalesce,
        welcome=state["known"],
    )


async def _begin(
    desk: Desk, call: Call, view: View, since: int | None, *, snapshots: bool, coalesce: bool
) -> Subscription | Snapshot | Lost:
    feed = desk.context.feed
    if since is None:
        return feed.snapshot(view, coalesce=coalesce) if snapshots else feed.follow(view, coalesce=coalesce)
    try:
        return await _resumed(desk, call, view, since, coalesce=coalesce)
    except Lost as lost:
        return lost


async def _page(desk: Desk, call: Call, view: View, since: int | None, limit: int) -> Response:
    feed = desk.context.feed
    if since is None:
        return Response(_page_json([], feed.revision, more=False), media_type=JSON)
    try:
        subscription = await _resumed(desk, call, view, since, coalesce=False)
    except Lost as lost:
        detail = (
            f"What came after revision {since} cannot be told ({lost.reason}). Read the state anew, and go on from its "
            f"revision, {lost.revision} or later."
        )
        raise Fault("position-lost", detail, revision=lost.revision) from lost
    try:
        items = [item(seen) for seen in subscription.page(limit)]
        position = subscription.position
    finally:
        subscription.close()
    assert position is not None
    return Response(_page_json(items, position, more=position < feed.revision), media_type=JSON)


async def _resumed(desk: Desk, call: Call, view: View, since: int, *, coalesce: bool) -> Subscription:
    feed, context = desk.context.feed, desk.context
    etcd = call.request.query_params.get("etcd", "")
    if etcd and context.etcd_id() and etcd != context.etcd_id():
        raise Lost("other-etcd", feed.revision)
    return await feed.resume(view, since, patience=ARRIVAL.total_seconds(), coalesce=coalesce)


def _page_json(items: list[bytes], revision: int, *, more: bool) -> bytes:
    head = b'{"kind":"EventPage","revision":%d,"more":%s,"items":[' % (revision, msgspec.json.encode(more))
    return head + b",".join(items) + b"]}"


def _take_place(desk: Desk) -> None:
    if desk.context.feed.closed:
        raise Fault("draining", "This replica is shutting down. Connect anew: another one goes on.")
    if not desk.context.streams.take_place():
        detail = "This replica has as many streams as it may. Another one may have room; try again."
        raise Fault("too-many-streams", detail, headers={"Retry-After": _BUSY_SECONDS})


def _since(call: Call) -> int | None:
    """The position to resume at; a browser that reconnects repeats its address, so the header is the newer one."""
    header = call.request.headers.get("last-event-id", "")
    text = header or call.request.query_params.get("since", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        source = "Last-Event-ID" if header else "?since"
        raise Fault("malformed", f"{source} must be a revision, a whole number: {text[:40]!r} is none.")
    return int(text)


def _limit(call: Call) -> int:
    text = call.request.query_params.get("limit", str(_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MOST):
        raise Invalid([FieldError("?limit", f"must be 1 to {_MOST}", text)])
    return int(text)


def _view(call: Call) -> View:
    query = call.query()
    kinds = frozenset(query.get("kind", []))
    if unknown := sorted(kinds.difference(KINDS)):
        raise Invalid([FieldError("?kind", f"must be one of {', '.join(KINDS)}", unknown[0])])
    return View(
        Filter(
            kinds=kinds,
            names=frozenset(query.get("name", [])),
            selector=requirements(",".join(query.get("labelSelector", []))),
            tags=frozenset(query.get("tag", [])),
            facets=tuple((name, frozenset(query[name])) for name in _FACETS if name in query),
            words=tuple(" ".join(query.get("q", [])).lower().split()),
        ),
        call.identity.may_see,
    )


_FLAG: Final[dict[str, Any]] = {"type": "boolean", "default": False}

OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/events",
        list_events,
        "Follow the changes of all objects",
        {200: EventPageView},
        "events",
        streams=EVENT_STREAM,
        query=(
            Parameter("since", "Tell what came after this revision; `Last-Event-ID` does the same, and wins."),
            Parameter(
                "etcd",
                "The `etcd` that the position's stream named in its first ping. Without it nobody notices that etcd "
                "was restored, and that the revisions are others.",
            ),
            Parameter("snapshot", "Tell the whole state first, where no position to resume at is given.", _FLAG),
            Parameter("coalesce", "Leave out what is superseded before this client has taken it.", _FLAG),
            Parameter("kind", f"{', '.join(KINDS)}; one of several will do.", repeated=True),
            Parameter("name", "Names of objects; one of several will do.", repeated=True),
            Parameter("labelSelector", "As in Kubernetes: `a=b,c!=d,e in (f,g),h,!i`.", repeated=True),
            Parameter("tag", "A tag that the object has; several must all be there.", repeated=True),
            Parameter("phase", "The object's phase; one of several will do.", repeated=True),
            Parameter(
                "cluster", "The cluster, or that of the machine or provision; one of several will do.", repeated=True
            ),
            Parameter("machine", "The machine, or the provision's machine; one of several will do.", repeated=True),
            Parameter("template", "The provision's template; one of several will do.", repeated=True),
            Parameter("q", "Words that must all occur somewhere in the object."),
            Parameter(
                "limit",
                "Changes on a page, which holds whole revisions and so may have more.",
                {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _LIMIT},
            ),
        ),
        problems=("malformed", "position-lost", "too-many-streams", "draining", "store-unavailable"),
    ),
)
