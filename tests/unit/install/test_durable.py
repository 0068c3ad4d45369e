"""A file that is replaced is the old or the new one, whatever ends that."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import IO

import pytest

from dragonfly.install.durable import beside, replace
from dragonfly.install.journal import Journal
from dragonfly.install.options import Options
from tests.unit.install.crashes import killed_at


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_a_file_that_is_replaced_is_the_old_or_the_new_one_wherever_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = set()

    def work() -> None:
        replace(path, 0o640, lambda file: file.write(b"new"))

    for touch in itertools.count(1):
        path.write_bytes(b"old")
        was_killed = killed_at(touch, work)
        seen.add(path.read_bytes())
        if not was_killed:
            break

    assert seen == {b"old", b"new"}
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        replace(path, 0o600, write)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_is_removed_with_what_a_crash_left_beside_its_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "dragonfly" / "install")
    journal.asked(Options())
    journal.keep_former(b"{}")
    for file in (journal.former, journal.directory / "journal"):
        beside(file).write_bytes(b"half")

    journal.remove()

    assert not (tmp_path / "dragonfly").exists()


def test_how_far_it_is_is_told_by_one_look_at_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two could see two journals."""
    journal = Journal(tmp_path / "install")
    journal.installed("http://10.0.0.1:3000")
    looks: list[Path] = []
    read = Path.read_bytes

    def looked(path: Path) -> bytes:
        looks.append(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", looked)

    assert journal.stage().state == "installed"
    assert looks == [journal.directory / "journal"]
