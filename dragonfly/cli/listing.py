"""Reads lists page by page."""

from typing import Any, NamedTuple

from dragonfly.cli.client import Client, Query
from dragonfly.cli.kinds import Kind

PAGE = 1000
"""The most that the API gives at once."""


class Listing(NamedTuple):
    items: list[dict[str, Any]]
    total: int
    revision: int
    since: int = 0
    """The revision of its first page: what has changed while the others were read has done so after it."""

    def document(self, kind: Kind) -> dict[str, Any]:
        """Return the list as the API would give it on one page."""
        return {"kind": kind.list_kind, "revision": self.revision, "total": self.total, "items": self.items}


def read_all(client: Client, kind: Kind, filters: Query, limit: int | None = None) -> Listing:
    """Return everything that passes the filters, or the first `limit` of it."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    since = 0
    while True:
        wanted = PAGE if limit is None else min(PAGE, limit - len(items))
        page = client.get(kind.plural, query={**filters, "limit": wanted, "cursor": cursor}).document
        items += page.get("items", [])
        since = since or page.get("revision", 0)
        cursor = page.get("cursor")
        if not cursor or (limit is not None and len(items) >= limit):
            return Listing(items, page.get("total", len(items)), page.get("revision", 0), since)
