"""Tables as kubectl prints them: columns apart by blanks, no borders; shortened only to fit a terminal."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console
from rich.text import Text

from dragonfly.cli.kinds import Cell, Column, Document

_GAP = "   "
_NARROWEST = 12
"""Cells that the head and the tail of a ULID fit into; a line that is still too long is cut off."""


class Table:
    """Prints rows of the same columns, also over time: a column once wide stays wide."""

    def __init__(self, titles: Sequence[str], out: Console) -> None:
        self._titles = tuple(titles)
        self._out = out
        self._widths = [len(title) for title in titles]

    def header(self) -> None:
        self._print([Cell(title, "bold") for title in self._titles])

    def fit(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Make the columns wide enough for `rows`."""
        for row in rows:
            for index, cell in enumerate(row):
                self._widths[index] = max(self._widths[index], Text(_clean(cell.text)).cell_len)

    def row(self, cells: Sequence[Cell]) -> None:
        self.fit([cells])
        self._print(cells)

    def _print(self, cells: Sequence[Cell]) -> None:
        line = Text()
        for cell, width in zip(cells, self._fitting(), strict=True):
            text = Text(_shortened(_clean(cell.text) or "-", width), style=cell.style)
            text.pad_right(max(0, width - text.cell_len))
            line += text + Text(_GAP)
        line.rstrip()
        print_line(line, self._out)

    def _fitting(self) -> list[int]:
        """Return the columns' widths; on a terminal that is too narrow the widest give way first, phases never."""
        widths = list(self._widths)
        if not self._out.is_terminal:
            return widths
        spare = self._out.width - sum(widths) - len(_GAP) * (len(widths) - 1)
        giving = [index for index, title in enumerate(self._titles) if title != "PHASE"]
        while spare < 0 and giving:
            widest = max(giving, key=lambda index: widths[index])
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
            spare += 1
        return widths


def print_line(line: Text, out: Console) -> None:
    """Print one line: cut off with an ellipsis on a terminal, whole anywhere else."""
    if out.is_terminal:
        out.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        out.print(line, soft_wrap=True)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Cell]], out: Console) -> None:
    table = Table(titles, out)
    table.fit(rows)
    table.header()
    for row in rows:
        table.row(row)


def cells(document: Document, columns: Iterable[Column], now: datetime) -> list[Cell]:
    return [column.cell(document, now) for column in columns]


def _clean(text: str) -> str:
    """Keep control characters that somebody wrote into a field from steering the reader's terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _shortened(text: str, width: int) -> str:
    """Cut in the middle: ULIDs of the same time differ at their ends."""
    if len(text) <= width or Text(text).cell_len <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
