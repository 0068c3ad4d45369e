"""Lists: filter, sort, page, project. Pure: rows and a query go in, JSON comes out.

Pages are bound to places, not to numbers: a cursor says after which resource to go on and at which revision the list
began. What exists the whole time is on exactly one page; what comes or goes meanwhile may or may not be on one.
"""

import base64
import binascii
import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from dragonfly.api.catalog import Row
from dragonfly.model.selectors import Requirement, requirements
from dragonfly.model.values import FieldError, Invalid

LIMIT: Final = 100
MOST: Final = 1_000

Query: TypeAlias = Mapping[str, list[str]]
"""Each parameter of the query string with its values."""


class Listing(NamedTuple):
    """What can be asked of the lists of one kind."""

    kind: str
    filters: tuple[str, ...]
    """Facets to filter by."""
    sorts: tuple[str, ...]
    """Facets to sort by."""
    default_sort: str


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: the facet and the name of its last resource; `query` tells lists apart."""

    revision: int
    query: str
    facet: str
    name: str


class Wanted(NamedTuple):
    """A query, understood."""

    words: tuple[str, ...]
    selector: tuple[Requirement, ...]
    tags: frozenset[str]
    facets: tuple[tuple[str, frozenset[str]], ...]
    sort: str
    descending: bool
    limit: int
    cursor: Cursor | None
    fields: tuple[tuple[str, ...], ...]
    digest: str


def wanted(query: Query, listing: Listing) -> Wanted:
    """Understand a query string.

    Raises:
        Invalid: a parameter's value is not allowed.
    """
    sort = _one(query, "sort", listing.default_sort)
    if sort.lstrip("-") not in listing.sorts or sort.startswith("--"):
        allowed = ", ".join(listing.sorts)
        raise Invalid([FieldError("?sort", f"must be one of {allowed}; a leading - turns the order round", sort)])
    digest = _digest(query)
    return Wanted(
        words=tuple(" ".join(query.get("q", [])).lower().split()),
        selector=requirements(",".join(query.get("labelSelector", []))),
        tags=frozenset(query.get("tag", [])),
        facets=tuple((name, frozenset(query[name])) for name in listing.filters if name in query),
        sort=sort.lstrip("-"),
        descending=sort.startswith("-"),
        limit=_limit(_one(query, "limit", str(LIMIT))),
        cursor=_cursor(_one(query, "cursor", ""), digest),
        fields=tuple(tuple(path.split(".")) for path in ",".join(query.get("fields", [])).split(",") if path),
        digest=digest,
    )


def page(rows: list[Row], wish: Wanted, listing: Listing, revision: int) -> bytes:
    """Return one page as the JSON of a list; `rows` are in order of their names."""
    matching = _matching(rows, wish)
    rest = _rest(matching, wish)
    shown = rest[: wish.limit]
    parts = [
        b'{"kind":"%sList","revision":%d,"total":%d,"items":[' % (listing.kind.encode(), revision, len(matching)),
        b",".join(_projected(row.json(), wish.fields) for row in shown),
        b"]",
    ]
    if len(rest) > len(shown):
        began = wish.cursor.revision if wish.cursor is not None else revision
        last = Cursor(began, wish.digest, shown[-1].facets.get(wish.sort, ""), shown[-1].name)
        parts.append(b',"cursor":"%s"' % base64.urlsafe_b64encode(msgspec.json.encode(last)).rstrip(b"="))
    return b"".join((*parts, b"}"))


def _matching(rows: list[Row], wish: Wanted) -> list[Row]:
    """Apply the cheapest filters first: each sees only what the ones before let through."""
    for name, values in wish.facets:
        rows = [row for row in rows if row.facets.get(name) in values]
    for tag in wish.tags:
        rows = [row for row in rows if tag in row.tags]
    for requirement in wish.selector:
        rows = _labelled(rows, requirement)
    for word in wish.words:
        rows = [row for row in rows if word in row.haystack]
    return rows


def _labelled(rows: list[Row], requirement: Requirement) -> list[Row]:
    key, values, wanted = requirement
    if values is None:
        return [row for row in rows if (key in row.labels) == wanted]
    return [row for row in rows if (row.labels.get(key) in values) == wanted]


def _rest(rows: list[Row], wish: Wanted) -> list[Row]:
    """Put the rows in order, and leave out those up to the cursor; those alike stay in order of their names."""
    facet = wish.sort

    def place(row: Row) -> tuple[str, str]:
        return row.facets.get(facet, ""), row.name

    ordered = rows if facet == "name" else sorted(rows, key=lambda row: row.facets[facet])
    cursor = wish.cursor
    if cursor is None:
        return ordered[::-1] if wish.descending else ordered
    after = (cursor.facet, cursor.name)
    if wish.descending:
        return ordered[: bisect_left(ordered, after, key=place)][::-1]
    return ordered[bisect_right(ordered, after, key=place) :]


def _projected(document: bytes, fields: tuple[tuple[str, ...], ...]) -> bytes:
    if not fields:
        return document
    whole = msgspec.json.decode(document)
    part: dict[str, Any] = {}
    for path in fields:
        _copy(whole, part, path)
    return msgspec.json.encode(part)


def _copy(source: Any, target: dict[str, Any], path: tuple[str, ...]) -> None:
    first, *rest = path
    if not isinstance(source, dict) or first not in source:
        return
    if rest:
        inner = target.setdefault(first, {})
        if isinstance(inner, dict):
            _copy(source[first], inner, tuple(rest))
        return
    target[first] = source[first]


def _one(query: Query, name: str, default: str) -> str:
    values = query.get(name, [default])
    if len(values) > 1:
        raise Invalid([FieldError(f"?{name}", "may be given once", values)])
    return values[0]


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MOST):
        raise Invalid([FieldError("?limit", f"must be 1 to {MOST}", text)])
    return int(text)


def _cursor(text: str, digest: str) -> Cursor | None:
    if not text:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        cursor = msgspec.json.decode(raw, type=Cursor)
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise Invalid([FieldError("?cursor", "must be what an earlier page gave", text)]) from error
    if cursor.query != digest:
        raise Invalid([FieldError("?cursor", "belongs to a list with other filters or another order", text)])
    return cursor


def _digest(query: Query) -> str:
    """Tell lists apart by what they hold and in which order; page size and projection may change between pages."""
    what = {name: sorted(query[name]) for name in sorted(query.keys() - {"cursor", "limit", "fields", "minRevision"})}
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:12]
