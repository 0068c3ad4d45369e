"""`dragonfly events`: what changes, a line for each."""

from collections.abc import Iterable

import click

from dragonfly.cli import documents
from dragonfly.cli.errors import Exit
from dragonfly.cli.follow import followed
from dragonfly.cli.kinds import PHASE_STYLE, Cell, text_at
from dragonfly.cli.session import Session, connected
from dragonfly.cli.table import Table
from dragonfly.client.stream import Event

_TITLES = ("REVISION", "CHANGE", "KIND", "NAME", "PHASE")
_WIDTHS = ("12345678", "created", "Provision", "01JD0000000000000000000000", "Provisioning")
_STYLE = {"created": "green", "deleted": "red"}


@click.command
@click.option("--since", type=click.IntRange(min=0), metavar="REVISION", help="Begin after this revision, not now.")
@click.option(
    "--kind", type=click.Choice(["Machine", "Provision", "Template", "Cluster"], case_sensitive=False), multiple=True
)
@click.option("--name", metavar="NAME", multiple=True, help="Only these objects.")
@click.option("-l", "--selector", metavar="SELECTOR", help="Labels, as in Kubernetes: site=fra1,disk!=hdd.")
@click.option("--tag", metavar="TAG", help="Only what has this tag.")
@click.option("--phase", metavar="PHASE", multiple=True, help="Only what is in this phase; it is created on coming in.")
@click.option("--cluster", metavar="NAME", help="Only this cluster, and its machines and provisions.")
@click.option("--machine", metavar="NAME", help="Only this machine and its provisions.")
@click.option("--template", metavar="NAME", help="Only provisions of this template.")
@click.option("-q", "--query", metavar="TEXT", help="Only what has this text in it.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@connected
def events(  # noqa: PLR0917 - click passes what the user said
    session: Session,
    since: int | None,
    kind: tuple[str, ...],
    name: tuple[str, ...],
    selector: str | None,
    tag: str | None,
    phase: tuple[str, ...],
    cluster: str | None,
    machine: str | None,
    template: str | None,
    query: str | None,
    output: str,
) -> int:
    """Print each change as it happens, until Ctrl-C; with -o json, one document a line."""
    filters = {
        "kind": kind,
        "name": name,
        "labelSelector": selector,
        "tag": tag,
        "phase": phase,
        "cluster": cluster,
        "machine": machine,
        "template": template,
        "q": query,
    }
    printer = _Lines(session) if output == "json" else _Rows(session)
    for revision in followed(session, filters, since):
        printer.show(revision)
        session.out.file.flush()
    return Exit.OK


class _Lines:
    def __init__(self, session: Session) -> None:
        self._session = session

    def show(self, changes: Iterable[Event]) -> None:
        for change in changes:
            self._session.write(documents.as_json_line(change._asdict()))


class _Rows(_Lines):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._table = Table(_TITLES, session.out)
        self._table.fit([[Cell(text) for text in _WIDTHS]])
        self._table.header()

    def show(self, changes: Iterable[Event]) -> None:
        for change in changes:
            if change.type == "reset":
                self._session.remark(f"what happened up to revision {change.revision} cannot be told: {change.name}")
                continue
            phase = text_at(change.object, "status.phase")
            self._table.row(
                [
                    Cell(str(change.revision)),
                    Cell(change.type, _STYLE.get(change.type, "")),
                    Cell(change.kind),
                    Cell(change.name),
                    Cell(phase, PHASE_STYLE.get(phase, "")),
                ]
            )
