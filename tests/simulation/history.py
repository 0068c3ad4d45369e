"""What happened in a simulated history, kept cheaply and told readably."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Lazily(NamedTuple):
    """Words that are made only for a history that somebody reads."""

    words: Callable[[Any], str]
    about: object

    def __str__(self) -> str:
        return self.words(self.about)


class Entry(NamedTuple):
    at: float
    who: str
    what: str
    details: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.at:9.4f}  {self.who:12s} {self.what:20s} {' '.join(str(detail) for detail in self.details)}"


class Violation(NamedTuple):
    """A promise that was broken."""

    promise: str
    at: float
    words: str

    def __str__(self) -> str:
        return f"{self.promise} at {self.at:.4f}: {self.words}"


class BrokenPromise(BaseException):
    """Ends a history at the first violation; nothing that goes on after errors goes on after this."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


class History:
    """Entries in order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def note(self, at: float, who: str, what: str, *details: object) -> None:
        self.entries.append(Entry(at, who, what, details))

    def told(self, last: int = 80) -> str:
        shown = self.entries[-last:]
        left_out = len(self.entries) - len(shown)
        head = [f"… {left_out} earlier entries"] if left_out else []
        return "\n".join([*head, *map(str, shown)])
