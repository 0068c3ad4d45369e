"""How provisions are shown while they are waited for: bars on a terminal, lines anywhere else."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dragonfly.cli import times
from dragonfly.cli.kinds import PROVISIONS, Document, at, name_of, provision_phase, text_at
from dragonfly.cli.session import Session
from dragonfly.model.provision import TERMINAL


class Display(Protocol):
    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> object: ...
    def show(self, provision: Document, now: datetime) -> None: ...


def display(session: Session, number: int) -> Display:
    """What suits the terminal, or that there is none, for so many provisions."""
    if not session.err.is_terminal:
        return _Lines(session)
    return _Bars(session) if number < session.err.height else _Summary(session)


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
