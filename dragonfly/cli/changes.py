"""`dragonfly cancel`, `lock`, `unlock`, `delete`: one change to one thing at a time."""

import re
from typing import Any

import click

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import ApiError, CliError, Exit
from dragonfly.cli.kinds import MACHINES, PROVISIONS, TEMPLATES, WEBHOOKS, Kind, at, installed_os, name_of, text_at
from dragonfly.cli.listing import read_all
from dragonfly.cli.names import NameType, kind_and_names
from dragonfly.cli.session import Session, connected
from dragonfly.model.provision import TERMINAL

_SHOWN = 5
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


@click.command
@click.argument("name", metavar="PROVISION|MACHINE", type=NameType(MACHINES, PROVISIONS))
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with the provision.")
@connected
def cancel(session: Session, name: str, reason: str) -> None:
    """Stop a provision, named by itself or by its machine.

    What has not begun never begins. What runs on the machine is told to stop, and the machine is left as it is then.
    """
    provision = name if _ULID.fullmatch(name) else _active(session, name)
    answer = session.client.post("provisions", provision, "cancel", body={"reason": reason} if reason else {})
    phase = text_at(answer.document or {}, "status.phase", "Pending")
    session.write(f"provision {provision}: {'cancelled' if phase == 'Cancelled' else 'is being cancelled'}")


def _active(session: Session, machine: str) -> str:
    document = session.client.get("machines", machine).document
    name = text_at(document, "status.activeProvision.name")
    if not name:
        raise CliError(f"nothing is being provisioned on {machine}", Exit.REFUSED)
    return name


@click.command
@click.argument("machine", type=NameType(MACHINES))
@click.option("--reason", required=True, metavar="TEXT", help="Why; shown to everybody who is refused.")
@connected
def lock(session: Session, machine: str, reason: str) -> None:
    """Let nobody provision, power, change or delete MACHINE until it is unlocked."""
    session.client.post("machines", machine, "lock", body={"reason": reason})
    session.write(f"machine {machine}: locked")


@click.command
@click.argument("machine", type=NameType(MACHINES))
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")
@connected
def unlock(session: Session, machine: str, reason: str) -> None:
    """End the lock of MACHINE."""
    answer = session.client.get("machines", machine)
    # An old copy cannot say that nobody has locked it since.
    if not answer.stale and not at(answer.document, "spec.locked"):
        session.write(f"machine {machine}: was not locked")
        return
    session.client.post("machines", machine, "unlock", body={"reason": reason} if reason else {})
    session.write(f"machine {machine}: unlocked")


@click.command
@kind_and_names(only=(MACHINES, TEMPLATES, WEBHOOKS))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Forget a machine at once, whatever its cluster says.")
@connected
def delete(session: Session, kind: Kind, names: tuple[str, ...], yes: bool, force: bool) -> int:
    """Remove machines (m), templates (t) or webhooks (w). What is installed on a machine stays installed.

    One that cannot be removed keeps no other from being removed.
    """
    if force and kind is not MACHINES:
        raise click.UsageError(f"--force is for machines; {kind.plural} leave nothing behind")
    what = f"{kind.singular if len(names) == 1 else kind.plural} {', '.join(names)}"
    if not yes and not is_somebody_there():
        raise click.UsageError(f"nobody is there to be asked whether to delete {what}: say --yes")
    if kind is TEMPLATES:
        _tell_uses(session, names)
    if not yes:
        ask(f"Delete {what}?")
    code = Exit.OK
    for name in names:
        try:
            gone = _delete(session, kind, name, force=force)
            session.write(f"{kind.singular} {name}: {'deleted' if gone else 'is being deleted'}")
        except CliError as error:
            if error.exit_code == Exit.UNREACHABLE or len(names) == 1:
                raise
            session.remark(error.message)
            code = code or error.exit_code
    return code


def _tell_uses(session: Session, templates: tuple[str, ...]) -> None:
    """Tell what a template that is about to go was used for; nothing of that ends with it."""
    for name in templates:
        running = [phase for phase in PROVISIONS.phases if phase not in TERMINAL]
        provisions = read_all(session.client, PROVISIONS, {"template": name, "phase": tuple(running)}).items
        installed = read_all(session.client, MACHINES, {"q": name, "fields": "metadata.name,status.os"}).items
        machines = [name_of(item) for item in installed if installed_os(item) == name]
        if provisions:
            which = _some([text_at(item, "spec.machine") for item in provisions])
            session.remark(f"template {name} is being installed on {which}, which goes on")
        if machines:
            session.remark(f"template {name} is installed on {_some(machines)}, which stays so")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _delete(session: Session, kind: Kind, name: str, *, force: bool) -> bool:
    """Return whether it is gone already; the cluster's side of a machine may take a moment."""
    revision = at(session.client.get(kind.plural, name).document, "metadata.revision")
    try:
        answer = session.client.delete(kind.plural, name, revision=revision, query={"force": "true" if force else None})
    except ApiError as error:
        # The first try went unanswered, and had been carried out.
        if error.retried and error.exit_code == Exit.NOT_FOUND:
            return True
        raise
    return not _is_left(answer.document)


def _is_left(document: Any) -> bool:
    return isinstance(document, dict) and text_at(document, "status.phase") == "Deleting"
