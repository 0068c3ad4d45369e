"""Child processes that start ready, stop for certain, and never outlive the process that started them.

Each child has a process group of its own (so that Ctrl-C reaches only us, and we stop the children in order), a log
file, and `guard.py` around it, which has the kernel kill it when we die. The kernel counts the *thread* that forked as
the parent, so all children are forked by one thread that lives as long as this process.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from dragonfly.sandbox import guard

Condition = Callable[[], bool]

_POLL_SECONDS: Final = 0.03
_LAST_LINES: Final = 25


class ProcessFailed(Exception):
    """A program ended, or did not become ready in time; the message has its last log lines and where the rest is."""


class Program(msgspec.Struct, frozen=True):
    """What to run. `environment` is added to this process's own."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    directory: Path | None = None


class Service:
    """A program, and when it counts as ready. Can be started again after it was stopped, killed, or died."""

    def __init__(self, program: Program, ready: Condition, *, within: float) -> None:
        """`within`: seconds that it has to become ready."""
        self.program = program
        self._ready = ready
        self._within = within
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int:
        """The last started child's process id.

        Raises:
            ProcessFailed: it was never started.
        """
        if self._child is None:
            raise ProcessFailed(f"{self.name} was not started")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended: negative for a signal; None while it runs or before it started."""
        return self._child.poll() if self._child else None

    def start(self) -> None:
        """Start and wait until it is ready.

        Raises:
            ProcessFailed: it ended, or was not ready in time.
        """
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start without waiting; does nothing if it runs already."""
        if not self.running:
            self._child = _forker().submit(_fork, self.program).result()

    def wait_ready(self) -> None:
        """Wait until the condition holds; a program that ends fails at once.

        Raises:
            ProcessFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + self._within
        while not self._ready():
            if not self.running:
                raise ProcessFailed(
                    f"{self.name} ended with {self._ending()} before it was ready. {self._last_words()}"
                )
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} was not ready within {self._within:g} s. {self._last_words()}")
            time.sleep(_POLL_SECONDS)

    def stop(self, grace: float = 10) -> None:
        """SIGTERM, then SIGKILL to the whole group after `grace` seconds. Does nothing if it does not run."""
        self.terminate()
        if not self.wait(grace):
            self.kill()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a paused process can't obey

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when it is gone."""
        child = self._child  # whoever keeps it running may start the next one meanwhile
        if child is None:
            return
        self.signal(signal.SIGKILL)
        child.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send to the whole process group, if it is still there."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that many seconds."""
        if self._child is None:
            return True
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _ending(self) -> str:
        code = self._child.returncode if self._child else None
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}"

    def _last_words(self) -> str:
        log = self.program.log
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
        return "\n".join([f"The log is {log}; it ends with:", *lines])


def _fork(program: Program) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *program.command]
    with program.log.open("ab") as log:
        return subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **program.environment},
            cwd=program.directory,
            start_new_session=True,
        )


@functools.cache
def _forker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-forker")
