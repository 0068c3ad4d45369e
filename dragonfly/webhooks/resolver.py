"""Names to addresses in threads of its own: a name whose servers do not answer must not keep anybody else waiting.

Each name has one thread at most, and there are enough for dozens of dead ones.

The event loop's own resolver has four threads (libuv's), which the connections to clusters need.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

_THREADS: Final = 64
"""Names that can be asked for at once. A lookup cannot be cut off: one whose servers are dead holds its thread for some
ten to thirty seconds, whoever still waits for it."""

_Found: TypeAlias = Sequence[tuple[socket.AddressFamily, int, int, str, tuple[Any, ...]]]


class Resolver(AbstractResolver):
    """Asks the system, as everybody does."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="webhook-names")
        self._asked: dict[tuple[str, int], asyncio.Future[_Found]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.shield(self._lookup(host, family))
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    def _lookup(self, host: str, family: socket.AddressFamily) -> asyncio.Future[_Found]:
        """Ask for a name, or wait with those who did: however many webhooks lead to it, it has one thread."""
        key = (host, family)
        if (asked := self._asked.get(key)) is not None:
            return asked
        ask = partial(socket.getaddrinfo, host, None, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        asked = asyncio.get_running_loop().run_in_executor(self._threads, ask)
        self._asked[key] = asked
        asked.add_done_callback(lambda done: self._ended(key, done))
        return asked

    def _ended(self, key: tuple[str, int], done: asyncio.Future[_Found]) -> None:
        del self._asked[key]
        if not done.cancelled():
            done.exception()  # seen, though nobody may wait for it any more

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
