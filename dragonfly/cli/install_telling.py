"""How an installation is told: checks, the plan and its progress, for people and for programs."""

import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import yaml
from rich.console import Console
from rich.status import Status
from rich.text import Text

from dragonfly.install import k3s
from dragonfly.install.execution import Event, WayBack
from dragonfly.install.preflight import Check
from dragonfly.install.steps import ApplyChart, ApplyObjects, KeepRecord, Plan, WriteFile, described, in_words

_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "bold red"}
_MARKS: Final = {"ok": "ok", "warning": "note", "error": "no"}


class Teller:
    """Tells events as they come: a line each, and on a terminal what goes on right now."""

    def __init__(self, out: Console, *, as_json: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._status: Status | None = None
        self._title = ""

    def __enter__(self) -> Self:
        if not self._as_json and self._out.is_terminal:
            self._status = self._out.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        if self._as_json:
            write_json(msgspec.to_builtins(event))
        elif event.event == "step":
            self._step(event)
        elif event.event == "progress":
            self._doing(f"{self._title}: {event.text}")
        elif event.event == "undo" and event.state == "started":
            self._title = event.text
            self._doing(event.text)
        else:
            words = f"stays: {_staying(event.text)}" if event.event == "kept" else f"done: {event.text}"
            self._out.print(f"  {words}", soft_wrap=True)

    def _step(self, event: Event) -> None:
        if event.state == "started":
            self._title = event.text
            self._doing(event.text)
            return
        style = {"failed": "bold red", "unchanged": "dim"}.get(event.state, "green")
        words = event.text if event.state != "unchanged" else f"{event.text} (unchanged)"
        line = Text(f"[{event.number:>2}/{event.of}] ") + Text(f"{event.step}: {words}", style=style)
        self._out.print(line, soft_wrap=True)

    def _doing(self, text: str) -> None:
        if self._status:
            self._status.update(Text(text))


def write_json(document: Any) -> None:
    """Write one object on a line, at once."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def tell_checks(checks: Iterable[Check], out: Console) -> None:
    """Print what was found, and below what is not well, what to do."""
    for check in checks:
        out.print(
            Text(_MARKS[check.level].ljust(6), style=_STYLES[check.level]) + Text(f"{check.name}: {check.found}"),
            soft_wrap=True,
        )
        if check.remedy:
            out.print(f"      {check.remedy}", soft_wrap=True)


def tell_plan(plan: Plan, out: Console) -> None:
    """Print the steps, each with what takes it back."""
    for number, step in enumerate(plan.steps, 1):
        undo = f"; to undo: {step.undo}" if step.undo else ""
        out.print(f"{number:>3}. {step.title}{undo}", soft_wrap=True)


def manifests_of(plan: Plan) -> str:
    """Return all that the plan would write: files, then objects as YAML; there is no secret in it."""
    parts = [
        f"# {step.action.path}\n{step.action.content}" for step in plan.steps if isinstance(step.action, WriteFile)
    ]
    objects = _objects(plan)
    return "\n".join([*parts, yaml.dump_all(objects, Dumper=_Readable, sort_keys=False) if objects else ""])


class _Readable(yaml.SafeDumper):
    """Shows a text of several lines as such."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text.strip() else None
    ),
)


def _objects(plan: Plan) -> list[Any]:
    found: list[Any] = []
    for step in plan.steps:
        if isinstance(step.action, ApplyChart | KeepRecord):
            found.append(step.action.object)
        elif isinstance(step.action, ApplyObjects):
            found += step.action.objects
    return found


def plan_document(checks: Sequence[Check], plan: Plan) -> dict[str, Any]:
    """Return the plan as one JSON object."""
    return {"checks": msgspec.to_builtins(checks), "steps": _steps(plan), "manifests": _objects(plan)}


def plan_event(plan: Plan) -> dict[str, Any]:
    """Return what a program is told before anything changes."""
    return {"event": "plan", "steps": _steps(plan)}


def way_back_event(way: Iterable[WayBack]) -> dict[str, Any]:
    """Return the same of an uninstallation."""
    steps = [
        {
            "name": back.step,
            "undo": [in_words(undo) for undo in back.going],
            "stays": [_staying(in_words(undo)) for undo in back.staying],
        }
        for back in way
        if back.going or back.staying
    ]
    return {"event": "plan", "steps": steps}


def tell_way_back(way: Iterable[WayBack], out: Console) -> None:
    """Print what is taken back, step by step, and what stays."""
    for number, step in enumerate(way_back_event(way)["steps"], 1):
        stays = [f"{what} stays" for what in step["stays"]]
        out.print(f"{number:>3}. {step['name']}: {'; '.join([*step['undo'], *stays])}", soft_wrap=True)


def _staying(words: str) -> str:
    return words.removeprefix("remove ").removeprefix("delete ")


def _steps(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "name": step.name,
            "title": step.title,
            "done": step.done,
            "undo": step.undo,
            "action": described(step.action),
        }
        for step in plan.steps
    ]


TOKEN_COMMAND: Final = (
    f"{k3s.BINARY} kubectl --namespace dragonfly get secret dragonfly "
    "--output jsonpath='{.data.admin-token}' | base64 --decode"
)
"""Prints the admin's token on an installed host."""
