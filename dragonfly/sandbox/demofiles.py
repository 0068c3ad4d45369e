"""Where a demo keeps its files, and `demo.json`, by which other programs find it.

A directory belongs to one demo at a time: it holds a lock there, which the kernel gives back however the demo ends.
"""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from dragonfly.sandbox.cache import cache_root
from dragonfly.sandbox.pki import write_private

_FILE: Final = "demo.json"
_LOCK: Final = "demo.lock"
_STATE: Final = "state"


class ReplicaEntry(msgspec.Struct, frozen=True):
    id: str
    pid: int
    url: str


class Listed(msgspec.Struct, frozen=True):
    name: str
    pid: int


class DemoFile(msgspec.Struct, frozen=True, rename="camel"):
    """The content of demo.json."""

    url: str
    token_file: str
    kubeconfig: str
    etcd: tuple[str, ...]
    tink_server: str
    audit_log: str
    replicas: tuple[ReplicaEntry, ...]
    processes: tuple[Listed, ...]


class DemoRuns(Exception):
    """The directory is another demo's; the message says which, or what else is in the way."""


class Home:
    """A demo's directory while it runs."""

    def __init__(self, directory: Path, *, keep: bool) -> None:
        """`keep`: what the parts wrote stays there afterwards, for a look."""
        self._directory = directory.absolute()
        self._keep = keep
        self.file = self._directory / _FILE
        self.state = self._directory / _STATE

    def __enter__(self) -> Self:
        """Take the directory.

        Raises:
            DemoRuns: another demo has it, or it holds the files of one that was kept.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.unlink(missing_ok=True)
        if not self._keep:
            shutil.rmtree(self.state)
        (self._directory / _LOCK).unlink(missing_ok=True)
        os.close(self._lock)
        with contextlib.suppress(OSError):  # not empty: kept, or somebody else's files
            self._directory.rmdir()

    def publish(self, content: DemoFile) -> None:
        """Write demo.json so that a reader sees the old or the new one, never half of it."""
        draft = self._directory / f".{_FILE}.{os.getpid()}"
        write_private(draft, msgspec.json.format(msgspec.json.encode(content)))
        draft.replace(self.file)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoRuns(self._other()) from None
        if not self._is_current():
            raise DemoRuns("Another demo was just ending. Try again")
        if self._keep and self.state.exists():
            raise DemoRuns(f"{self.state} holds what another demo kept. Remove it, or give --keep another directory")
        # Left by a demo that was killed with -9.
        shutil.rmtree(self.state, ignore_errors=True)
        self.file.unlink(missing_ok=True)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        self.state.mkdir(mode=0o700)

    def _is_current(self) -> bool:
        """Whether the lock's file is still the one of this name: an ending demo removes it."""
        path = self._directory / _LOCK
        return path.exists() and os.path.samestat(path.stat(), os.fstat(self._lock))

    def _other(self) -> str:
        pid = os.pread(self._lock, 32, 0).decode() or "unknown"
        try:
            url = msgspec.json.decode(self.file.read_bytes(), type=DemoFile).url
        except FileNotFoundError:
            url = "an address that it has not got yet"
        return (
            f"A demo runs already: pid {pid}, at {url}. Stop it (kill {pid}), or start another beside it with "
            f"--keep DIR and --port"
        )


def default_home() -> Path:
    return cache_root() / "demo"
