"""The installation's journal on this host: what was begun, how it is taken back, what was done. It survives kill -9.

Before a step touches anything, how to take it back is on the disk; that it is done is written after it is. So a step
that was begun and not done may have happened in part: it is carried out again, and its undo stays the one that was made
when nothing of it had happened. Only whole lines count.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

import msgspec

from dragonfly.install.durable import beside, replace, sync
from dragonfly.install.options import Options
from dragonfly.install.stage import Stage
from dragonfly.install.steps import Undo

VERSION: Final = 1

_LOOK_SECONDS: Final = 0.2
_PRIVATE: Final = 0o600

State: TypeAlias = Literal["begun", "done", "undone"]


class UnknownJournal(Exception):
    """The journal is a newer Dragonfly's, or damaged; the message says what to do."""


class Busy(Exception):
    """Another process changes this host."""


class _Opened(msgspec.Struct, frozen=True, tag="opened"):
    version: int


class _Asked(msgspec.Struct, frozen=True, tag="asked"):
    options: Options
    record: str | None = None
    """The cluster's record of its installation then; None if nobody looked."""


class _Begun(msgspec.Struct, frozen=True, tag="begun"):
    step: str
    undo: tuple[Undo, ...]


class _Done(msgspec.Struct, frozen=True, tag="done"):
    step: str
    proof: str = ""


class _Undone(msgspec.Struct, frozen=True, tag="undone"):
    step: str
    kept: tuple[Undo, ...] = ()


class _Installed(msgspec.Struct, frozen=True, tag="installed"):
    """The whole plan was carried out."""

    address: str


class _Left(msgspec.Struct, frozen=True, tag="left"):
    """The host that founded a cluster left it to others."""

    others: tuple[str, ...]


_Entry: TypeAlias = _Opened | _Asked | _Begun | _Done | _Undone | _Installed | _Left

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Entry).decode


class Record(msgspec.Struct, frozen=True):
    """What the journal knows of a step."""

    step: str
    state: State
    undo: tuple[Undo, ...]
    """What is still to be taken back."""
    proof: str = ""
    """By which its outcome is known again."""


class Journal:
    """The journal of one host, in a directory that is made with its first entry."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "journal"

    @property
    def saved(self) -> Path:
        """Where files lie that were replaced."""
        return self.directory / "saved"

    @property
    def former(self) -> Path:
        """Where an upgrade keeps what the replicas were before it."""
        return self.directory / "before-upgrade"

    def keep_former(self, content: bytes) -> None:
        """Have `former` on the disk with this content, or with what it had before."""
        replace(self.former, _PRIVATE, lambda file: file.write(content))

    def exists(self) -> bool:
        """Whether there is one that we may read."""
        return os.access(self._file, os.R_OK)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have it for ourselves for the block.

        Raises:
            Busy: another process has it.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / "lock").open("ab") as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                # Who only looked (`is_held`) is gone by now.
                time.sleep(_LOOK_SECONDS)
                if not _locked(lock, fcntl.LOCK_EX):
                    raise Busy("another installation, upgrade or uninstallation runs on this host")
            yield

    def is_held(self) -> bool:
        """Whether a process has it for itself now."""
        try:
            lock = (self.directory / "lock").open("rb")
        except OSError:
            return False
        with lock:
            return not _locked(lock, fcntl.LOCK_SH)

    def remove(self) -> None:
        """Remove it, with its directory, and the one above if nothing else is in that."""
        if self.directory.is_dir():
            shutil.rmtree(self.saved, ignore_errors=True)
            for file in (self._file, beside(self._file), self.former, beside(self.former), self.directory / "lock"):
                file.unlink(missing_ok=True)
        for directory in (self.directory, self.directory.parent):
            with contextlib.suppress(OSError):  # not there, or something else is in it
                directory.rmdir()

    def records(self) -> Mapping[str, Record]:
        """Return the steps by name, in the order in which they were begun.

        Raises:
            UnknownJournal: a newer Dragonfly wrote it, or a line is damaged.
        """
        return _records(self._entries())

    def options(self) -> Options | None:
        """Return what was asked for last; None if nothing was."""
        asked = [entry.options for entry in self._entries() if isinstance(entry, _Asked)]
        return asked[-1] if asked else None

    def address(self) -> str:
        """Return where the swarm answered when it was installed last; empty if it never was."""
        found = [entry.address for entry in self._entries() if isinstance(entry, _Installed)]
        return found[-1] if found else ""

    def left_to(self) -> tuple[str, ...]:
        """Return the servers to which this host, which founded their cluster, left it; none since it began anew."""
        found: tuple[str, ...] = ()
        for entry in self._entries():
            if isinstance(entry, _Left):
                found = entry.others
            elif isinstance(entry, _Begun):
                found = ()
        return found

    def left(self, others: tuple[str, ...]) -> None:
        self._write(_Left(others))

    def stage(self) -> Stage:
        """Return how far the installation is; raises nothing for what cannot be read."""
        if not self.exists():
            return self._without_entries()
        try:
            return self._stage()
        except (OSError, UnknownJournal) as error:
            return Stage("unreadable", reason=str(error))

    def told_on(self) -> str | None:
        """Return the cluster's record on top of which something was asked that has not come to its end; None if none.

        Raises:
            UnknownJournal: as `records`.
        """
        found: str | None = None
        for entry in self._entries():
            if isinstance(entry, _Asked):
                found = entry.record
            elif isinstance(entry, _Installed):
                found = None
        return found

    def asked(self, options: Options, record: str | None = None) -> None:
        """Note what is asked of this host, on top of the record that the cluster has."""
        if self.options() != options or self.told_on() != record:
            self._write(_Asked(options, record))

    def begun(self, step: str, undo: tuple[Undo, ...]) -> None:
        self._write(_Begun(step, undo))

    def done(self, step: str, proof: str) -> None:
        self._write(_Done(step, proof))

    def undone(self, step: str, kept: tuple[Undo, ...]) -> None:
        self._write(_Undone(step, kept))

    def installed(self, address: str) -> None:
        self._write(_Installed(address))

    def _without_entries(self) -> Stage:
        # The outer one first: what is in one that is closed cannot even be asked for.
        for directory in (self.directory.parent, self.directory):
            if directory.is_dir() and not os.access(directory, os.X_OK):
                return Stage("unreadable", reason=f"only root may read {self._file}")
        return Stage("unrecorded")

    def _stage(self) -> Stage:
        entries = tuple(self._entries())
        records = tuple(_records(entries).values())
        stands = [record.step for record in records if record.state != "undone"]
        begun = [record.step for record in records if record.state == "begun"]
        step = (begun or stands or [""])[-1]
        address, goes_back = _come_to(entries)
        if self.is_held():
            return Stage("working", step)
        if records and not stands:
            return Stage("kept")
        if goes_back:
            return Stage("leaving", stands[-1])
        if address:
            return Stage("installed", begun[-1] if begun else "", address, self.former.exists())
        return Stage("begun", step)

    def _entries(self) -> Iterator[_Entry]:
        for number, line in enumerate(self._whole().splitlines(), 1):
            try:
                is_newer = b'"opened"' in line and _version(line) > VERSION
                entry = None if is_newer else _decode(line)
            except (msgspec.DecodeError, ValueError) as error:
                raise UnknownJournal(
                    f"{self._file}, line {number}, cannot be read: {error}. It says what was done here, or "
                    "how it is taken back: put the file back as it was, from a backup of this host"
                ) from error
            if entry is None:
                raise UnknownJournal(
                    f"{self._file} was written by a newer Dragonfly: use that one, or a newer one still"
                )
            yield entry

    def _write(self, entry: _Entry) -> None:
        if not self._file.exists():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync(self.directory.parent)
        whole = self._whole() or _encode(_Opened(VERSION)) + b"\n"
        replace(self._file, _PRIVATE, lambda file: file.write(whole + _encode(entry) + b"\n"))

    def _whole(self) -> bytes:
        """Return the whole lines; an older Dragonfly, killed, may have left a part of one after them."""
        text = self._file.read_bytes() if self.exists() else b""
        return text[: text.rfind(b"\n") + 1]


def _records(entries: Iterable[_Entry]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for entry in entries:
        match entry:
            case _Begun(step, undo):
                found.pop(step, None)
                found[step] = Record(step, "begun", undo)
            case _Done(step, proof) if step in found:
                found[step] = msgspec.structs.replace(found[step], state="done", proof=proof)
            case _Undone(step, kept) if step in found:
                found[step] = Record(step, "undone", kept)
            case _:
                pass
    return found


def _come_to(entries: Iterable[_Entry]) -> tuple[str, bool]:
    """Return where the swarm answers, empty if it does not, and whether the installation is being taken off."""
    address, goes_back = "", False
    for entry in entries:
        match entry:
            case _Installed(found):
                address = found
            case _Undone():
                address, goes_back = "", True
            case _Begun():
                goes_back = False
            case _:
                pass
    return address, goes_back


def _locked(file: IO[bytes], kind: int) -> bool:
    """Lock a file until it is closed; False if another process has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _version(line: bytes) -> int:
    opened = msgspec.json.decode(line, type=dict[str, Any])
    return int(opened.get("version", 0)) if opened.get("type") == "opened" else 0
