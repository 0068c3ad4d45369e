"""Carries a plan out, and takes it back: the order of things and nothing else. `hands` do the work.

Invariant: for every step that has touched anything, the journal has what takes it back, made before the first touch. It
holds at any moment, so a crash anywhere leaves something that a second call goes on with, and that uninstalling undoes.
"""

import functools
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from dragonfly.install.carriers import Carriers, fitting
from dragonfly.install.journal import Journal, Record
from dragonfly.install.steps import Action, DeleteObjects, LeaveCluster, Plan, RemoveTree, Step, Undo, in_words, is_data

SELF_TEST: Final = "self-test"


class StepFailed(Exception):
    """A step could not be done; the message says why, and `remedy` what may help."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(message)


class Unreachable(StepFailed):
    """Who has what is to be fetched does not answer here, or not to the end."""


class Refused(StepFailed):
    """The cluster does not take an object as it is, however often it is asked."""


class RecordChanged(StepFailed):
    """The cluster's record of its installation is not the one that is to be replaced."""

    def __init__(self) -> None:
        super().__init__(
            "another server has changed the installation meanwhile", "Said again, it takes up what that made of it."
        )


class Stopped(Exception):
    """An installation stopped at a step; all before it stand."""

    def __init__(self, step: Step, reason: StepFailed, done: tuple[Step, ...], missing: tuple[Step, ...]) -> None:
        self.step = step
        self.reason = reason
        self.done = done
        self.missing = missing
        super().__init__(f"{step.title}: {reason}")


class Event(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Something to tell while it goes on."""

    event: Literal["step", "progress", "undo", "kept"]
    step: str
    text: str
    state: Literal["", "started", "done", "unchanged", "failed"] = ""
    number: int = 0
    of: int = 0


Tell = Callable[[Event], None]
_State = Literal["started", "done", "unchanged", "failed"]
_Say = Callable[[_State, str], None]


class Hands(Protocol):
    """What acts on a host and its cluster."""

    def is_done(self, action: Action, proof: str) -> bool:
        """Whether it is so already.

        Args:
            proof: what `carry_out` returned when it was done last; empty if it was not.
        """

    def undo_of(self, step: str, action: Action) -> tuple[Undo, ...]:
        """Return what takes the action back, made from what is there now; save what it would replace."""

    def carry_out(self, action: Action, say: Callable[[str], None]) -> str:
        """Make it so, and return the proof by which it is known again.

        Raises:
            StepFailed: it can't be.
        """

    def take_back(self, undo: Undo, say: Callable[[str], None]) -> str:
        """Undo it, be it in part or undone already; return a remark, or nothing.

        Raises:
            StepFailed: it can't be.
        """


def install(plan: Plan, hands: Hands, journal: Journal, tell: Tell) -> str:
    """Carry out what is not done yet, and return the proof of the last step.

    Raises:
        Stopped: a step failed.
    """
    known = journal.records()
    proof = ""
    for number, step in enumerate(plan.steps):

        def say(state: _State, text: str, step: Step = step, place: int = number + 1) -> None:
            tell(Event("step", step.name, text, state, place, len(plan.steps)))

        try:
            proof = _step(step, known.get(step.name), hands, journal, say, tell)
        except StepFailed as error:
            say("failed", str(error))
            raise Stopped(step, error, plan.steps[:number], plan.steps[number:]) from error
    return proof


def _step(step: Step, last: Record | None, hands: Hands, journal: Journal, say: _Say, tell: Tell) -> str:  # noqa: PLR0917 - one call
    proof = last.proof if last and last.state == "done" else ""
    if hands.is_done(step.action, proof):
        if last and last.state == "begun":
            journal.done(step.name, proof)
        say("unchanged", step.done)
        return proof
    say("started", step.title)
    if last is None or last.state == "undone":
        journal.begun(step.name, (*hands.undo_of(step.name, step.action), *(last.undo if last else ())))
    proof = hands.carry_out(step.action, functools.partial(_progress, tell, step.name))
    journal.done(step.name, proof)
    say("done", step.done)
    return proof


def _progress(tell: Tell, step: str, text: str) -> None:
    tell(Event("progress", step, text))


class Remains(msgspec.Struct, frozen=True):
    """What stays after uninstalling."""

    kept: tuple[Undo, ...]
    """Data that nobody asked to delete."""


class WayBack(msgspec.Struct, frozen=True):
    """How one step is taken back."""

    step: str
    going: tuple[Undo, ...]
    staying: tuple[Undo, ...]
    leaves_objects: bool = False
    """Whether what it put into the cluster is left to the servers that carry that on."""
    is_settled: bool = False
    """Whether it was taken back so already."""


def uninstall(hands: Hands, journal: Journal, tell: Tell, *, carriers: Carriers, delete_data: bool) -> Remains:
    """Take back, in reverse order, all that the journal has, but not what others carry on.

    Raises:
        StepFailed: something could not be taken back; a second call goes on there.
    """
    kept: list[Undo] = []
    for back in way_back(journal, carriers, delete_data=delete_data):
        for undo in back.going:
            if isinstance(undo, LeaveCluster):
                _note_leaving(journal, carriers)
            tell(Event("undo", back.step, in_words(undo), "started"))
            remark = hands.take_back(undo, functools.partial(_progress, tell, back.step))
            tell(Event("undo", back.step, remark or in_words(undo), "done"))
        if not back.is_settled:
            journal.undone(back.step, back.staying)
        if back.leaves_objects:
            tell(Event("kept", back.step, f"what step {back.step} put into the cluster"))
        for undo in back.staying:
            tell(Event("kept", back.step, in_words(undo)))
        kept += back.staying
    return Remains(tuple(kept))


def _note_leaving(journal: Journal, carriers: Carriers) -> None:
    """Write down to whom a founder leaves its cluster, no earlier: one that cannot leave is of it still."""
    options = journal.options()
    if options is not None and options.is_first and journal.left_to() != carriers.others:
        journal.left(carriers.others)


def way_back(journal: Journal, carriers: Carriers, *, delete_data: bool) -> tuple[WayBack, ...]:
    """Return what uninstalling does, the first first.

    Raises:
        UnknownJournal: a newer Dragonfly wrote the journal.
    """
    records = reversed(tuple(journal.records().values()))
    # Trees with data last: the step that makes one may be younger than the one that runs what is in it.
    in_order = sorted(records, key=_has_data)
    return tuple(_way_back(record, carriers, delete_data=delete_data) for record in in_order)


def _has_data(record: Record) -> bool:
    return any(isinstance(undo, RemoveTree) and undo.is_data for undo in record.undo)


def _way_back(record: Record, carriers: Carriers, *, delete_data: bool) -> WayBack:
    undos = fitting(record.undo, carriers, delete_data=delete_data)
    staying = tuple(undo for undo in undos if is_data(undo) and not delete_data)
    return WayBack(
        record.step,
        tuple(undo for undo in undos if undo not in staying),
        staying,
        leaves_objects=any(isinstance(undo, DeleteObjects) for undo in record.undo if undo not in undos),
        is_settled=record.state == "undone" and staying == record.undo,
    )
