"""Where built programs are kept, and the proof that they are still what was built.

A cache entry is a directory named by a hash of everything that decides its content: go.mod, go.sum, the build's flags
and the platform. Beside the programs lies `manifest.json` with the SHA-256 of each. An entry appears by a rename, so
it is never half there; builders take a lock on the file beside it.
"""

import fcntl
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

_MANIFEST: Final = "manifest.json"


class DamagedCache(Exception):
    """A cached program is not the one that was built; the message says which, and what to delete."""


class Fingerprint(msgspec.Struct, frozen=True):
    """A file's identity: its hash, and the size and time that tell whether the hash must be computed again."""

    sha256: str
    size: int
    mtime_ns: int


class Cache:
    """The entry for one set of pinned versions and flags."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path | None:
        """The program if it is cached and undamaged, else None.

        Raises:
            DamagedCache: the file's content is not what was built.
        """
        manifest = self._manifest()
        expected, file = manifest.get(name), self.directory / name
        if expected is None or not file.is_file():
            return None
        status = file.stat()
        if (status.st_size, status.st_mtime_ns) == (expected.size, expected.mtime_ns):
            return file
        found = fingerprint(file)
        if found.sha256 != expected.sha256:
            raise DamagedCache(
                f"{file} is not what was built (its SHA-256 differs). Delete {self.directory} and try again"
            )
        self._record({name: found})
        return file

    def put(self, name: str, built: Path) -> Path:
        """Move a built file, on the same file system, into the entry; it appears whole or not at all."""
        target = self.directory / name
        found = fingerprint(built)
        self.directory.mkdir(parents=True, exist_ok=True)
        built.replace(target)
        self._record({name: found})
        return target

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A temporary directory on the cache's own file system."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=self.directory.parent) as directory:
            yield Path(directory)

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the only builder's lock; `waiting` is called once if another process has it."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        lock = self.directory.with_name(f"{self.directory.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _manifest(self) -> dict[str, Fingerprint]:
        file = self.directory / _MANIFEST
        if not file.is_file():
            return {}
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Fingerprint])

    def _record(self, found: dict[str, Fingerprint]) -> None:
        content = msgspec.json.format(msgspec.json.encode({**self._manifest(), **found}))
        draft = self.directory / f"{_MANIFEST}.{os.getpid()}"
        draft.write_bytes(content)
        draft.replace(self.directory / _MANIFEST)


def cache_root() -> Path:
    """`dragonfly` below the user's cache directory (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dragonfly"


def entry_key(pins: Sequence[bytes], flags: Sequence[str]) -> str:
    """The name of the entry for these pins and flags on this platform."""
    digest = hashlib.sha256()
    for part in (*pins, *(flag.encode() for flag in flags), sys.platform.encode(), platform.machine().encode()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


def fingerprint(file: Path) -> Fingerprint:
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    status = file.stat()
    return Fingerprint(sha256, status.st_size, status.st_mtime_ns)
