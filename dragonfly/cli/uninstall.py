"""`dragonfly uninstall`: takes back what `dragonfly install` did to this host."""

import os

import click
import msgspec

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.install import JOURNAL, installed_hands
from dragonfly.cli.install_telling import Teller, tell_way_back, way_back_event, write_json
from dragonfly.cli.session import console
from dragonfly.install.carriers import Carriers
from dragonfly.install.execution import Remains, StepFailed, uninstall, way_back
from dragonfly.install.hands import RealHands
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.own_members import tolerance
from dragonfly.install.steps import in_words


@click.command(name="uninstall")
@click.option(
    "--delete-data", is_flag=True, help="Delete the cluster's data too: machines, templates, history, secrets."
)
@click.option("--yes", is_flag=True, help="Ask nobody.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: an event a line.")
def uninstall_command(*, delete_data: bool, yes: bool, output: str) -> int:
    """Take back, in reverse order, what was installed on this host.

    While other servers carry the cluster, this host leaves it, and what is in it stays theirs. What is installed on
    machines stays as it is, always. The cluster's data stays on this host, for an installation that comes later, unless
    it is to be deleted.
    """
    if os.geteuid() != 0:
        raise CliError("this changes the host: run it as root", Exit.REFUSED, "sudo dragonfly uninstall")
    journal, as_json = Journal(JOURNAL), output == "json"
    if not journal.exists():
        journal.remove()
        raise CliError("nothing is installed here", Exit.NOT_FOUND)
    try:
        with journal.alone():
            hands = installed_hands(journal)
            carriers = _carriers(hands, journal, delete_data=delete_data)
            _tell_carriers(carriers, as_json=as_json)
            _tell_plan(journal, carriers, delete_data=delete_data, as_json=as_json)
            if not yes:
                _confirm(carriers, delete_data=delete_data)
                _look_again(hands, journal, carriers, delete_data=delete_data)
            remains = _carried_out(hands, journal, carriers, delete_data=delete_data, as_json=as_json)
    except (Busy, UnknownJournal) as error:
        raise CliError(str(error), Exit.REFUSED) from error
    _tell(remains, carriers, as_json=as_json)
    return Exit.OK


def _carriers(hands: RealHands, journal: Journal, *, delete_data: bool) -> Carriers:
    """Return who carries the cluster.

    Raises:
        CliError: others do, or may, and would be left without the swarm's data.
    """
    found = hands.carriers()
    if found.problem and (others := journal.left_to()):  # an uninstallation that was killed after it had left
        found = Carriers(found.host, others)
    if found.problem and delete_data and _may_have_the_last(hands, journal) and not _has_begun(journal):
        raise CliError(
            f"nobody can tell whether other servers carry the cluster on ({found.problem}), and this host has data of "
            "the swarm, maybe all that there is; nothing was changed",
            Exit.REFUSED,
            "Start k3s and say it again: systemctl start k3s. Or leave out --delete-data, which keeps that data here; "
            "if nobody needs it, say it with --delete-data after that.",
        )
    if found.loses_swarm:
        raise CliError(
            f"{_named(found.others)} the cluster on, and the swarm's own etcd cannot do without this host: "
            f"{found.etcd_problem}; nothing was changed",
            Exit.REFUSED,
            "Have more members first: dragonfly install, on each server that has none or whose member does not answer. "
            "Or take the other servers off before this one.",
        )
    return found


def _may_have_the_last(hands: RealHands, journal: Journal) -> bool:
    """Whether the swarm's data is here, in an etcd of its own or in the cluster's, and may be nowhere else."""
    return hands.has_swarms_data() or (bool(journal.address()) and hands.has_clusters_data())


def _has_begun(journal: Journal) -> bool:
    """Whether an uninstallation has taken something back; who carries the cluster it has asked before."""
    return any(record.state == "undone" for record in journal.records().values())


def _tell_carriers(carriers: Carriers, *, as_json: bool) -> None:
    if as_json:
        write_json({"event": "carriers", **msgspec.to_builtins(carriers)})
    elif carriers.goes_on:
        console().print(f"{_named(carriers.others)} the cluster on: this host leaves it.", soft_wrap=True)
    elif carriers.problem:
        words = "Nobody can tell whether other servers carry the cluster, so what is in it is left alone"
        console().print(f"{words}: {carriers.problem}", soft_wrap=True)


def _tell_plan(journal: Journal, carriers: Carriers, *, delete_data: bool, as_json: bool) -> None:
    way = way_back(journal, carriers, delete_data=delete_data)
    if as_json:
        write_json(way_back_event(way))
        return
    out = console()
    tell_way_back(way, out)
    out.print()


def _confirm(carriers: Carriers, *, delete_data: bool) -> None:
    if not is_somebody_there():
        raise CliError("nobody is at a terminal to be asked; nothing was changed", Exit.USAGE, "Say --yes.")
    if carriers.goes_on:
        data = ", and delete what is on it for ever" if delete_data else "; its copy of the data stays"
        ask(f"Take this host out of the cluster, and k3s off it{data}?")
        return
    data = ", and delete the cluster's data for ever" if delete_data else "; the cluster's data stays"
    ask(f"Take Dragonfly, Tinkerbell and k3s off this host{data}?")


def _look_again(hands: RealHands, journal: Journal, told: Carriers, *, delete_data: bool) -> None:
    """A question may stay open for long."""
    if _carriers(hands, journal, delete_data=delete_data) != told:
        raise CliError(
            "meanwhile others carry the cluster than before; nothing was changed", Exit.REFUSED, "Say it again."
        )


def _carried_out(
    hands: RealHands, journal: Journal, carriers: Carriers, *, delete_data: bool, as_json: bool
) -> Remains:
    try:
        with Teller(console(), as_json=as_json) as teller:
            remains = uninstall(hands, journal, teller, carriers=carriers, delete_data=delete_data)
    except StepFailed as error:
        advice = "What was taken back stays so. To go on: dragonfly uninstall"
        raise CliError(str(error), Exit.FAILED, f"{error.remedy}\n{advice}" if error.remedy else advice) from error
    if not remains.kept:
        journal.remove()
    return remains


def _tell(remains: Remains, carriers: Carriers, *, as_json: bool) -> None:
    if as_json:
        kept = [in_words(undo) for undo in remains.kept]
        members = {"etcdMembers": carriers.members_left} if carriers.members_left else {}
        write_json({"event": "uninstalled", "kept": kept, "others": carriers.others, **members})
        return
    out = console()
    out.print()
    if carriers.goes_on:
        out.print(f"{_named(carriers.others)} the cluster on, with all that is in it.", soft_wrap=True)
        out.print("Say there, on one of them, so that the replicas hear of it: dragonfly install", soft_wrap=True)
    if carriers.goes_on and carriers.members_left:
        out.print(tolerance(carriers.members_left), soft_wrap=True)
    if carriers.problem:
        out.print("If other servers carry the cluster, take this host out of it there:", soft_wrap=True)
        out.print(f"  k3s kubectl delete node {carriers.host}", soft_wrap=True)
        out.print("Then say there, if the swarm has an etcd of its own: dragonfly install", soft_wrap=True)
    if remains.kept:
        what = "What this host had of the cluster's data stays" if carriers.goes_on else "The cluster's data stays"
        out.print(f"{what}. To delete it: dragonfly uninstall --delete-data", soft_wrap=True)
    out.print("What is installed on machines was not touched.", soft_wrap=True)


def _named(servers: tuple[str, ...]) -> str:
    """Return the servers with the verb that follows."""
    return f"{', '.join(servers)} {'carries' if len(servers) == 1 else 'carry'}"
