"""`dragonfly install`: a bare host becomes a server of a cluster with Tinkerbell and a swarm behind a load balancer."""

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.install_telling import (
    TOKEN_COMMAND,
    Teller,
    manifests_of,
    plan_document,
    plan_event,
    tell_checks,
    tell_plan,
    write_json,
)
from dragonfly.cli.session import console
from dragonfly.install import host_survey
from dragonfly.install.again import K3S_STEP
from dragonfly.install.execution import Event, StepFailed, Stopped, Tell, install
from dragonfly.install.hands import RealHands
from dragonfly.install.host import Host
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.options import K3S_VERSION, TINKERBELL_VERSION, BadOptions, Options, checked
from dragonfly.install.plan import plan as plan_for
from dragonfly.install.preflight import errors, preflight
from dragonfly.install.progress import planned
from dragonfly.install.record_kept import anothers, made_here
from dragonfly.install.recorded import CLUSTERS, Seen, Server, UnknownRecord, cluster_wide
from dragonfly.install.said import Said, brings_image, on_top, said_from, taken_up
from dragonfly.install.stage import JOINED
from dragonfly.install.steps import Plan
from dragonfly.install.survey import DIRECTORY
from dragonfly.install.survey import JOURNAL as IN_DIRECTORY
from dragonfly.settings import Address, parse_address

if TYPE_CHECKING:
    from dragonfly.cli.progress_page import ProgressPage

JOURNAL: Final = DIRECTORY / IN_DIRECTORY
PROGRESS_PAGE: Final = "127.0.0.1:3001"

_PLAIN: Final = (
    "It speaks plain HTTP, and /metrics, /healthz and /readyz need no token: where the network is not yours alone, put "
    "a load balancer that ends TLS in front."
)
_WHERE_ELSE: Final = (
    "To bring another image or another Tinkerbell: dragonfly upgrade, on any server. All else of the cluster: "
    "dragonfly install, on the server that founded it (docs/install.md, Said again)."
)


@click.command(name="install")
@click.option("--etcd", type=click.Choice(["shared", "dedicated", "external"]), default=None, show_default="shared",
              help="Whose etcd the swarm uses: the control plane's, one of its own, or somebody else's. With --join, "
              "what the cluster says.")  # fmt: skip
@click.option("--etcd-endpoints", metavar="URL,…", default=None, help="With external: its members.")
@click.option("--etcd-ca-file", metavar="FILE", default=None, help="With external: the CA of its certificates.")
@click.option("--etcd-username", default=None, help="With external: a user confined to the swarm's prefix.")
@click.option("--etcd-password-file", metavar="FILE", default=None, help="With external: that user's password.")
@click.option("--join", metavar="SERVER", default=None, help="Make this host one more server of that one's cluster.")
@click.option("--token-file", metavar="FILE", default=None, help="With --join: the cluster's token.")
@click.option("--floating-ip", metavar="ADDRESS", default=None, help="The swarm's, which moves between hosts.")
@click.option("--tinkerbell-ip", metavar="ADDRESS", default=None, help="The same for Tinkerbell.")
@click.option("--artifacts-ip", metavar="ADDRESS", default=None, help="The same for the files of HookOS.")
@click.option("--artifacts-url", metavar="URL", default=None, help="Where the files of HookOS are already.")
@click.option("--airgap", metavar="DIR", default=None,
              help="Take everything from this directory, which `dragonfly bundle` made.")  # fmt: skip
@click.option("--image", metavar="REF", default=None, help="Of a replica, where this host can pull it.")
@click.option("--image-archive", metavar="FILE", default=None, help="Of a replica, as `make image` makes it.")
@click.option("--k3s-version", default=None, show_default=K3S_VERSION)
@click.option("--tinkerbell-version", default=None, show_default=TINKERBELL_VERSION)
@click.option("--site", metavar="NAME", default=None, help="Where this cluster is, such as fra1.")
@click.option("--dhcp/--no-dhcp", default=None, show_default="dhcp",
              help="Whether Tinkerbell answers DHCP; else another server does, and points to it.")  # fmt: skip
@click.option("--dry-run", is_flag=True,
              help="Print the checks, the plan and the manifests; change and send nothing.")  # fmt: skip
@click.option("--probe", is_flag=True,
              help="With --dry-run: ask the wire too, by ARP and DHCP, as an installation does first.")  # fmt: skip
@click.option("--progress-page", metavar="ADDRESS:PORT", default=PROGRESS_PAGE, show_default=True,
              help="Where a page shows how far it is, to whoever can reach that address, while it runs.")  # fmt: skip
@click.option("--no-progress-page", is_flag=True, help="Serve no such page.")
@click.option("--yes", is_flag=True, help="Ask nobody.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: an event a line.")
def install_command(
    *,
    dry_run: bool,
    probe: bool,
    progress_page: str,
    no_progress_page: bool,
    yes: bool,
    output: str,
    **given: Any,
) -> int:
    """Make this host a server: k3s with its etcd, Tinkerbell, three replicas behind a load balancer.

    Said again, it goes on where it stopped, repairs what has changed, and changes nothing if all is as it should be.
    What you don't say stays as it is: on this host, and in the cluster, whichever server has changed that. The defaults
    are for what was never said.
    """
    journal = Journal(JOURNAL)
    try:
        asked = _asked(said_from(given, Path.cwd()), journal)
        if dry_run:
            return _dry(asked, journal, asks_wire=probe, as_json=output == "json")
        if probe:
            raise CliError("--probe goes with --dry-run alone: an installation always asks the wire", Exit.USAGE)
        page = None if no_progress_page else _page_address(progress_page)
        return _install(asked, journal, page, yes=yes, as_json=output == "json")
    except BadOptions as error:
        raise CliError("these options make no sense:\n  " + "\n  ".join(error.problems), Exit.USAGE) from error
    except (Busy, UnknownJournal, UnknownRecord) as error:
        raise CliError(str(error), Exit.REFUSED) from error


class _Asked(NamedTuple):
    """What this host is to be."""

    options: Options
    seen: Seen
    brought: bool | None
    """Whether a file brings the image of replicas; None if nobody says."""


def _asked(said: Said, journal: Journal) -> _Asked:
    """Return what was said, on top of what is so.

    Raises:
        BadOptions: that makes no sense.
        CliError: it is not this host's to say.
        UnknownJournal: the journal cannot be read.
        UnknownRecord: a newer Dragonfly wrote the cluster's record.
    """
    own = on_top(journal.options(), said)
    _leave_to_the_cluster(own, said, journal)
    seen = _seen(own, journal)
    return _Asked(checked(taken_up(own, said, anothers(seen, journal))), seen, brings_image(said))


def _leave_to_the_cluster(own: Options, said: Said, journal: Journal) -> None:
    """Refuse what a server that has joined would have no effect with."""
    its = [name for name in CLUSTERS if name in said]
    if own.is_first or "join" in said or not its or K3S_STEP not in journal.records():
        return
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in its)
    raise CliError(
        f"{flags}: of the whole cluster, which this host has joined; nothing was changed", Exit.REFUSED, _WHERE_ELSE
    )


def _seen(options: Options, journal: Journal) -> Seen:
    """Return what the cluster tells the host that founded it: other servers may have changed it since."""
    if not options.is_first or K3S_STEP not in journal.records() or os.geteuid() != 0:
        return Seen(None)
    try:
        return installed_hands(journal).installation()
    except StepFailed:
        return Seen(None)  # what does not answer is to be repaired


def _plan(asked: _Asked, facts: HostFacts, journal: Journal) -> Plan:
    options, seen, cluster = asked.options, asked.seen, None
    if options.is_first:
        cluster = cluster_wide(options, Server(facts.hostname, facts.address), seen, brought=asked.brought)
        if seen.text is None and (last := made_here(journal)):
            cluster = cluster._replace(before=last)
    return plan_for(options, facts, images=host_survey.image_files(options.airgap), cluster=cluster)


def _page_address(text: str) -> Address:
    try:
        address = parse_address(text)
        ipaddress.ip_address(address.host)
    except ValueError as error:
        raise CliError(
            f"--progress-page: must be an address of this host and a port, such as {PROGRESS_PAGE}, not {text!r}",
            Exit.USAGE,
        ) from error
    return address


def _install(asked: _Asked, journal: Journal, page: Address | None, *, yes: bool, as_json: bool) -> int:
    out = console()
    facts = host_survey.survey(asked.options, journal)
    checks = preflight(asked.options, facts)
    plan = _plan(asked, facts, journal)
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
    if as_json:
        write_json(plan_event(plan))
    else:
        out.print()
        tell_plan(plan, out)
    _confirm(plan, yes=yes)
    with journal.alone(), open_page(page, facts.hostname, plan, as_json=as_json) as looked_at:
        return _carry_out(asked, plan, journal, looked_at, as_json=as_json)


def _dry(asked: _Asked, journal: Journal, *, asks_wire: bool, as_json: bool) -> int:
    facts = host_survey.survey(asked.options, journal, asks_wire=asks_wire)
    checks = preflight(asked.options, facts)
    plan = _plan(asked, facts, journal)
    code = Exit.REFUSED if errors(checks) else Exit.OK
    if as_json:
        write_json(plan_document(checks, plan))
        return code
    out = console()
    tell_checks(checks, out)
    out.print()
    tell_plan(plan, out)
    out.print()
    out.file.write(manifests_of(plan))
    return code


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


@contextlib.contextmanager
def open_page(address: Address | None, hostname: str, plan: Plan, *, as_json: bool) -> "Iterator[ProgressPage | None]":
    """Serve the page for the block, and tell where, or why there is none: it is no reason to install nothing."""
    if address is None:
        yield None
        return
    from dragonfly.cli.progress_page import ProgressPage

    try:
        page = ProgressPage(address, planned(hostname, plan))
    except OSError as error:
        _tell_page("", f"no page shows the progress: {address}: {error.strerror}", as_json=as_json)
        yield None
        return
    with page:
        _tell_page(page.url, f"The progress is also at {page.url}", as_json=as_json)
        yield page


def _tell_page(url: str, text: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"event": "page", "url": url, "text": text})
    else:
        console().print(text, soft_wrap=True)


def _carry_out(asked: _Asked, plan: Plan, journal: Journal, page: "ProgressPage | None", *, as_json: bool) -> int:
    was_shown = bool(journal.address())
    options = asked.options
    journal.asked(options, asked.seen.text)
    hands = installed_hands(journal)
    try:
        with Teller(console(), as_json=as_json) as teller:
            address = install(plan, hands, journal, _both(teller, page))
    except Stopped as stopped:
        failure = CliError(what_stands(stopped), Exit.FAILED, how_to_go_on(stopped, "install"))
        if page:
            page.end("failed", failure.message, failure.advice)
        raise failure from stopped
    if page:
        page.end("done", f"Dragonfly answers at {address}" if address else "This host is a server of the cluster.")
    journal.installed(address or JOINED)
    token = hands.secrets.admin_token() if options.is_first and not was_shown else ""
    _tell_end(options, address, token, hands.remark(), as_json=as_json)
    return Exit.OK


def _both(teller: Teller, page: "ProgressPage | None") -> Tell:
    def tell(event: Event) -> None:
        teller(event)
        if page:
            page(event)

    return tell


def what_stands(stopped: Stopped) -> str:
    done = ", ".join(step.name for step in stopped.done) or "nothing"
    missing = ", ".join(step.name for step in stopped.missing)
    return f"{stopped}\nWhat stands: {done}\nWhat is missing: {missing}"


def how_to_go_on(stopped: Stopped, command: str) -> str:
    going_on = f"To go on from there: dragonfly {command}\nTo take everything back: dragonfly uninstall"
    return f"{stopped.reason.remedy}\n{going_on}" if stopped.reason.remedy else going_on


def _tell_end(options: Options, address: str, token: str, remark: str, *, as_json: bool) -> None:
    if as_json:
        said = {"address": address, "token": token, "host": os.uname().nodename}
        write_json({"event": "installed", **said, **({"etcd": remark} if remark else {})})
        return
    out = console()
    out.print()
    if remark:
        out.print(remark, soft_wrap=True)
    if not options.is_first:
        out.print("This host is a server of the cluster.", soft_wrap=True)
        return
    out.print(f"Dragonfly answers at {address}", soft_wrap=True)
    out.print(_PLAIN, soft_wrap=True)
    if token:
        out.print(f"The admin's token, shown this once: {token}", soft_wrap=True)
    out.print(f"The admin's token is kept in a Secret: {TOKEN_COMMAND}", soft_wrap=True)
    out.print(f"Try: DRAGONFLY_SERVER={address} DRAGONFLY_TOKEN=… dragonfly status", soft_wrap=True)


def installed_hands(journal: Journal) -> RealHands:
    """Return what acts on this host."""
    return RealHands(Host(), journal.saved)
