"""Where a node lives: namespaces and control groups of its own, on the test's network. All of it goes with the block.

Some of its directories are in memory and its own; all else is this computer's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dragonfly.sandbox.host import Host
from dragonfly.sandbox.process import Program, Service
from tests.chaos.netns import Node
from tests.node.cgroups import Hierarchy, made

_FIRST: Final = Path(__file__).parent / "first.py"
_OWN: Final = ("/run", "/var/lib", "/var/log", "/opt")
_JOIN: Final = 'for group in $0; do echo $$ >"$group/cgroup.procs" || exit; done; exec "$@"'


class Place:
    """One computer, as far as those in it can tell."""

    def __init__(
        self, name: str, node: Node, directory: Path, *, own: Sequence[str] = (), copied: Sequence[str] = ()
    ) -> None:
        """Nothing is made before `running`.

        Args:
            own: directories that it has for itself and that are empty at first, besides those that all have.
            copied: the same, but what this computer has in them is there at first.
        """
        self.name = name
        self._own = (*_OWN, *own)
        self._copied = tuple(copied)
        self.address = str(node.management)
        """Where the test reaches it, and everybody in it too."""
        self._node = node
        self._directory = directory
        self._first: Service
        self._joined: str

    @contextmanager
    def running(self) -> Iterator[Place]:
        """Have it for the block.

        Raises:
            NoControlGroups: none can be made here.
            ProcessFailed: nor can a namespace.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with made(f"dragonfly-test-{os.getpid()}-{self.name}") as hierarchies:
            # As those in it see them: its own group is the root.
            self._joined = " ".join(str(Path(each.mount) / each.joined) for each in hierarchies)
            self._first = self._service(hierarchies)
            try:
                self._first.start()
                yield self
            finally:
                self._first.kill()

    def fail(self) -> None:
        """Take its power away: all that runs there is gone at once, and nothing is tidied up."""
        self._first.kill()

    @property
    def root(self) -> Path:
        """Its files, as this computer sees them."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def host(self) -> Host:
        return Host(self.address, self.address, self.enter)

    @property
    def pid(self) -> int:
        """Its first process, as this computer counts them."""
        unshare = self._first.pid
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    @property
    def enter(self) -> tuple[str, ...]:
        """What stands before a command to have it run there."""
        namespaces = ("--mount", "--uts", "--ipc", "--pid", "--net", "--cgroup")
        return ("nsenter", "--target", str(self.pid), *namespaces, "--", "sh", "-c", _JOIN, self._joined)

    def run(self, *command: str, given: bytes | None = None) -> str:
        """Run a program there to its end; what it wrote.

        Raises:
            AssertionError: it failed; has its words.
        """
        done = subprocess.run([*self.enter, *command], input=given, capture_output=True, check=False, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode(errors="replace")

    def _service(self, hierarchies: list[Hierarchy]) -> Service:
        ready = self._directory / "ready"
        fields = ("mount", "kind", "options", "own", "joined", "enabled")
        told = [{field: getattr(each, field) for field in fields} for each in hierarchies]
        command = (
            *self._node.host.enter,
            *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, str(_FIRST), self.name, json.dumps(told), ":".join(self._own), ":".join(self._copied)),
            str(ready),
        )
        return Service(Program(self.name, command, self._directory / f"{self.name}.log"), ready.exists, within=60)
