"""`dragonfly power`: has a machine's BMC switch it, and waits for the result if told to."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

import click

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import at, name_of, text_at
from dragonfly.cli.session import Session, connected
from dragonfly.model.power import PowerAction

_POLL: Final = 0.5
_SILENCE: Final = 300.0
"""Seconds without any answer after which waiting is of no use."""


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


def _result(
    session: Session, machine: str, name: str, timeout: float | None, clock: Callable[[], float] = time.monotonic
) -> Mapping[str, Any] | None:
    """Wait until the machine tells the result of the power action `name`; None if `timeout` (seconds) ends first.

    Raises:
        CliError: the machine or the result is gone, or nobody has answered for five minutes.
    """
    deadline = float("inf") if timeout is None else clock() + timeout
    heard = clock()
    while clock() < deadline:
        try:
            found = session.client.get("machines", machine).document
        except CliError as error:
            if error.exit_code != Exit.UNREACHABLE or clock() - heard > _SILENCE:
                raise
        else:
            heard = clock()
            last = at(found, "status.lastPowerAction") or {}
            if text_at(last, "name") == name:
                return dict(last)
            _check_not_replaced(machine, name, text_at(last, "name"))
        session.pause(_POLL)
    return None


def _check_not_replaced(machine: str, name: str, last: str) -> None:
    """Names of power actions are in the order of time, and a machine keeps the last result only."""
    if last > name:
        raise CliError(f"{machine} has had another power action since; the result of this one is lost", Exit.FAILED)


def _words(result: Mapping[str, Any]) -> str:
    if result.get("succeeded"):
        return "done"
    return f"failed: {result.get('reason', '')}: {result.get('message', '')}"
