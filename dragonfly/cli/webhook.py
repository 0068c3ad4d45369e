"""`dragonfly webhook`: what can be done with a webhook beside changing it."""

from collections.abc import Mapping
from typing import Any

import click

from dragonfly.cli import times
from dragonfly.cli.errors import Exit
from dragonfly.cli.kinds import WEBHOOKS, Cell, text_at
from dragonfly.cli.names import NameType
from dragonfly.cli.session import Session, connected
from dragonfly.cli.table import print_table

_TITLES = ("REVISION", "EVENT", "OF", "ATTEMPTS", "GIVEN UP", "ERROR")


@click.command
@click.argument("name", type=NameType(WEBHOOKS), metavar="WEBHOOK")
@click.argument("action", type=click.Choice(["test", "rotate", "deadletters", "retry"]))
@connected
def webhook(session: Session, name: str, action: str) -> int:
    """Send WEBHOOK a test, give it a new secret (rotate), list what it could not deliver, or retry that.

    A test that does not arrive ends with exit code 1.
    """
    match action:
        case "test":
            return _test(session, name)
        case "rotate":
            made = session.client.post("webhooks", name, "rotate").document
            session.write(f"webhook {name}: its new secret, shown this once: {text_at(made, 'spec.secret')}")
        case "deadletters":
            _list(session, name)
        case _:
            asked = session.client.post("webhooks", name, "deadletters", "retry").document["asked"]
            session.write(f"webhook {name}: {asked} will be tried once more")
    return Exit.OK


def _test(session: Session, name: str) -> Exit:
    result = session.client.post("webhooks", name, "test").document
    if result["delivered"]:
        session.write(f"webhook {name}: delivered in {result['seconds']:.2f} s, answered {result['status']}")
        return Exit.OK
    session.write(f"webhook {name}: not delivered: {result['error']}")
    if result["answer"]:
        session.write(result["answer"])
    return Exit.FAILED


def _list(session: Session, name: str) -> None:
    letters = session.client.get("webhooks", name, "deadletters").document["items"]
    if not letters:
        session.remark("no dead letters")
        return
    print_table(_TITLES, [_row(session, letter) for letter in letters], session.out)


def _row(session: Session, letter: Mapping[str, Any]) -> list[Cell]:
    change = letter["change"]
    texts = (
        str(letter["revision"]),
        letter["event"],
        f"{str(change.get('kind', '')).lower()}/{change.get('name', '')}",
        str(letter["attempts"]),
        f"{times.age(letter['givenUpAt'], session.now())} ago" + (", asked again" if letter["retry"] else ""),
        letter["error"],
    )
    return [Cell(text) for text in texts]
