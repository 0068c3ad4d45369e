"""Watches over running services: tells when one dies, and starts it again."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, NamedTuple, Self

from dragonfly.sandbox.process import Service

_LOOK_SECONDS: Final = 0.1
_SHORTEST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
_SETTLED_SECONDS: Final = 10.0  # what lived this long is started again without a longer pause


class Death(NamedTuple):
    """A process ended without having been told to; `new_pid` is None where nothing is started again."""

    name: str
    pid: int
    new_pid: int | None


class Keepers:
    """Keeps services running while the block runs; they must be running when it begins, and are stopped after it."""

    def __init__(self, services: tuple[Service, ...], *, restart: bool, on_death: Callable[[Death], None]) -> None:
        """`on_death`: called in a thread of the service's own, after it was started again."""
        self._keepers = [_Keeper(service, restart=restart, on_death=on_death) for service in services]

    def start(self) -> None:
        for keeper in self._keepers:
            keeper.start()

    def stop(self) -> None:
        """Returns when nothing is started again any more."""
        with ExitStack() as stack:
            for keeper in self._keepers:
                stack.callback(keeper.join)
                keeper.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Keeper:
    """A thread that sees its service die, and starts it again after a pause that grows while it dies young."""

    def __init__(self, service: Service, *, restart: bool, on_death: Callable[[Death], None]) -> None:
        self._service = service
        self._restart = restart
        self._on_death = on_death
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keeper-{service.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause, born = _SHORTEST_PAUSE, time.monotonic()
        while not self._stopped.wait(_LOOK_SECONDS):
            if self._service.running:
                continue
            pid = self._service.pid
            if not self._restart:
                self._on_death(Death(self._service.name, pid, None))
                return
            if self._stopped.wait(pause):
                return
            is_settled = time.monotonic() - born > _SETTLED_SECONDS
            pause = _SHORTEST_PAUSE if is_settled else min(2 * pause, _LONGEST_PAUSE)
            self._service.spawn()
            born = time.monotonic()
            self._on_death(Death(self._service.name, pid, self._service.pid))
