"""How far an installation is, on a terminal and where none is: what is done stays, what goes on comes and goes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from dragonfly.cli.install_telling import Teller
from dragonfly.install.execution import Event
from tests.unit.cli.screen import Screen

STARTED = Event("step", "k3s", "Start k3s", "started", 2, 3)
PROGRESS = Event("progress", "k3s", "12 MiB")
DONE = Event("step", "k3s", "it runs, and starts at boot", "done", 2, 3)
BEFORE = Event("step", "settings", "it is there", "unchanged", 1, 3)
FAILED = Event("step", "node", "no answer within 600 s", "failed", 3, 3)

LIST = [
    "[ 1/3] settings: it is there (unchanged)",
    "[ 2/3] k3s: it runs, and starts at boot",
    "[ 3/3] node: no answer within 600 s",
]
DEADLINE = 30.0
"""Seconds; a line is there within tens of milliseconds."""


class Terminal:
    """A console, and what is to be seen of it."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.written = io.StringIO()
        self.console = Console(
            file=self.written, force_terminal=is_terminal, width=100, markup=False, highlight=False, emoji=False
        )

    def screen(self) -> Screen:
        screen = Screen()
        screen.write(self.written.getvalue())
        return screen

    def shows(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the lines are what is wanted: the one that runs is drawn by a thread."""
        end = time.monotonic() + DEADLINE
        while not wanted(lines := self._lines()):
            assert time.monotonic() < end, lines
            time.sleep(0.01)
        return lines

    def _lines(self) -> list[str]:
        try:
            return self.screen().lines
        except ValueError:
            return []  # half of a control code is written


@pytest.fixture(autouse=True)
def _a_terminal_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_shows_the_step_that_runs_and_keeps_the_list_of_those_that_are_done() -> None:
    terminal = Terminal(is_terminal=True)

    with Teller(terminal.console, as_json=False) as tell:
        tell(BEFORE)
        tell(STARTED)
        terminal.shows(lambda lines: lines[:-1] == LIST[:1] and lines[-1].endswith("Start k3s"))
        tell(PROGRESS)
        terminal.shows(lambda lines: lines[:-1] == LIST[:1] and lines[-1].endswith("Start k3s: 12 MiB"))
        tell(DONE)
        terminal.shows(lambda lines: lines[:2] == LIST[:2])
        tell(FAILED)

    assert terminal.screen().lines == LIST
    assert terminal.screen().has_cursor


def test_a_terminal_is_left_in_order_when_an_installation_is_interrupted() -> None:
    terminal = Terminal(is_terminal=True)

    def interrupted() -> None:
        with Teller(terminal.console, as_json=False) as tell:
            tell(BEFORE)
            tell(STARTED)
            terminal.shows(lambda lines: lines[-1].endswith("Start k3s"))
            assert not terminal.screen().has_cursor
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert terminal.screen().lines == LIST[:1]
    assert terminal.screen().has_cursor


def test_where_no_terminal_is_there_are_lines_alone() -> None:
    terminal = Terminal(is_terminal=False)

    with Teller(terminal.console, as_json=False) as tell:
        for event in (BEFORE, STARTED, PROGRESS, DONE, FAILED):
            tell(event)

    assert terminal.written.getvalue() == "\n".join([*LIST, ""])


def test_taking_back_is_told_the_same_way() -> None:
    terminal = Terminal(is_terminal=True)

    with Teller(terminal.console, as_json=False) as tell:
        tell(Event("undo", "k3s", "stop k3s.service and its containers", "started"))
        terminal.shows(lambda lines: bool(lines) and lines[-1].endswith("stop k3s.service and its containers"))
        tell(Event("progress", "k3s", "a pod is still there"))
        terminal.shows(lambda lines: lines[-1].endswith("stop k3s.service and its containers: a pod is still there"))
        tell(Event("undo", "k3s", "stop k3s.service and its containers", "done"))
        tell(Event("kept", "data", "remove /var/lib/rancher"))

    assert terminal.screen().lines == ["  done: stop k3s.service and its containers", "  stays: /var/lib/rancher"]


def test_a_program_gets_no_control_codes_though_it_has_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(is_terminal=True)

    with Teller(terminal.console, as_json=True) as tell:
        tell(STARTED)

    assert not terminal.written.getvalue()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == '{"event":"step","step":"k3s","text":"Start k3s","state":"started","number":2,"of":3}'
