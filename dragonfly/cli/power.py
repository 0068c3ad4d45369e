"""`dragonfly power`: has a machine's BMC switch it, and waits for the result if told to."""

from collections.abc import Mapping
from typing import Any, get_args

import click

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import MACHINES, Document, at, name_of, text_at
from dragonfly.cli.session import Session, connected
from dragonfly.cli.waiting import wait_for
from dragonfly.model.power import PowerAction


@click.command
@click.argument("machine")
@click.argument("action", type=click.Choice(get_args(PowerAction)))
@click.option("--wait", "waiting", is_flag=True, help="Wait for the result; exit 0 only if it succeeds.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Wait at most so long.")
@connected
def power(session: Session, machine: str, action: str, waiting: bool, timeout: float | None) -> int:
    """Switch MACHINE on or off, cycle or reset it, or restart it from the network (pxe).

    Only `on` is possible while something is being installed; a locked machine refuses.
    """
    if timeout is not None and not waiting:
        raise click.UsageError("--timeout needs --wait")
    asked = session.client.post("machines", machine, "power", body={"action": action}).document
    if not waiting:
        session.write(f"machine {machine}: {action} accepted")
        return Exit.OK
    try:
        result = _result(session, machine, name_of(asked), timeout)
    except KeyboardInterrupt:
        session.remark(f"{action} of {machine} goes on")
        raise
    if result is None:
        session.remark(f"not ended within {timeout:g} s; {action} of {machine} goes on")
        return Exit.RUNNING
    session.write(f"machine {machine}: {action} {_words(result)}")
    return Exit.OK if result.get("succeeded") else Exit.FAILED


def _result(session: Session, machine: str, name: str, timeout: float | None) -> Mapping[str, Any] | None:
    """Wait until the machine tells the result of the power action `name`; None if `timeout` (seconds) ends first.

    Raises:
        CliError: the machine or the result is gone, or nobody has answered for five minutes.
    """
    awaited = _Awaited(machine, name)
    return awaited.result if wait_for(session, MACHINES, [machine], awaited, timeout) else None


class _Awaited:
    """The result of one power action of a machine, which keeps its last result only."""

    def __init__(self, machine: str, name: str) -> None:
        self._machine = machine
        self._name = name
        self.result: Mapping[str, Any] = {}

    def take(self, document: Document) -> bool:
        self.result = at(document, "status.lastPowerAction") or {}
        last = text_at(self.result, "name")
        if last > self._name:  # names of power actions are in the order of time
            message = f"{self._machine} has had another power action since; the result of this one is lost"
            raise CliError(message, Exit.FAILED)
        return last == self._name

    def quiet(self, name: str) -> None:
        """A BMC takes its time."""


def _words(result: Mapping[str, Any]) -> str:
    if result.get("succeeded"):
        return "done"
    return f"failed: {result.get('reason', '')}: {result.get('message', '')}"
