"""`dragonfly install`: a bare host becomes a server of a cluster with Tinkerbell and a swarm behind a load balancer."""

import os
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.install_telling import (
    TOKEN_COMMAND,
    Teller,
    manifests_of,
    plan_document,
    tell_checks,
    tell_plan,
    write_json,
)
from dragonfly.cli.session import console
from dragonfly.install import host_survey
from dragonfly.install.execution import Stopped, install
from dragonfly.install.hands import RealHands
from dragonfly.install.host import Host
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.options import K3S_VERSION, TINKERBELL_VERSION, BadOptions, ExternalEtcd, Options, checked
from dragonfly.install.plan import plan as plan_for
from dragonfly.install.preflight import Check, errors, preflight
from dragonfly.install.steps import Plan
from dragonfly.install.survey import DIRECTORY

JOURNAL: Final = DIRECTORY / "install"

_PATHS: Final = ("token_file", "airgap", "image_archive", "etcd_ca_file", "etcd_password_file")
"""Said relative to where the command runs; the journal keeps them, and is read from elsewhere."""


@click.command(name="install")
@click.option("--etcd", type=click.Choice(["shared", "dedicated", "external"]), default="shared", show_default=True,
              help="Whose etcd the swarm uses: the control plane's, one of its own, or somebody else's.")  # fmt: skip
@click.option("--etcd-endpoints", metavar="URL,…", default="", help="With external: its members.")
@click.option("--etcd-ca-file", metavar="FILE", default="", help="With external: the CA of its certificates.")
@click.option("--etcd-username", default="", help="With external: a user confined to the swarm's prefix.")
@click.option("--etcd-password-file", metavar="FILE", default="", help="With external: that user's password.")
@click.option("--join", metavar="SERVER", default="", help="Make this host one more server of that one's cluster.")
@click.option("--token-file", metavar="FILE", default="", help="With --join: the cluster's token.")
@click.option("--floating-ip", metavar="ADDRESS", default="", help="The swarm's, which moves between hosts.")
@click.option("--tinkerbell-ip", metavar="ADDRESS", default="", help="The same for Tinkerbell.")
@click.option("--artifacts-ip", metavar="ADDRESS", default="", help="The same for the files of HookOS.")
@click.option("--artifacts-url", metavar="URL", default="", help="Where the files of HookOS are already.")
@click.option("--airgap", metavar="DIR", default="",
              help="Take everything from this directory, which `dragonfly bundle` made.")  # fmt: skip
@click.option("--image", metavar="REF", default="", help="Of a replica, where this host can pull it.")
@click.option("--image-archive", metavar="FILE", default="", help="Of a replica, as `make image` makes it.")
@click.option("--k3s-version", default=K3S_VERSION, show_default=True)
@click.option("--tinkerbell-version", default=TINKERBELL_VERSION, show_default=True)
@click.option("--site", metavar="NAME", default="", help="Where this cluster is, such as fra1.")
@click.option("--no-dhcp", is_flag=True, help="Tinkerbell answers no DHCP: another server does, and points to it.")
@click.option("--dry-run", is_flag=True, help="Print the checks, the plan and the manifests, and change nothing.")
@click.option("--yes", is_flag=True, help="Ask nobody.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: an event a line.")
@click.pass_context
def install_command(context: click.Context, /, *, dry_run: bool, yes: bool, output: str, **given: Any) -> int:
    """Make this host a server: k3s with its etcd, Tinkerbell, three replicas behind a load balancer.

    Said again, it goes on where it stopped, repairs what has changed, and changes nothing if all is as it should be.
    Without options it takes those of the last time.
    """
    journal = Journal(JOURNAL)
    try:
        options = _options(context, given, journal)
        return _install(options, journal, dry_run=dry_run, yes=yes, as_json=output == "json")
    except BadOptions as error:
        raise CliError("these options make no sense:\n  " + "\n  ".join(error.problems), Exit.USAGE) from error
    except (Busy, UnknownJournal) as error:
        raise CliError(str(error), Exit.REFUSED) from error


def _options(context: click.Context, given: dict[str, Any], journal: Journal) -> Options:
    """Return what was said; what was said the last time if nothing was."""
    said = [name for name in given if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT]
    before = journal.options()
    if not said and before is not None:
        return before
    given |= {name: str(Path(given[name]).absolute()) for name in _PATHS if given[name]}
    external = {name: given.pop(f"etcd_{name}") for name in ("endpoints", "ca_file", "username", "password_file")}
    endpoints = tuple(part.strip() for part in external.pop("endpoints").split(",") if part.strip())
    is_external = bool(endpoints) or any(external.values())
    return checked(
        Options(
            dhcp=not given.pop("no_dhcp"),
            external=ExternalEtcd(endpoints=endpoints, **external) if is_external else None,
            **given,
        )
    )


def _install(options: Options, journal: Journal, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    out = console()
    facts = host_survey.survey(options, journal)
    checks = preflight(options, facts)
    plan = plan_for(options, facts, images=host_survey.image_files(options.airgap))
    if dry_run:
        _dry(checks, plan, as_json=as_json)
        return Exit.REFUSED if errors(checks) else Exit.OK
    if as_json:
        for check in checks:
            write_json({"event": "check", **msgspec.to_builtins(check)})
    else:
        tell_checks(checks, out)
    if bad := errors(checks):
        raise CliError(
            f"this host cannot carry an installation yet ({len(bad)} of {len(checks)} checks); nothing was changed",
            Exit.REFUSED,
            "\n".join(f"{check.name}: {check.remedy}" for check in bad) if as_json else "",
        )
    if not as_json:
        out.print()
        tell_plan(plan, out)
    _confirm(plan, yes=yes)
    with journal.alone():
        return _carry_out(options, plan, journal, as_json=as_json)


def _dry(checks: tuple[Check, ...], plan: Plan, *, as_json: bool) -> None:
    if as_json:
        write_json(plan_document(checks, plan))
        return
    out = console()
    tell_checks(checks, out)
    out.print()
    tell_plan(plan, out)
    out.print()
    out.file.write(manifests_of(plan))


def _confirm(plan: Plan, *, yes: bool) -> None:
    if yes:
        return
    if not is_somebody_there():
        raise CliError(
            "nobody is at a terminal to be asked; nothing was changed",
            Exit.USAGE,
            "Look at the plan with --dry-run, then say --yes.",
        )
    ask(f"Carry out these {len(plan.steps)} steps on this host?")


def _carry_out(options: Options, plan: Plan, journal: Journal, *, as_json: bool) -> int:
    was_shown = bool(journal.address())
    journal.asked(options)
    hands = installed_hands(journal)
    try:
        with Teller(console(), as_json=as_json) as teller:
            address = install(plan, hands, journal, teller)
    except Stopped as stopped:
        raise CliError(what_stands(stopped), Exit.FAILED, how_to_go_on(stopped, "install")) from stopped
    journal.installed(address or "joined")
    token = hands.secrets.admin_token() if options.is_first and not was_shown else ""
    _tell_end(options, address, token, as_json=as_json)
    return Exit.OK


def what_stands(stopped: Stopped) -> str:
    standing = ", ".join(step.name for step in stopped.standing) or "nothing"
    missing = ", ".join(step.name for step in stopped.missing)
    return f"{stopped}\nWhat stands: {standing}\nWhat is missing: {missing}"


def how_to_go_on(stopped: Stopped, command: str) -> str:
    going_on = f"To go on from there: dragonfly {command}\nTo take everything back: dragonfly uninstall"
    return f"{stopped.reason.remedy}\n{going_on}" if stopped.reason.remedy else going_on


def _tell_end(options: Options, address: str, token: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"event": "installed", "address": address, "token": token, "host": os.uname().nodename})
        return
    out = console()
    out.print()
    if not options.is_first:
        out.print("This host is a server of the cluster.", soft_wrap=True)
        return
    out.print(f"Dragonfly answers at {address}", soft_wrap=True)
    if token:
        out.print(f"The admin's token, shown this once: {token}", soft_wrap=True)
    out.print(f"It is kept in a Secret: {TOKEN_COMMAND}", soft_wrap=True)
    out.print(f"Try: DRAGONFLY_SERVER={address} DRAGONFLY_TOKEN=… dragonfly status", soft_wrap=True)


def installed_hands(journal: Journal) -> RealHands:
    """Return what acts on this host."""
    return RealHands(Host(), journal.saved)
