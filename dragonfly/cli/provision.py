"""`dragonfly provision`: asks for provisions, and waits for their results if told to."""

import json
from typing import Any

import click

from dragonfly.cli import documents, times
from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import MACHINES, TEMPLATES, Document, at, installed_os, name_of, provision_phase, text_at
from dragonfly.cli.names import NameType, complete_machines_or_template
from dragonfly.cli.provisions import wait
from dragonfly.cli.session import Session, connected


class _Parameter(click.ParamType[tuple[str, Any]]):
    """`key=value`; the value is JSON if it reads as JSON, else a text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} must be KEY=VALUE", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


@click.command
@click.argument(
    "machines",
    nargs=-1,
    required=True,
    metavar="MACHINE...",
    type=NameType(MACHINES),
    shell_complete=complete_machines_or_template,
)
@click.argument("template", type=NameType(TEMPLATES))
@click.option("-p", "--parameter", "parameters", multiple=True, type=_Parameter(), help="Value for the template.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with the provision.")
@click.option("--wait", "waiting", is_flag=True, help="Show the progress; exit 0 only if all succeed.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Wait at most so long.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before what is installed is replaced.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml", "name"]), default="text")
@connected
def provision(  # noqa: PLR0917 - click passes what the user said
    session: Session,
    machines: tuple[str, ...],
    template: str,
    parameters: tuple[tuple[str, Any], ...],
    reason: str,
    waiting: bool,
    timeout: float | None,
    yes: bool,
    output: str,
) -> int:
    """Install TEMPLATE on each MACHINE: everything on its disks is replaced.

    Of machines that are in use it asks first, on a terminal; a script is told what it replaces, and not asked.

    A value of --parameter is taken as JSON where it reads as JSON (3, true, ["a"]), else as a text.
    """
    if timeout is not None and not waiting:
        raise click.UsageError("--timeout needs --wait")
    if not yes:
        _tell_replaced(session, machines)
    body = {"template": template, "parameters": dict(parameters), "reason": reason}
    accepted, refused = _ask(session, machines, {key: value for key, value in body.items() if value})
    if waiting and accepted:
        accepted, code = wait(session, accepted, timeout)
    else:
        code = Exit.OK
    _show(session, accepted, output)
    return refused or code


def _tell_replaced(session: Session, machines: tuple[str, ...]) -> None:
    """Tell what runs on the machines, and ask where there is somebody to be asked."""
    said = [sentence for machine in machines if (sentence := _runs(session, machine))]
    if not said:
        return
    *others, last = said
    for sentence in others:
        session.remark(sentence)
    what = "everything on its disks" if not others else f"everything on the disks of these {len(said)} machines"
    if is_somebody_there():
        ask(f"{last}; {what} will be replaced. Go on?")
    else:
        session.remark(f"{last}; {what} is replaced")


def _runs(session: Session, machine: str) -> str:
    """Return what a machine in use runs; empty for any other, and for one that is not there."""
    try:
        document = session.client.get("machines", machine).document
    except CliError as error:
        if error.exit_code != Exit.NOT_FOUND:
            raise
        # Asking for the provision is refused in the same words.
        return ""
    installed = times.moment(at(document, "status.os.installedAt"))
    if text_at(document, "status.phase") != "Deployed":
        return ""
    since = f" since {times.utc(installed)}" if installed else ""
    return f"{machine} runs {installed_os(document) or 'an installed system'}{since}"


def _ask(session: Session, machines: tuple[str, ...], body: dict[str, Any]) -> tuple[list[dict[str, Any]], Exit]:
    """Ask for each machine; one that is refused keeps no other from being provisioned."""
    accepted = []
    code = Exit.OK
    for machine in machines:
        try:
            accepted.append(session.client.post("machines", machine, "provision", body=body).document)
        except CliError as error:
            if len(machines) == 1:
                raise
            session.remark(f"{machine}: {error.message}")
            code = error.exit_code
        except KeyboardInterrupt:
            session.remark(
                f"{machine} may be provisioned all the same; see: dragonfly get provisions --machine {machine}"
            )
            raise
    return accepted, code


def _show(session: Session, provisions: list[dict[str, Any]], output: str) -> None:
    if output in {"json", "yaml"}:
        shown = provisions[0] if len(provisions) == 1 else {"kind": "ProvisionList", "items": provisions}
        session.write(documents.written(shown, output))
        return
    for item in provisions:
        session.write(f"provision/{name_of(item)}" if output == "name" else _sentence(item))


def _sentence(provision: Document) -> str:
    phase = provision_phase(provision)
    error = text_at(provision, "status.error.message")
    result = f"{phase}: {error}" if error else phase
    return f"{text_at(provision, 'spec.machine')}: provision {name_of(provision)} {result}"
