"""`dragonfly move`: moves machines to another cluster, and waits until they are there if told to."""

from typing import Any

import click

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import CLUSTERS, MACHINES, Document, at, name_of, text_at
from dragonfly.cli.names import NameType
from dragonfly.cli.session import Session, connected
from dragonfly.cli.waiting import wait_for


@click.command
@click.argument("machines", nargs=-1, required=True, metavar="MACHINE...", type=NameType(MACHINES))
@click.option("--cluster", required=True, metavar="NAME", type=NameType(CLUSTERS), help="Where to.")
@click.option("--force", is_flag=True, help="Leave what they have in a cluster that no replica reaches.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --force.")
@click.option("--wait", "waiting", is_flag=True, help="Wait until they are there and their objects are made.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Wait at most so long.")
@connected
def move(  # noqa: PLR0917 - click passes what the user said
    session: Session,
    machines: tuple[str, ...],
    cluster: str,
    force: bool,
    yes: bool,
    waiting: bool,
    timeout: float | None,
) -> int:
    """Move each MACHINE to another cluster. Nothing is installed, and what is installed stays.

    A machine that is being provisioned or switched, or is locked, refuses. Naming the cluster that it is in takes
    back a move that is under way. With --force a machine leaves a cluster that no replica reaches; what it has there
    stays there, and may act on it should that cluster come back.
    """
    if timeout is not None and not waiting:
        raise click.UsageError("--timeout needs --wait")
    if force and not yes:
        if not is_somebody_there():
            raise click.UsageError("nobody is there to be asked whether to move with force: say --yes")
        ask(f"Is the present cluster of {', '.join(machines)} gone for good?")
    accepted, code = _ask(session, machines, {"cluster": cluster, **({"force": True} if force else {})})
    if not waiting:
        return code
    return code or _wait(session, accepted, cluster, timeout)


def _ask(session: Session, machines: tuple[str, ...], body: dict[str, Any]) -> tuple[list[str], Exit]:
    """Ask for each machine; one that is refused keeps no other from being moved."""
    accepted, code = [], Exit.OK
    for machine in machines:
        try:
            document = session.client.post("machines", machine, "move", body=body).document
        except CliError as error:
            if len(machines) == 1:
                raise
            session.remark(f"{machine}: {error.message}")
            code = error.exit_code
            continue
        accepted.append(machine)
        is_moving = at(document, "status.moving") is not None
        session.write(f"machine {machine}: {'is being moved to' if is_moving else 'is in'} cluster {body['cluster']}")
    return accepted, code


def _wait(session: Session, machines: list[str], cluster: str, timeout: float | None) -> Exit:
    """Wait until all are there; RUNNING if `timeout` (seconds) ends first.

    Raises:
        CliError: a machine is gone, or nobody has answered for five minutes.
    """
    if wait_for(session, MACHINES, machines, _Moving(session, cluster), timeout):
        return Exit.OK
    session.remark(f"not there within {timeout:g} s; the move goes on")
    return Exit.RUNNING


class _Moving:
    """Tells which machines have arrived, and what holds the others up, once for each reason."""

    def __init__(self, session: Session, cluster: str) -> None:
        self._session = session
        self._cluster = cluster
        self._told = ""

    def take(self, document: Document) -> bool:
        if is_there(document, self._cluster):
            self._session.write(f"machine {name_of(document)}: moved to cluster {self._cluster}")
            return True
        if (reason := _held_up(document)) and reason != self._told:
            self._session.remark(reason)
            self._told = reason
        return False

    def quiet(self, name: str) -> None:
        """What holds a machine up is told by the machine itself."""


def is_there(machine: Document, cluster: str) -> bool:
    """Whether the machine is in the cluster, with all its objects."""
    return (
        text_at(machine, "spec.cluster", "local") == cluster and _condition(machine, "Synced").get("status") == "True"
    )


def _held_up(machine: Document) -> str:
    for kind in ("Moved", "Synced"):
        found = _condition(machine, kind)
        if found.get("status") == "False":
            return str(found.get("message", ""))
    return ""


def _condition(machine: Document, kind: str) -> Document:
    conditions = at(machine, "status.conditions") or []
    return next((found for found in conditions if found.get("type") == kind), {})
