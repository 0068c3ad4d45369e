"""A watch that is read for another replica: a thread reads etcd's stream, the event loop takes its lines.

The thread reads no further than a few lines ahead, so that a replica that takes nothing fills nobody's memory: what it
does not take stays in etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import structlog

from dragonfly.store.errors import StoreError
from dragonfly.store.faults import Fault, TokenRefused
from dragonfly.store.gateway import Gateway

_log = structlog.get_logger(__name__)

_AHEAD: Final = 16
"""Lines; etcd cuts them at 1.5 MiB."""


class RelayedWatch:
    """One stream; `start`, take `line` after `line`, `close`."""

    def __init__(self, gateway: Gateway, body: Any, silence: float, *, ended: Callable[[RelayedWatch], None]) -> None:
        """Connect to nothing yet.

        Args:
            gateway: the watch's own, closed with it.
            body: what etcd is asked.
            silence: seconds without a line after which it ends.
            ended: called once, in the event loop that `start` was called in, when the thread is done.
        """
        self._gateway = gateway
        self._body = body
        self._silence = silence
        self._ended = ended
        self._lines: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="relay-watch", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def line(self) -> bytes | None:
        """Return the next line; None once it is closed.

        Raises:
            Fault, StoreError, TokenRefused: why there is none.
        """
        found = await self._lines.get()
        self._room.release()
        if isinstance(found, Exception):
            raise found
        return None if self._closed.is_set() else found

    def close(self) -> None:
        """End it; whoever waits for a line is woken."""
        if not self._closed.is_set():
            self._closed.set()
            self._gateway.close()
            self._lines.put_nowait(None)

    async def join(self) -> None:
        """Wait for the thread of a watch that was closed."""
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _read(self) -> None:
        try:
            with self._gateway.stream("watch", self._body, self._silence) as (_, lines):
                for line in lines:
                    if not self._has_room():
                        return
                    self._hand_over(line)
        except (Fault, StoreError, TokenRefused) as error:
            self._hand_over(error)
        except Exception:  # a bug must not leave whoever reads waiting for ever
            _log.exception("relay.watch_failed")
            self._hand_over(Fault("the relay has a bug"))
        finally:
            self._gateway.close()
            with contextlib.suppress(RuntimeError):  # the loop is closed: this replica ends
                self._loop.call_soon_threadsafe(self._ended, self)

    def _has_room(self) -> bool:
        while not self._room.acquire(timeout=0.2):
            if self._closed.is_set():
                return False
        return not self._closed.is_set()

    def _hand_over(self, found: bytes | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(self._lines.put_nowait, found)
