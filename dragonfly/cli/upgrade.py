"""`dragonfly upgrade`: brings what is installed on this host to this version."""

import os
from pathlib import Path
from typing import Any

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
from dragonfly.install.journal import Busy, Journal, UnknownJournal
from dragonfly.install.manifests import replica_image
from dragonfly.install.options import BadOptions, Options, checked
from dragonfly.install.plan import READY_SECONDS
from dragonfly.install.plan import plan as plan_for
from dragonfly.install.preflight import errors, preflight
from dragonfly.install.standing import in_words, next_steps
from dragonfly.install.upgrade import WentBack, check_schema, upgrade


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

    Refuses where etcd has a layout that this version does not know, and where another server lacks an image that is
    brought as a file: say it on those that joined first, and last on the one that founded the cluster.
    """
    if os.geteuid() != 0:
        raise CliError("this changes the host: run it as root", Exit.REFUSED, "sudo dragonfly upgrade")
    journal = Journal(JOURNAL)
    try:
        before = _installed(journal)
        options = _options(before, given)
        return _upgrade(before, options, journal, ready_within=ready_within, yes=yes, as_json=output == "json")
    except BadOptions as error:
        raise CliError("these options make no sense:\n  " + "\n  ".join(error.problems), Exit.USAGE) from error
    except (Busy, UnknownJournal) as error:
        raise CliError(str(error), Exit.REFUSED) from error


def _installed(journal: Journal) -> Options:
    """Return with which options it was.

    Raises:
        Busy: another process works on it.
        CliError: it was not, or not to the end.
        UnknownJournal: a newer Dragonfly wrote the journal.
    """
    before, standing = journal.options(), journal.standing()
    if standing.state == "working":
        raise Busy(in_words(standing))
    if standing.state == "installed" and before is not None:
        return before
    if standing.state == "unrecorded":
        raise CliError("nothing is installed here that could be upgraded", Exit.NOT_FOUND, "See: dragonfly install")
    raise CliError(f"{in_words(standing)}; there is nothing to upgrade yet", Exit.NOT_FOUND, next_steps(standing))


def _options(before: Options, given: dict[str, Any]) -> Options:
    said = {name: value for name, value in given.items() if value is not None}
    said |= {name: str(Path(said[name]).absolute()) for name in ("image_archive", "airgap") if name in said}
    return checked(msgspec.structs.replace(before, **said))


def _upgrade(
    before: Options, options: Options, journal: Journal, *, ready_within: int, yes: bool, as_json: bool
) -> int:
    facts = host_survey.survey(options, journal)
    checks = preflight(options, facts)
    if bad := errors(checks):
        tell_checks(bad, console(stderr=True))
        raise CliError("this host cannot be upgraded yet; nothing was changed", Exit.REFUSED)
    hands = installed_hands(journal)
    if options.is_first:
        _check_layout(hands)
        _check_images(hands, options)
    images = host_survey.image_files(options.airgap)
    plan = plan_for(options, facts, images=images, ready_within=ready_within)
    if as_json:
        write_json(plan_event(plan))
    else:
        tell_plan(plan, console())
    if not yes and not is_somebody_there():
        raise CliError("nobody is at a terminal to be asked; nothing was changed", Exit.USAGE, "Say --yes.")
    if not yes:
        ask("Carry out what of it is not so yet, and replace the replicas one by one?")
    with journal.alone():
        journal.asked(options)
        try:
            with Teller(console(), as_json=as_json) as teller:
                address = upgrade(plan, hands, hands, journal, teller)
        except WentBack as error:
            journal.asked(before)
            raise CliError(f"the former version serves again: {error}", Exit.FAILED) from error
        except Stopped as stopped:
            raise CliError(what_stands(stopped), Exit.FAILED, how_to_go_on(stopped, "upgrade")) from stopped
        except StepFailed as error:
            raise CliError(f"the way back failed: {error}", Exit.FAILED, error.remedy) from error
        journal.installed(address or journal.address())
    if as_json:
        write_json({"event": "upgraded", "address": address})
    else:
        console().print(f"\nDragonfly answers at {address}", soft_wrap=True)
    return Exit.OK


def _check_layout(hands: RealHands) -> None:
    try:
        check_schema(hands.etcd_access())
    except StepFailed as error:
        raise CliError(f"{error}; nothing was changed", Exit.REFUSED, error.remedy) from error


def _check_images(hands: RealHands, options: Options) -> None:
    """Look whether the others have what only files bring; else replicas that are put there never start."""
    if not (options.image_archive or options.airgap):
        return
    image = replica_image(options)
    try:
        lacking = hands.others_without(image)
    except StepFailed as error:
        raise CliError(f"{error}; nothing was changed", Exit.REFUSED, error.remedy) from error
    if lacking:
        flag = "--airgap DIR" if options.airgap else "--image-archive FILE"
        raise CliError(
            f"the image {image} is not yet on {', '.join(lacking)}; nothing was changed",
            Exit.REFUSED,
            f"Say there first: dragonfly upgrade {flag}",
        )
