"""Waits for provisions to end, with a bar for each on a terminal and a line for each change anywhere else.

A provision is the swarm's, not this process's: whatever happens here, it goes on. So a replica that dies, or a network
that is away for a while, is waited out.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dragonfly.cli import times
from dragonfly.cli.errors import CliError, Exit
from dragonfly.cli.kinds import MACHINES, PROVISIONS, Document, at, name_of, provision_phase, text_at
from dragonfly.cli.reach import obstacle
from dragonfly.cli.session import Session
from dragonfly.model.provision import TERMINAL

_POLL = 0.5
_QUIET = 3.0
"""Seconds without any change after which it is looked up, and looked up again, what keeps a provision from going on."""
_SILENCE = 300.0
"""Seconds without any answer after which waiting is of no use."""


class Waited(NamedTuple):
    provisions: list[dict[str, Any]]
    exit_code: Exit


class _Display(Protocol):
    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> object: ...
    def show(self, provision: Document, now: datetime) -> None: ...


def wait(
    session: Session,
    provisions: list[dict[str, Any]],
    timeout: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> Waited:
    """Return the provisions as they ended, and OK only if each of them succeeded; RUNNING if the time was too short.

    Args:
        timeout: seconds; None waits until the end, which the provision's own deadlines bring about.

    Raises:
        CliError: nobody has answered for five minutes.
    """
    display: _Display = _display(session, len(provisions))
    try:
        with display:
            return _Watch(session, display, clock).until_ended(provisions, timeout)
    except KeyboardInterrupt:
        _say_that_it_goes_on(session, provisions)
        raise


def _display(session: Session, number: int) -> _Display:
    if not session.err.is_terminal:
        return _Lines(session)
    return _Bars(session) if number < session.err.height else _Summary(session)


class _Watch:
    def __init__(self, session: Session, display: _Display, clock: Callable[[], float]) -> None:
        self._session = session
        self._display = display
        self._clock = clock
        self._heard = clock()
        self._told = False
        self._obstacles = _Obstacles(session, clock)

    def until_ended(self, provisions: list[dict[str, Any]], timeout: float | None) -> Waited:
        latest = {name_of(item): item for item in provisions}
        deadline = None if timeout is None else self._clock() + timeout
        while True:
            for name, item in latest.items():
                if provision_phase(item) not in TERMINAL:
                    latest[name] = self._newer(item)
                self._display.show(latest[name], self._session.now())
            running = [item for item in latest.values() if provision_phase(item) not in TERMINAL]
            self._obstacles.tell(running)
            if not running:
                succeeded = all(provision_phase(item) == "Succeeded" for item in latest.values())
                return Waited(list(latest.values()), Exit.OK if succeeded else Exit.FAILED)
            if deadline is not None and self._clock() >= deadline:
                self._session.remark(f"not ended within {timeout:g} s")
                self._obstacles.look(running[0])
                _say_that_it_goes_on(self._session, running)
                return Waited(list(latest.values()), Exit.RUNNING)
            self._session.pause(_POLL)

    def _newer(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return the provision as it is now; as it was, if nobody answers or a replica that is behind does."""
        try:
            answer = self._session.client.get("provisions", name_of(item))
        except CliError as error:
            if error.exit_code != Exit.UNREACHABLE or self._clock() - self._heard > _SILENCE:
                raise
            if not self._told:
                self._session.remark(f"{error.message}; the provision goes on, still waiting")
                self._told = True
            return item
        self._heard = self._clock()
        self._told = False
        found: dict[str, Any] = answer.document
        return found if _revision(found) >= _revision(item) else item


class _Obstacles:
    """Tells why nothing happens, once for each reason. Looks at one machine at a time, however many are waited for."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self._changed = clock()
        self._seen: list[int] = []
        self._told = ""

    def tell(self, running: list[dict[str, Any]]) -> None:
        revisions = [_revision(item) for item in running]
        if revisions != self._seen:
            self._seen, self._changed = revisions, self._clock()
        if not running or self._clock() - self._changed < _QUIET:
            return
        self._changed = self._clock()
        self.look(running[0])

    def look(self, provision: Document) -> None:
        """Tell what keeps this one from going on, unless that was told last."""
        reason = self._reason(text_at(provision, "spec.machine"))
        if reason and reason != self._told:
            self._session.remark(reason)
        self._told = reason

    def _reason(self, machine: str) -> str:
        try:
            found = obstacle(self._session.client.get(MACHINES.plural, machine).document)
        except CliError:
            # Whether anybody answers is told by who asks for the provisions.
            return self._told
        return f"{machine} waits: {found}" if found else ""


def _revision(document: Document) -> int:
    revision = at(document, "metadata.revision")
    return revision if isinstance(revision, int) else 0


def _say_that_it_goes_on(session: Session, provisions: list[dict[str, Any]]) -> None:
    for item in provisions:
        name = name_of(item)
        session.remark(f"the provision of {text_at(item, 'spec.machine')} goes on; to stop it: dragonfly cancel {name}")


def remaining(provision: Document, now: datetime) -> str:
    """Return `3m left`; empty while nothing can be told."""
    eta = times.moment(at(provision, "status.eta"))
    if eta is None or provision_phase(provision) in TERMINAL:
        return ""
    left = (eta - now).total_seconds()
    return f"{times.short(left)} left" if left > 0 else "any moment"


class _Bars:
    def __init__(self, session: Session) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[activity]}", markup=False),
            console=session.err,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, provision: Document, now: datetime) -> None:
        name = name_of(provision)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(text_at(provision, "spec.machine"), total=100, activity="")
        percent = at(provision, "status.progress") or 0
        self._progress.update(self._tasks[name], completed=percent, activity=_activity(provision, now))
        if provision_phase(provision) in TERMINAL:
            self._progress.stop_task(self._tasks[name])


class _Summary:
    """One bar for all, where each of its own would not fit on the terminal."""

    def __init__(self, session: Session) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TimeElapsedColumn(),
            console=session.err,
        )
        self._task = self._progress.add_task("", total=100)
        self._phases: dict[str, str] = {}
        self._percent: dict[str, int] = {}

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, provision: Document, now: datetime) -> None:
        del now
        name, phase = name_of(provision), provision_phase(provision)
        self._phases[name] = phase
        # One that has ended is done, whatever became of it.
        self._percent[name] = 100 if phase in TERMINAL else at(provision, "status.progress") or 0
        completed = sum(self._percent.values()) / len(self._percent)
        self._progress.update(self._task, description=counts(self._phases.values()), completed=completed)


def counts(phases: Iterable[str]) -> str:
    """Return `30 Succeeded, 2 Failed, 8 Running`: how many are in each phase, ends first."""
    found = Counter(phases)
    ordered = sorted(PROVISIONS.phases, key=lambda phase: phase not in TERMINAL)
    return ", ".join(f"{found[phase]} {phase}" for phase in ordered if found[phase])


class _Lines:
    """One line for each change of phase or action: what a CI log can bear."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, provision: Document, now: datetime) -> None:
        state = (provision_phase(provision), text_at(provision, "status.currentAction"))
        if self._last.get(name_of(provision)) == state:
            return
        self._last[name_of(provision)] = state
        percent = at(provision, "status.progress") or 0
        machine = text_at(provision, "spec.machine")
        self._session.err.print(f"{machine}: {percent}% {_activity(provision, now)}", soft_wrap=True)


def _activity(provision: Document, now: datetime) -> str:
    parts = [
        provision_phase(provision),
        text_at(provision, "status.currentAction") if provision_phase(provision) not in TERMINAL else "",
        remaining(provision, now),
    ]
    return ", ".join(part for part in parts if part)
