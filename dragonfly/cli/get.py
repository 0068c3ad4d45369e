"""`dragonfly get`: lists for people and for scripts, once or followed."""

import difflib
import functools
from collections.abc import Iterable
from typing import Any

import click

from dragonfly.cli import documents
from dragonfly.cli.client import Answer, Query
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.follow import followed
from dragonfly.cli.kinds import MACHINES, TEMPLATES, WEBHOOKS, Cell, Column, Kind, name_of
from dragonfly.cli.listing import Listing, read_all
from dragonfly.cli.names import NameType, kind_and_names
from dragonfly.cli.session import Session, connected
from dragonfly.cli.table import Table, cells, print_table
from dragonfly.client.stream import Event


@click.command
@kind_and_names(least=0)
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml", "name"]), default="table")
@click.option("-l", "--selector", metavar="SELECTOR", help="Labels, as in Kubernetes: site=fra1,disk!=hdd.")
@click.option("--tag", metavar="TAG", help="Only what has this tag.")
@click.option("--phase", metavar="PHASE", help="Only what is in this phase.")
@click.option("--cluster", metavar="NAME", help="Only machines and provisions of this cluster.")
@click.option("--machine", type=NameType(MACHINES), metavar="NAME", help="Only provisions of this machine.")
@click.option("--template", type=NameType(TEMPLATES), metavar="NAME", help="Only provisions of this template.")
@click.option("-q", "--query", metavar="TEXT", help="Only what has this text in it.")
@click.option("--sort", metavar="FIELD", help="Order by this field; -FIELD turns it round.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; everything without it.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes, until Ctrl-C.")
@connected
def get(  # noqa: PLR0917 - click passes what the user said
    session: Session,
    kind: Kind,
    names: tuple[str, ...],
    output: str,
    selector: str | None,
    tag: str | None,
    phase: str | None,
    cluster: str | None,
    machine: str | None,
    template: str | None,
    query: str | None,
    sort: str | None,
    limit: int | None,
    watch: bool,
) -> int:
    """List machines (m), templates (t), provisions (p), webhooks (w) or clusters (c), or show those named.

    Of several names the missing ones are told after the others were shown, with exit code 3.
    """
    special = {"phase": _phase(kind, phase), "cluster": cluster, "machine": machine, "template": template}
    filters = {"labelSelector": selector, "tag": tag, "q": query, "sort": sort, **_known(kind, special)}
    if names and any(value is not None for value in filters.values()):
        raise click.UsageError("filters choose from a list: give either names or filters")
    if watch and kind is WEBHOOKS:
        raise click.UsageError("webhooks cannot be followed: the feed does not tell of them")
    if watch:
        _watch(session, kind, names, filters, output)
    elif names:
        return _show_named(session, kind, names, output)
    else:
        _show_list(session, kind, read_all(session.client, kind, filters, limit), output)
    return Exit.OK


def _phase(kind: Kind, said: str | None) -> str | None:
    """Return the phase as the API spells it."""
    if said is None or not kind.phases:
        return said
    phases = {phase.lower(): phase for phase in kind.phases}
    if said.lower() in phases:
        return phases[said.lower()]
    near = difflib.get_close_matches(said.lower(), phases, n=1, cutoff=0.5)
    hint = f"Did you mean {phases[near[0]]}?" if near else f"There are {', '.join(kind.phases)}."
    raise click.UsageError(f"{said!r} is no phase of {kind.plural}. {hint}", click.get_current_context())


def _known(kind: Kind, special: dict[str, str | None]) -> Query:
    for name, value in special.items():
        if value is not None and name not in kind.filters:
            raise click.UsageError(f"{kind.plural} cannot be chosen by --{name}")
    return {name: value for name, value in special.items() if value is not None}


def _show_named(session: Session, kind: Kind, names: tuple[str, ...], output: str) -> Exit:
    if len(names) == 1:
        answer = session.client.get(kind.plural, names[0])
        if output in {"json", "yaml"}:
            session.write(documents.written(answer.document, output))
        else:
            _show_list(session, kind, Listing([answer.document], 1, answer.revision), output)
        return Exit.OK
    found, errors = _found(session, kind, names)
    if found or output in {"json", "yaml"}:
        revision = max((answer.revision for answer in found), default=0)
        _show_list(session, kind, Listing([answer.document for answer in found], len(found), revision), output)
    for error in errors:
        session.remark(error.message)
    return Exit.NOT_FOUND if errors else Exit.OK


def _found(session: Session, kind: Kind, names: tuple[str, ...]) -> tuple[list[Answer], list[CliError]]:
    found, errors = [], []
    for name in names:
        try:
            found.append(session.client.get(kind.plural, name))
        except CliError as error:
            if error.exit_code != Exit.NOT_FOUND:
                raise
            errors.append(error)
    return found, errors


def _show_list(session: Session, kind: Kind, listing: Listing, output: str) -> None:
    if output in {"json", "yaml"}:
        session.write(documents.written(listing.document(kind), output))
    elif output == "name":
        for item in listing.items:
            session.write(f"{kind.singular}/{name_of(item)}")
    elif not listing.items:
        session.remark(f"no {kind.plural}")
    else:
        columns = _columns(kind, output)
        rows = [cells(item, columns, session.now()) for item in listing.items]
        print_table([column.title for column in columns], rows, session.out)
        if len(listing.items) < listing.total:
            session.remark(f"{len(listing.items)} of {listing.total} {kind.plural}")


def _columns(kind: Kind, output: str) -> list[Column]:
    return [column for column in kind.columns if output == "wide" or not column.wide]


class _Changes:
    """Prints objects in the form that was asked for; the head of a table comes before the first of them."""

    def __init__(self, session: Session, kind: Kind, output: str) -> None:
        self._session = session
        self._kind = kind
        self._output = output
        self._columns = _columns(kind, output)
        self._table: Table | None = None

    def show(self, items: list[dict[str, Any]]) -> None:
        if self._output in {"table", "wide"} and items:
            self._rows([cells(item, self._columns, self._session.now()) for item in items])
            return
        for item in items:
            self._session.write(self._text(item))

    def _rows(self, rows: list[list[Cell]]) -> None:
        if self._table is None:
            self._table = Table([column.title for column in self._columns], self._session.out)
            self._table.fit(rows)
            self._table.header()
        for row in rows:
            self._table.row(row)

    def _text(self, item: dict[str, Any]) -> str:
        if self._output == "json":
            return documents.as_json_line(item)
        if self._output == "yaml":
            return f"---\n{documents.as_yaml(item)}"
        return f"{self._kind.singular}/{name_of(item)}"


def _watch(session: Session, kind: Kind, names: tuple[str, ...], filters: Query, output: str) -> None:
    """Print everything once, then each object whenever it has changed."""
    watched = _Watched(session, kind, output)
    look = functools.partial(_look, session, kind, names, filters)
    listing = look()
    watched.look(listing)
    query = {name: value for name, value in filters.items() if name != "sort"}
    query |= {"kind": kind.singular.capitalize(), "name": names}
    for revision in followed(session, query, listing.since):
        if any(event.type == "reset" for event in revision):
            watched.look(look())
        else:
            watched.changes(revision)


class _Watched:
    """What was shown last of each object, so that nothing is shown twice."""

    def __init__(self, session: Session, kind: Kind, output: str) -> None:
        self._session = session
        self._kind = kind
        self._printer = _Changes(session, kind, output)
        self._shown: dict[str, Any] = {}

    def look(self, listing: Listing) -> None:
        """Show how a list differs from what was shown."""
        self._show(listing.items)
        for name in self._shown.keys() - {name_of(item) for item in listing.items}:
            self._forget(name)

    def changes(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.type == "deleted":
                self._forget(event.name)
            else:
                self._show([self._whole(event)])

    def _whole(self, event: Event) -> dict[str, Any]:
        if not self._kind.told_in_part:
            return dict(event.object)
        try:
            query: Query = {"minRevision": event.revision}
            whole: dict[str, Any] = self._session.client.get(self._kind.plural, event.name, query=query).document
        except CliError as error:
            if error.exit_code != Exit.NOT_FOUND:
                raise
            return dict(event.object)  # that it is gone comes next
        return whole

    def _show(self, items: list[dict[str, Any]]) -> None:
        self._printer.show([item for item in items if self._shown.get(name_of(item)) != item])
        self._shown |= {name_of(item): item for item in items}
        self._session.out.file.flush()

    def _forget(self, name: str) -> None:
        if self._shown.pop(name, None) is not None:
            self._session.remark(f"{self._kind.singular} {name} is not in the list any more")


def _look(session: Session, kind: Kind, names: tuple[str, ...], filters: Query) -> Listing:
    """Read what is there now; `since` is no later than any of it."""
    if not names:
        return read_all(session.client, kind, filters)
    seen = session.client.get(kind.plural, query={"limit": 1}).revision
    found, _ = _found(session, kind, names)
    return Listing(
        [answer.document for answer in found],
        len(found),
        max((answer.revision for answer in found), default=seen),
        min([seen, *(answer.revision for answer in found)]),
    )
