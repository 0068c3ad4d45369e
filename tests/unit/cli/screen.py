"""As much of a terminal as progress needs: what a person has before their eyes after all that was written."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(r"\x1b\[(?P<numbers>[0-9;?]*)(?P<letter>[A-Za-z])|(?P<one>[\r\n])|(?P<text>[^\x1b\r\n]+)")


class Screen:
    """Lines of text, and whether the cursor is to be seen."""

    def __init__(self) -> None:
        self._lines = [""]
        self._row = 0
        self._column = 0
        self.has_cursor = True

    @property
    def lines(self) -> list[str]:
        """All that have something on them."""
        return [line.rstrip() for line in self._lines if line.strip()]

    def write(self, written: str) -> None:
        """Take it as a terminal would; raises ValueError for what it does not know."""
        place = 0
        for token in _TOKEN.finditer(written):
            if token.start() != place:
                raise ValueError(written[place : token.start()])
            place = token.end()
            if token["text"]:
                self._put(token["text"])
            elif token["one"] == "\r":
                self._column = 0
            elif token["one"] == "\n":
                self._row, self._column = self._row + 1, 0
                self._lines += [""] * (self._row + 1 - len(self._lines))
            else:
                self._control(token["letter"], token["numbers"])
        if place != len(written):
            raise ValueError(written[place:])

    def _put(self, text: str) -> None:
        line = self._lines[self._row].ljust(self._column)
        end = self._column + len(text)
        self._lines[self._row] = line[: self._column] + text + line[end:]
        self._column = end

    def _control(self, letter: str, numbers: str) -> None:
        match letter, numbers:
            case "m", _:
                pass
            case "K", "2":
                self._lines[self._row] = ""
            case "A", _:
                self._row = max(0, self._row - int(numbers or 1))
            case "l" | "h", "?25":
                self.has_cursor = letter == "h"
            case _:
                raise ValueError(f"{numbers}{letter}")
