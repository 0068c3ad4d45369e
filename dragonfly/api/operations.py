"""What a route declares of itself: enough to serve it, to check its query, and to describe it in OpenAPI."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from starlette.responses import Response

from dragonfly.api.calls import BODY_LIMIT, JSON, MERGE_PATCH, Call
from dragonfly.api.desk import Desk
from dragonfly.api.lists import Listing

Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler: TypeAlias = Callable[[Desk, Call], Awaitable[Response]]


class Parameter(NamedTuple):
    """One parameter of the query string."""

    name: str
    description: str
    schema: Mapping[str, Any] = {"type": "string"}
    repeated: bool = False


class Operation(NamedTuple):
    """One method on one path."""

    method: Method
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Any]
    """Status codes of success, each with the type of its body; None for an empty one."""
    tag: str
    body: Any = None
    """Type of the body; None for no body."""
    media_type: str = JSON
    body_optional: bool = False
    body_limit: int = BODY_LIMIT
    query: tuple[Parameter, ...] = ()
    conditional: bool = False
    """Needs `If-Match`."""
    problems: tuple[str, ...] = ()
    """Types of problems that this operation has of its own."""
    needs_mirror: bool = True
    takes_key: bool = True
    """Whether a POST heeds `Idempotency-Key`."""
    streams: str = ""
    """The media type of an endless answer, for those who accept it."""

    @property
    def is_read(self) -> bool:
        return self.method == "GET"


MIN_REVISION = Parameter(
    "minRevision",
    "Wait until this replica has seen the revision (a `Dragonfly-Revision` of an earlier answer); 504 if it does not.",
    {"type": "integer", "minimum": 0},
)


def list_parameters(listing: Listing) -> tuple[Parameter, ...]:
    """What every list of this kind can be asked."""
    return (
        Parameter("q", "Words that must all occur somewhere in the resource."),
        Parameter("labelSelector", "As in Kubernetes: `a=b,c!=d,e in (f,g),h,!i`.", repeated=True),
        Parameter("tag", "A tag that the resource has; several must all be there.", repeated=True),
        *(
            Parameter(name, f"The resource's {name}; one of several will do.", repeated=True)
            for name in listing.filters
        ),
        Parameter(
            "sort",
            f"One of {', '.join(listing.sorts)}; a leading `-` turns the order round.",
            {"type": "string", "default": listing.default_sort},
        ),
        Parameter("limit", "Resources on a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
        Parameter("cursor", "Go on after an earlier page, with its `cursor`; same filters and order."),
        Parameter("fields", "Show these fields only, such as `metadata.name,status.phase`."),
    )


class Collection(NamedTuple):
    """What is alike in the routes of every kind of resource; each is declared with its handler and what differs."""

    tag: str
    """What the kind is called in paths: its plural."""
    view: Any
    input: Any

    def list(self, handler: Handler, summary: str, listing: Listing) -> Operation:
        return Operation(
            "GET", self._path(), handler, summary, {200: [self.view]}, self.tag, query=list_parameters(listing)
        )

    def create(self, handler: Handler, summary: str, *problems: str) -> Operation:
        taken = ("invalid", "already-exists", *problems)
        return Operation(
            "POST", self._path(), handler, summary, {201: self.view}, self.tag, body=self.input, problems=taken
        )

    def read(self, handler: Handler, summary: str) -> Operation:
        return Operation(
            "GET", self._path("{name}"), handler, summary, {200: self.view}, self.tag, problems=("not-found",)
        )

    def replace(self, handler: Handler, summary: str, *problems: str) -> Operation:
        whole = self._change("PUT", handler, summary, problems)
        return whole._replace(body=self.input)

    def patch(self, handler: Handler, summary: str, *problems: str) -> Operation:
        part = self._change("PATCH", handler, summary, problems)
        return part._replace(body=dict[str, Any], media_type=MERGE_PATCH)

    def delete(self, handler: Handler, summary: str, *problems: str) -> Operation:
        return Operation(
            "DELETE",
            self._path("{name}"),
            handler,
            summary,
            {204: None},
            self.tag,
            conditional=True,
            problems=("not-found", *problems),
        )

    def act(
        self, verb: str, handler: Handler, summary: str, answers: Mapping[int, Any], *problems: str, body: Any = None
    ) -> Operation:
        """Something that is done with one resource: a POST to a path below it."""
        path = self._path("{name}", verb)
        there = ("not-found", *problems)
        return Operation("POST", path, handler, summary, answers, self.tag, body=body, problems=there)

    def below(self, noun: str, handler: Handler, summary: str, view: Any) -> Operation:
        """List what belongs to one resource."""
        path = self._path("{name}", noun)
        return Operation("GET", path, handler, summary, {200: [view]}, self.tag, problems=("not-found",))

    def _change(self, method: Method, handler: Handler, summary: str, problems: tuple[str, ...]) -> Operation:
        path, answers = self._path("{name}"), {200: self.view}
        there = ("not-found", "invalid", *problems)
        return Operation(method, path, handler, summary, answers, self.tag, conditional=True, problems=there)

    def _path(self, *below: str) -> str:
        return "/".join(("/api/v1", self.tag, *below))
