"""Files and services of this host, changed so that a crash leaves the old or the new, never half of either."""

import hashlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import IO, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from dragonfly.install.control_groups import end_all
from dragonfly.install.durable import beside, replace
from dragonfly.install.execution import StepFailed, Unreachable
from dragonfly.install.k3s import BINARY
from dragonfly.install.mounts import mounts, to_unmount
from dragonfly.install.steps import RemoveDirectory, RemoveFile, RestoreFile, Undo

_PIECE: Final = 1 << 20
_COMMAND_SECONDS: Final = 300
_START_SECONDS: Final = 1800
_SILENCE_SECONDS: Final = 60
_IS_RULE_OF_K3S: Final = re.compile("KUBE-|CNI-|flannel", re.IGNORECASE)
_UNITS: Final = "/etc/systemd/system"
_NETWORKS: Final = "/run/netns"
"""Where namespaces of networks have names; those of pods begin with `cni-`."""


class Host:
    """This computer, or a tree that stands for it."""

    def __init__(self, root: Path = Path("/"), *, scheme: str = "https") -> None:
        """Look at a tree.

        Args:
            root: where it is; tests have one of their own.
            scheme: of what is downloaded; tests have a server without certificates.
        """
        self._root = root
        self._scheme = scheme

    def path(self, place: str) -> Path:
        return self._root / place.lstrip("/")

    def undo_of_file(self, place: str, saved: Path) -> tuple[Undo, ...]:
        """Return what brings back what is there now; a file that is there is copied to `saved` first."""
        path = self.path(place)
        if path.exists():
            mode = path.stat().st_mode & 0o777
            with path.open("rb") as source:
                self._put(source, saved, 0o600, lambda _: None)
            return (RestoreFile(place, str(saved), mode),)
        return (RemoveFile(place), *self.undo_of_parents(place))

    def undo_of_parents(self, place: str) -> tuple[Undo, ...]:
        """Return what removes the directories above that are not there yet, the innermost first."""
        missing = [parent for parent in self._above(place) if not self.path(parent).exists()]
        return tuple(map(RemoveDirectory, missing))

    def write(self, place: str, content: bytes, mode: int) -> None:
        """Replace a file in one go."""
        path = self.path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as source:
            source.write(content)
            source.seek(0)
            self._put(source, path, mode, lambda _: None)

    def copy(self, source: Path, place: str, mode: int, say: Callable[[str], None]) -> str:
        """Copy a file, and return its SHA-256.

        Raises:
            StepFailed: the source cannot be read, or the disk is full.
        """
        try:
            path = self.path(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as content:
                return self._put(content, path, mode, say)
        except OSError as error:
            raise StepFailed(f"{source} cannot be copied to {place}: {error.strerror}") from error

    def download(self, url: str, sums: str, place: str, mode: int, say: Callable[[str], None]) -> str:
        """Fetch a file that is what its checksum says, and return its SHA-256.

        Raises:
            Unreachable: nobody serves it, or not to the end.
            StepFailed: it is not there, or another, or cannot be written.
        """
        expected = expected_sum(self._fetched(sums), url)
        try:
            path = self.path(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened(url) as content:
                return self._put(content, path, mode, say, expected=expected)
        except (HTTPException, ConnectionError, TimeoutError) as error:
            raise Unreachable(f"{url} cannot be fetched: {error}", "Try again.") from error
        except OSError as error:
            raise StepFailed(f"{place} cannot be written: {error.strerror or error}") from error

    def has(self, place: str, content: bytes, mode: int) -> bool:
        path = self.path(place)
        return path.is_file() and path.stat().st_mode & 0o777 == mode and path.read_bytes() == content

    def is_torn(self, place: str) -> bool:
        """Whether a crash left the beginning of a file's new content beside it."""
        return beside(self.path(place)).exists()

    def sum(self, place: str) -> str:
        """Return a file's SHA-256; empty if it is not there."""
        path = self.path(place)
        return sha256(path) if path.is_file() else ""

    def take_back(self, undo: RemoveFile | RestoreFile | RemoveDirectory) -> None:
        path = self.path(undo.path)
        # What a crash in the middle of replacing it leaves.
        beside(path).unlink(missing_ok=True)
        match undo:
            case RemoveFile():
                path.unlink(missing_ok=True)
            case RestoreFile(_, saved, mode):
                if Path(saved).exists():
                    with Path(saved).open("rb") as source:
                        self._put(source, path, mode, lambda _: None)
            case RemoveDirectory():
                _remove_if_empty(path)
        if undo.path.startswith(_UNITS):
            self.systemctl("daemon-reload")

    def remove_tree(self, place: str) -> None:
        """Remove a directory with all that is in it, after whatever is mounted in it.

        Where a disk is mounted it becomes empty, and stays.

        Raises:
            StepFailed: something in it is busy.
        """
        path = self.path(place)
        for mounted in to_unmount(mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8")), str(path)):
            _run("umount", "--lazy", mounted)
        try:
            if path.is_mount():
                _empty(path)
            elif path.is_dir():
                shutil.rmtree(path)
        except OSError as error:
            raise StepFailed(f"{error.filename} cannot be removed: {error.strerror}") from error

    def holds(self, place: str) -> bool:
        """Whether there is a directory with anything in it."""
        path = self.path(place)
        return path.is_dir() and any(path.iterdir())

    def rename(self, place: str, new: str) -> None:
        """Move a directory to a place beside it where nothing is."""
        self.path(place).rename(self.path(new))

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # A unit of type `notify` is waited for until it is ready; k3s unpacks images first.
        return _run("systemctl", *arguments, seconds=_START_SECONDS)

    def is_active(self, unit: str) -> bool:
        return self.systemctl("is-active", "--quiet", unit).returncode == 0

    def start(self, unit: str) -> None:
        """Start it, or start it again, and have it start at boot.

        Raises:
            StepFailed: it did not; the message has its last words.
        """
        for arguments in (("daemon-reload",), ("enable", unit), ("restart", unit)):
            done = self.systemctl(*arguments)
            if done.returncode != 0:
                raise StepFailed(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}", self.last_words(unit))

    def import_images(self, archive: str) -> None:
        """Give a running k3s the images of an archive.

        Raises:
            StepFailed: it does not take them.
        """
        done = _run(str(BINARY), "ctr", "images", "import", str(self.path(archive)))
        if done.returncode != 0:
            raise StepFailed(f"{archive} cannot be imported: {done.stderr.strip()[-500:]}")

    def stop(self, unit: str) -> None:
        """Stop it with all that it left running, and start it at boot no more; nothing if it is not there."""
        self.systemctl("disable", unit)
        self.systemctl("stop", unit)
        end_all(self.path("/sys/fs/cgroup"), unit)
        self.systemctl("reset-failed", unit)
        for link in ("cni0", "flannel.1", "kube-ipvs0"):
            _run("ip", "link", "delete", link)
        for space in self._pods_networks():
            _run("ip", "netns", "delete", space.name)
        _remove_if_empty(self.path(_NETWORKS))
        for family in ("iptables", "ip6tables"):
            _drop_rules(family)

    def last_words(self, unit: str) -> str:
        said = _run("journalctl", "--unit", unit, "--lines", "15", "--no-pager", "--output", "cat").stdout.strip()
        return f"It said last:\n{said}" if said else f"See: journalctl --unit {unit}"

    def _pods_networks(self) -> list[Path]:
        return sorted(self.path(_NETWORKS).glob("cni-*"))

    def _above(self, place: str) -> Iterator[str]:
        parts = place.strip("/").split("/")[:-1]
        for count in range(len(parts), 0, -1):
            yield "/" + "/".join(parts[:count])

    def _fetched(self, url: str) -> str:
        try:
            with self._opened(url) as answer:
                text = answer.read(_PIECE).decode()
                if answer.length:
                    raise IncompleteRead(text.encode(), answer.length)
                return text
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{url} cannot be fetched: {error}", "Try again.") from error

    def _opened(self, url: str) -> HTTPResponse:
        if not url.startswith(f"{self._scheme}://"):
            raise StepFailed(f"{url}: is not {self._scheme}://")
        try:
            opened: HTTPResponse = urlopen(Request(url), timeout=_SILENCE_SECONDS)  # noqa: S310 - the one scheme alone
        except HTTPError as error:
            raise StepFailed(
                f"{url}: the server says {error.code} {error.reason}", "Is there such a version?"
            ) from error
        except (OSError, HTTPException) as error:
            raise Unreachable(
                f"{url} cannot be fetched: {error}", "Where there is no internet, install from a bundle: --airgap DIR."
            ) from error
        return opened

    def _put(self, source: IO[bytes], path: Path, mode: int, say: Callable[[str], None], *, expected: str = "") -> str:
        """Copy to a file, which is replaced at the end alone; return the SHA-256."""

        def write(target: IO[bytes]) -> str:
            digest = _copied(source, target, say)
            if expected and digest != expected:
                raise StepFailed(f"{path}: its SHA-256 is {digest}, and should be {expected}", "Try again.")
            return digest

        path.parent.mkdir(parents=True, exist_ok=True)
        return replace(path, mode, write)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_sum(sums: str, url: str) -> str:
    """Return the checksum of the file at `url` in the text of sha256sum.

    Raises:
        StepFailed: it has none.
    """
    name = url.rpartition("/")[2]
    for line in sums.splitlines():
        digest, _, file = line.partition(" ")
        if file.strip().lstrip("*") == name:
            return digest
    raise StepFailed(f"there is no checksum of {name} beside {url}")


def _copied(source: IO[bytes], target: IO[bytes], say: Callable[[str], None]) -> str:
    digest, size, told = hashlib.sha256(), 0, time.monotonic()
    while piece := source.read(_PIECE):
        digest.update(piece)
        target.write(piece)
        size += len(piece)
        if time.monotonic() > told + 1:
            say(f"{size >> 20} MiB")
            told = time.monotonic()
    return digest.hexdigest()


def _drop_rules(family: str) -> None:
    """Take out the packet filter's rules that k3s made, as its own k3s-killall.sh does."""
    saved = _run(f"{family}-save")
    kept = [line for line in saved.stdout.splitlines() if not _IS_RULE_OF_K3S.search(line)]
    if saved.returncode == 0 and len(kept) < len(saved.stdout.splitlines()):
        _run(f"{family}-restore", stdin="\n".join([*kept, ""]))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return  # something of somebody else's is in it


def _run(*command: str, stdin: str = "", seconds: int = _COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} took longer than {seconds} s")
