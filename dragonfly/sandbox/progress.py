"""Tells people what is being done: a spinner on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console


class Progress(Protocol):
    """Where steps are shown."""

    def note(self, text: str) -> None:
        """Say something once."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """Show `text` while the block runs, and how long it took."""


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None: ...

    def step(self, text: str) -> AbstractContextManager[None]:
        del text
        return nullcontext()


class Shown:
    """Shows steps on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        start = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(text):
                yield
        else:
            self.note(f"{text} ...")
            yield
        self.note(f"{text}: {duration(time.monotonic() - start)}")


SILENT: Progress = Silent()


def duration(seconds: float) -> str:
    """`1.3 s`, `42 s` or `3 min 5 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
