"""Waits for provisions to end, and shows how far they are."""

from typing import Any, NamedTuple

from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import MACHINES, PROVISIONS, Document, name_of, provision_phase, text_at
from dragonfly.cli.progress import Display, display
from dragonfly.cli.reach import obstacle
from dragonfly.cli.session import Session
from dragonfly.cli.waiting import wait_for
from dragonfly.model.provision import TERMINAL


class Waited(NamedTuple):
    provisions: list[dict[str, Any]]
    exit_code: Exit


def wait(session: Session, provisions: list[dict[str, Any]], timeout: float | None) -> Waited:
    """Return the provisions as they ended, and OK only if each of them succeeded; RUNNING if the time was too short.

    Args:
        timeout: seconds; None waits until the end, which the provision's own deadlines bring about.

    Raises:
        CliError: nobody has answered for five minutes.
    """
    shown = display(session, len(provisions))
    watched = _Watched(session, provisions, shown)
    try:
        with shown:
            ended = wait_for(session, PROVISIONS, watched.latest, watched, timeout)
            if not ended:
                watched.say_what_is_in_the_way(timeout)
    except KeyboardInterrupt:
        _say_that_it_goes_on(session, provisions)
        raise
    latest = list(watched.latest.values())
    if not ended:
        return Waited(latest, Exit.RUNNING)
    succeeded = all(provision_phase(item) == "Succeeded" for item in latest)
    return Waited(latest, Exit.OK if succeeded else Exit.FAILED)


class _Watched:
    """The provisions as they are; tells why nothing happens, once for each reason."""

    def __init__(self, session: Session, provisions: list[dict[str, Any]], shown: Display) -> None:
        self._session = session
        self._display = shown
        self._told = ""
        self.latest = {name_of(item): item for item in provisions}

    def take(self, document: Document) -> bool:
        self.latest[name_of(document)] = dict(document)
        self._display.show(document, self._session.now())
        return provision_phase(document) in TERMINAL

    def quiet(self, name: str) -> None:
        reason = self._reason(text_at(self.latest[name], "spec.machine"))
        if reason and reason != self._told:
            self._session.remark(reason)
        self._told = reason

    def say_what_is_in_the_way(self, timeout: float | None) -> None:
        running = [item for item in self.latest.values() if provision_phase(item) not in TERMINAL]
        self._session.remark(f"not ended within {timeout:g} s")
        self.quiet(name_of(running[0]))
        _say_that_it_goes_on(self._session, running)

    def _reason(self, machine: str) -> str:
        try:
            found = obstacle(self._session.client.get(MACHINES.plural, machine).document)
        except CliError:
            # Whether anybody answers is told by who waits.
            return self._told
        return f"{machine} waits: {found}" if found else ""


def _say_that_it_goes_on(session: Session, provisions: list[dict[str, Any]]) -> None:
    for item in provisions:
        name = name_of(item)
        session.remark(f"the provision of {text_at(item, 'spec.machine')} goes on; to stop it: dragonfly cancel {name}")
