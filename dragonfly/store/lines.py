"""A stream of bytes cut into lines, wherever the network cut it."""

from __future__ import annotations


class LineSplitter:
    """Splits at newline bytes only, so a character or a line may arrive in any number of parts.

    Parts of an unfinished line are kept in a list and joined once: a line of many megabytes costs its length, not the
    square of it.
    """

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, part: bytes) -> list[bytes]:
        """Take the next bytes, return the lines that are whole now, without newlines and without empty ones."""
        *ended, rest = part.split(b"\n")
        if ended:
            ended[0] = b"".join((*self._begun, ended[0]))
            self._begun.clear()
        if rest:
            self._begun.append(rest)
        return [line for line in ended if line.strip()]
