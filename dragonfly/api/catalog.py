"""All resources of a kind, ready to be filtered and sent: what a list costs is a pass over small rows in memory.

A row and its JSON are made once and kept until one of the keys that they are made of changes; so a list of 100 out of
10,000 encodes only what has changed since the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dragonfly.store.mirror import Mirror, Update


class Row:
    """What lists look at. `facets` are the values to filter and sort by; `haystack` is in lower case."""

    __slots__ = ("_encode", "document", "facets", "haystack", "labels", "name", "tags")

    def __init__(
        self,
        name: str,
        facets: Mapping[str, str],
        encode: Callable[[], bytes],
        *,
        labels: Mapping[str, str],
        tags: tuple[str, ...],
        haystack: str,
    ) -> None:
        self.name = name
        self.facets = facets
        self.labels = labels
        self.tags = tags
        self.haystack = haystack
        self.document: bytes | None = None
        self._encode = encode

    def json(self) -> bytes:
        """The resource as the API shows it now."""
        if self.document is None:
            self.document = self._encode()
        return self.document


NameIn: TypeAlias = Callable[[str], str | None]
"""Which resource a key belongs to."""


class Catalog:
    """Invariant: a row that `rows` returns is made of what the mirror holds at that moment."""

    def __init__(
        self,
        mirror: Mirror,
        build: Callable[[str], Row | None],
        made_of: Mapping[str, NameIn],
        shown_with: tuple[str, ...] = (),
    ) -> None:
        """Catalogue what the mirror has and will have.

        Args:
            build: makes the row of a name from the mirror; None if there is no such resource.
            made_of: the prefixes whose keys a row is made of.
            shown_with: prefixes that any document, but no row, may depend on.
        """
        self._build = build
        self._rows: dict[str, Row] = {}
        self._ordered: list[Row] = []
        self._changed: set[str] = set()
        self._are_documents_old = False
        """Forgotten when somebody asks, not at each of the many changes that come together."""
        for prefix, name_in in made_of.items():
            self._changed.update(name for held in mirror.under(prefix) if (name := name_in(held.key)) is not None)
            mirror.subscribe(prefix, self._noting(name_in))
        for prefix in shown_with:
            mirror.subscribe(prefix, self._note_old_documents)

    def rows(self) -> list[Row]:
        """All rows, by name."""
        self._forget_old_documents()
        if self._changed:
            added = [name for name in self._changed if self._refresh(name)]
            self._changed.clear()
            if added:
                # Nearly sorted already, which Python's sort passes over in linear time.
                self._rows = dict(sorted(self._rows.items(), key=lambda entry: entry[1].name))
            self._ordered = list(self._rows.values())
        return self._ordered

    def get(self, name: str) -> Row | None:
        if name in self._changed:
            return self._build(name)
        self._forget_old_documents()
        return self._rows.get(name)

    def _refresh(self, name: str) -> bool:
        """Make the row anew; whether there was none before."""
        row = self._build(name)
        if row is None:
            self._rows.pop(name, None)
            return False
        is_new = name not in self._rows
        self._rows[name] = row
        return is_new

    def _noting(self, name_in: NameIn) -> Callable[[Update], None]:
        def note(update: Update) -> None:
            name = name_in(update.key)
            if name is not None:
                self._changed.add(name)

        return note

    def _note_old_documents(self, _update: Update) -> None:
        self._are_documents_old = True

    def _forget_old_documents(self) -> None:
        if not self._are_documents_old:
            return
        self._are_documents_old = False
        for row in self._rows.values():
            row.document = None
