"""`dragonfly upgrade`: brings what is installed on this host to this version."""

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from dragonfly.cli.asking import ask, is_somebody_there
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.install import JOURNAL, how_to_go_on, installed_hands, what_stands
from dragonfly.cli.install_telling import Teller, plan_event, tell_checks, tell_plan, write_json
from dragonfly.cli.session import console
from dragonfly.install import host_survey
from dragonfly.install.execution import StepFailed, Stopped
from dragonfly.install.hands import RealHands
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.images import Lacking
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.manifests import replica_image
from dragonfly.install.options import BadOptions, Options, checked
from dragonfly.install.plan import READY_SECONDS, own_part
from dragonfly.install.plan import plan as plan_for
from dragonfly.install.preflight import errors, preflight
from dragonfly.install.recorded import (
    RECORD,
    ClusterWide,
    Record,
    Seen,
    Server,
    UnknownRecord,
    cluster_wide,
    parsed,
    written,
)
from dragonfly.install.said import Said, brings_image, on_top, said_from, taken_up
from dragonfly.install.stage import in_words, next_steps
from dragonfly.install.steps import Plan
from dragonfly.install.upgrade import Overtaken, WentBack, abandon, check_schema, underway, upgrade

_HOSTS_OWN: Final = ("image_archive", "airgap", "k3s_version")
"""What is of a host alone; the rest is the cluster's."""
_QUESTION: Final = "Carry out what of it is not so yet, and replace the replicas one by one?"
_OWN_QUESTION: Final = "Carry out what of it is not so yet, and leave the replicas to the last host?"


@click.command(name="upgrade")
@click.option("--image", metavar="REF", default=None, help="Of a replica of this version, where this host can pull it.")
@click.option("--image-archive", metavar="FILE", default=None, help="Of such a replica, as `make image` makes it.")
@click.option("--airgap", metavar="DIR", default=None, help="A bundle of this version.")
@click.option("--k3s-version", metavar="VERSION", default=None, help="Another k3s too; it starts again once.")
@click.option("--tinkerbell-version", metavar="VERSION", default=None, help="Another Tinkerbell too.")
@click.option("--ready-within", type=click.IntRange(min=1), metavar="SECONDS", default=READY_SECONDS, show_default=True,
              help="How long the new replicas have to get ready, before the former ones are put back.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Ask nobody.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: an event a line.")
def upgrade_command(*, ready_within: int, yes: bool, output: str, **given: Any) -> int:
    """Replace the replicas one by one, and whatever else differs; go back if the new ones don't get ready.

    What you don't say stays as it is: on this host, and in the cluster, whichever server has changed that.
    Say it on each server, in any order. Where the image is brought as a file, each gets it, and the last one replaces
    the replicas. Refuses where etcd has a layout that this version does not know.
    """
    if os.geteuid() != 0:
        raise CliError("this changes the host: run it as root", Exit.REFUSED, "sudo dragonfly upgrade")
    journal, as_json = Journal(JOURNAL), output == "json"
    try:
        hands = installed_hands(journal)
        found = _prepared(_installed(journal), said_from(given, Path.cwd()), journal, hands, ready_within=ready_within)
        _tell_plan(found, as_json=as_json)
        _confirm(found, yes=yes)
        address = _upgraded(found, journal, hands, as_json=as_json)
    except BadOptions as error:
        raise CliError("these options make no sense:\n  " + "\n  ".join(error.problems), Exit.USAGE) from error
    except (Busy, UnknownJournal, UnknownRecord) as error:
        raise CliError(str(error), Exit.REFUSED) from error
    _tell_end(found, address, hands.remark(), as_json=as_json)
    return Exit.OK


def _installed(journal: Journal) -> Options:
    """Return with which options it was.

    Raises:
        Busy: another process works on it.
        CliError: it was not, or not to the end.
        UnknownJournal: a newer Dragonfly wrote the journal.
    """
    before, stage = journal.options(), journal.stage()
    if stage.state == "working":
        raise Busy(in_words(stage))
    if stage.state == "installed" and before is not None:
        return before
    if stage.state == "unrecorded":
        raise CliError("nothing is installed here that could be upgraded", Exit.NOT_FOUND, "See: dragonfly install")
    raise CliError(f"{in_words(stage)}; there is nothing to upgrade yet", Exit.NOT_FOUND, next_steps(stage))


class _Upgrade(NamedTuple):
    """What is to be done."""

    plan: Plan
    wanted: ClusterWide
    own: Options
    """Of this host, as it was and with what was said."""
    former: Options
    """Of this host before the upgrade, also before one that is gone on with."""
    image: str
    lacking: tuple[str, ...]
    """The other hosts that are to be brought the image; while there are any, only this host's part is done."""
    away: tuple[str, ...]
    """Those that will have to be, once they are back: they get no pods now, and are not waited for."""

    @property
    def options(self) -> Options:
        """What this host is when all is done."""
        return self.wanted.options if self.own.is_first else self.own

    @property
    def alone(self) -> Options:
        """What it is whatever becomes of the replicas: k3s, and where images come from, stay as they are made."""
        return msgspec.structs.replace(self.former, **{name: getattr(self.own, name) for name in _HOSTS_OWN})


def _prepared(before: Options, said: Said, journal: Journal, hands: RealHands, *, ready_within: int) -> _Upgrade:
    """Look at the host and at its cluster, and return what is to be done. Nothing is changed.

    Raises:
        BadOptions: what was said makes no sense.
        CliError: this host cannot be upgraded, or its cluster cannot.
        UnknownRecord: a newer Dragonfly wrote the cluster's record.
    """
    own = checked(on_top(before, said))
    facts = _fit(own, journal)
    seen = _looked(hands)
    wanted = _wanted(own, said, facts, seen, journal)
    image = replica_image(wanted.options)
    lacking, away = _others_lacking(hands, image) if wanted.brought else Lacking()
    options = wanted.options if own.is_first else own
    images = host_survey.image_files(options.airgap)
    if lacking:
        plan = own_part(options, facts, image, images=images)
    else:
        plan = plan_for(options, facts, images=images, ready_within=ready_within, cluster=wanted)
    return _Upgrade(plan, wanted, own, _before(before, seen, journal), image, lacking, away)


def _fit(own: Options, journal: Journal) -> HostFacts:
    """Return what this host is like.

    Raises:
        CliError: it cannot be upgraded so.
    """
    facts = host_survey.survey(own, journal)
    if bad := errors(preflight(own, facts)):
        tell_checks(bad, console(stderr=True))
        raise CliError("this host cannot be upgraded yet; nothing was changed", Exit.REFUSED)
    return facts


def _confirm(found: _Upgrade, *, yes: bool) -> None:
    if yes:
        return
    if not is_somebody_there():
        raise CliError("nobody is at a terminal to be asked; nothing was changed", Exit.USAGE, "Say --yes.")
    ask(_OWN_QUESTION if found.lacking else _QUESTION)


def _upgraded(found: _Upgrade, journal: Journal, hands: RealHands, *, as_json: bool) -> str:
    """Carry it out, note what this host is then, and return where the swarm answers, if the plan goes so far."""
    with journal.alone():
        begun = underway(journal)
        if begun and not begun.is_current(found.wanted.before or ""):
            abandon(journal)
        journal.asked(found.alone if found.lacking else found.options)
        address = _carried_out(found, hands, journal, as_json=as_json)
        if not found.lacking:
            journal.installed(address or journal.address())
    return address


def _before(last: Options, seen: Seen, journal: Journal) -> Options:
    """Return the options of this host before the upgrade that is gone on with, if one is; else the last ones."""
    begun = underway(journal)
    return begun.asked if begun and begun.asked and begun.is_current(seen.text or "") else last


def _wanted(own: Options, said: Said, facts: HostFacts, seen: Seen, journal: Journal) -> ClusterWide:
    """Return what is to be so in the cluster: as it is recorded there, and what was said.

    Raises:
        BadOptions: it cannot be so by this host.
        CliError: the cluster keeps no record, and this host can't tell what it was told.
        UnknownRecord: a newer Dragonfly wrote it.
    """
    here = Server(facts.hostname, facts.address)
    begun = underway(journal)
    goes_on = begun is not None and begun.is_current(seen.text or "")
    text = begun.target if begun and goes_on and begun.target else seen.text
    if not text:
        if not own.is_first:
            raise CliError(
                f"the cluster keeps no record of its installation ({RECORD}), which an older Dragonfly made; nothing "
                "was changed",
                Exit.REFUSED,
                _without_record(here),
            )
        return cluster_wide(own, here, seen, brought=brings_image(said))
    record, brought = parsed(text), brings_image(said)
    options = taken_up(own, said, record)
    return cluster_wide(options, here, seen, brought=record.brought if brought is None else brought)


def _without_record(here: Server) -> str:
    example = written(Record(host=here.host, address=here.address, etcd="shared"))
    return (
        "Say it on the server that founded the cluster: that one makes the record. If it is gone, give the cluster the "
        "options with which it was installed (docs/install.md, The record of the installation), such as:\n"
        f"  k3s kubectl --namespace {RECORD.namespace} create configmap {RECORD.name} "
        f"--from-literal=installation='{example}'"
    )


def _carried_out(found: _Upgrade, hands: RealHands, journal: Journal, *, as_json: bool) -> str:
    """Return where the swarm answers, if the plan goes so far."""
    before, target = found.wanted.before or "", found.wanted.record
    try:
        with Teller(console(), as_json=as_json) as teller:
            return upgrade(found.plan, hands, hands, journal, teller, before, target, found.former)
    except WentBack as error:
        journal.asked(found.alone)
        raise CliError(f"the former version serves again: {error}", Exit.FAILED) from error
    except Overtaken as error:
        journal.asked(found.alone)
        raise CliError(
            f"{error}\nAnother server has changed the installation meanwhile, so nothing was put back",
            Exit.FAILED,
            "What is to be in the cluster is what that server was told: look how it fares there. Said again here, "
            "dragonfly upgrade takes that up.",
        ) from error
    except Stopped as stopped:
        raise CliError(what_stands(stopped), Exit.FAILED, how_to_go_on(stopped, "upgrade")) from stopped
    except StepFailed as error:
        raise CliError(f"the way back failed: {error}", Exit.FAILED, error.remedy) from error


def _tell_plan(found: _Upgrade, *, as_json: bool) -> None:
    if as_json:
        write_json(plan_event(found.plan) | _away(found))
        return
    out = console()
    if found.away:
        hosts = ", ".join(found.away)
        out.print(
            f"Not waited for, as not ready or cordoned: {hosts}. The image {found.image} is not known to be there.",
            soft_wrap=True,
        )
    if found.lacking:
        hosts = ", ".join(found.lacking)
        out.print(f"The image {found.image} is not yet on {hosts}, so this is for this host alone:", soft_wrap=True)
    tell_plan(found.plan, out)


def _tell_end(found: _Upgrade, address: str, remark: str, *, as_json: bool) -> None:
    image, lacking = found.image, found.lacking
    if lacking and as_json:
        write_json({"event": "prepared", "image": image, "lacking": lacking, **_away(found)})
    elif lacking:
        out = console()
        out.print(f"\nThis host has the image {image}; no replica was replaced yet.", soft_wrap=True)
        out.print(f"Say the same next on {', '.join(lacking)}. The last one replaces the replicas.", soft_wrap=True)
    elif as_json:
        write_json({"event": "upgraded", "address": address, **({"etcd": remark} if remark else {}), **_away(found)})
    else:
        out = console()
        out.print(f"\n{remark}" if remark else "", soft_wrap=True)
        out.print(f"Dragonfly answers at {address}", soft_wrap=True)
    if found.away and not as_json:
        console().print(
            f"Say the same on {', '.join(found.away)} too, once ready or no longer cordoned: no replica of this "
            "version can start there before. For a host that is lost for ever: k3s kubectl delete node NAME",
            soft_wrap=True,
        )


def _away(found: _Upgrade) -> dict[str, Any]:
    return {"away": found.away} if found.away else {}


def _looked(hands: RealHands) -> Seen:
    """Look at the cluster, and whether what is in its etcd is known.

    Raises:
        CliError: it does not answer, or it is not.
    """
    try:
        seen = hands.installation()
        check_schema(hands.etcd_access())
    except StepFailed as error:
        raise CliError(f"{error}; nothing was changed", Exit.REFUSED, error.remedy) from error
    return seen


def _others_lacking(hands: RealHands, image: str) -> Lacking:
    """Look whether the others have what only files bring; else replicas that are put there never start."""
    try:
        return hands.others_lacking(image)
    except StepFailed as error:
        raise CliError(f"{error}; nothing was changed", Exit.REFUSED, error.remedy) from error
