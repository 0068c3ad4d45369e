"""`dragonfly uninstall`: takes back what `dragonfly install` did to this host."""

import os

import click

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.install import JOURNAL, installed_hands
from dragonfly.cli.install_telling import Teller, write_json
from dragonfly.cli.session import console
from dragonfly.install.execution import Remains, StepFailed, uninstall
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.steps import in_words


@click.command(name="uninstall")
@click.option(
    "--delete-data", is_flag=True, help="Delete the cluster's data too: machines, templates, history, secrets."
)
@click.option("--yes", is_flag=True, help="Ask nobody.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: an event a line.")
def uninstall_command(*, delete_data: bool, yes: bool, output: str) -> int:
    """Take back, in reverse order, what was installed on this host.

    What is installed on machines stays as it is, always. The cluster's data stays on this host, for an installation
    that comes later, unless it is to be deleted.
    """
    if os.geteuid() != 0:
        raise CliError("this changes the host: run it as root", Exit.REFUSED, "sudo dragonfly uninstall")
    journal = Journal(JOURNAL)
    if not journal.exists():
        journal.remove()
        raise CliError("nothing is installed here", Exit.NOT_FOUND)
    if not yes:
        _confirm(delete_data=delete_data)
    try:
        with journal.alone():
            remains = _carried_out(journal, delete_data=delete_data, as_json=output == "json")
    except (Busy, UnknownJournal) as error:
        raise CliError(str(error), Exit.REFUSED) from error
    _tell(remains, as_json=output == "json")
    return Exit.OK


def _confirm(*, delete_data: bool) -> None:
    if not is_somebody_there():
        raise CliError("nobody is at a terminal to be asked; nothing was changed", Exit.USAGE, "Say --yes.")
    data = ", and delete the cluster's data for ever" if delete_data else "; the cluster's data stays"
    ask(f"Take Dragonfly, Tinkerbell and k3s off this host{data}?")


def _carried_out(journal: Journal, *, delete_data: bool, as_json: bool) -> Remains:
    hands = installed_hands(journal)
    try:
        with Teller(console(), as_json=as_json) as teller:
            remains = uninstall(hands, journal, teller, delete_data=delete_data)
    except StepFailed as error:
        advice = "What was taken back stays so. To go on: dragonfly uninstall"
        raise CliError(str(error), Exit.FAILED, f"{error.remedy}\n{advice}" if error.remedy else advice) from error
    if not remains.kept:
        journal.remove()
    return remains


def _tell(remains: Remains, *, as_json: bool) -> None:
    if as_json:
        write_json({"event": "uninstalled", "kept": [in_words(undo) for undo in remains.kept]})
        return
    out = console()
    out.print()
    if remains.kept:
        out.print("The cluster's data stays. To delete it: dragonfly uninstall --delete-data", soft_wrap=True)
    out.print("What is installed on machines was not touched.", soft_wrap=True)
