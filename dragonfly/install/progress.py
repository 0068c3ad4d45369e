"""How far an installation is, for whoever looks on: the plan's steps with their states. Pure.

It is made of what the terminal tells while steps are carried out, where no secret is; the admin's token comes after
that, and never here.
"""

from typing import Literal

import msgspec

from dragonfly.install.execution import Event
from dragonfly.install.steps import Plan

StepState = Literal["waiting", "started", "done", "unchanged", "failed"]
Outcome = Literal["running", "done", "failed"]


class StepProgress(msgspec.Struct, frozen=True):
    """One step as it stands."""

    name: str
    title: str
    state: StepState = "waiting"
    says: str = ""
    """What it told last: how far it is, what is now so, or why it failed."""


class Progress(msgspec.Struct, frozen=True):
    """The whole of it."""

    host: str
    steps: tuple[StepProgress, ...]
    outcome: Outcome = "running"
    message: str = ""
    """In the end: where the swarm answers, or what went wrong."""
    advice: str = ""
    """After a failure: how to go on."""


def planned(host: str, plan: Plan) -> Progress:
    """Return what it is before the first step."""
    return Progress(host, tuple(StepProgress(step.name, step.title) for step in plan.steps))


def after(progress: Progress, event: Event) -> Progress:
    """Return what it is once this was told."""
    if event.event not in {"step", "progress"}:
        return progress
    return msgspec.structs.replace(
        progress, steps=tuple(_step(step, event) if step.name == event.step else step for step in progress.steps)
    )


def ended(progress: Progress, outcome: Outcome, message: str, advice: str = "") -> Progress:
    """Return what it is in the end."""
    return msgspec.structs.replace(progress, outcome=outcome, message=message, advice=advice)


def _step(step: StepProgress, event: Event) -> StepProgress:
    if event.event == "progress" or not event.state:
        return msgspec.structs.replace(step, says=event.text)
    says = "" if event.state == "started" else event.text
    return msgspec.structs.replace(step, state=event.state, says=says)
