"""HTTP connections that can be broken off: a client that does not read must not keep its answer in memory for ever."""

import socket
from collections.abc import Callable
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UNANSWERED: Final = 60
"""Seconds after which the kernel gives up a connection whose peer takes nothing."""

_UNSENT: Final = 128 * 1024
"""Bytes that the kernel keeps for a peer beside what is on its way; else megabytes for one that never reads."""

_ABORT: Final = "dragonfly.abort"


class HttpConnection(HttpToolsProtocol):
    """Uvicorn's, with the way to break it off in each request's scope."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[_ABORT] = self.transport.abort


def abort_of(scope: Scope) -> Callable[[], None]:
    """What breaks off a request's connection at once, with all that has not been sent."""
    return cast("Callable[[], None]", scope.get(_ABORT, _nothing))


def bound(listener: socket.socket) -> None:
    """Let the kernel give up connections whose peers take nothing, and keep little for them; they inherit it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED * 1_000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def _nothing() -> None:
    """A connection of another server ends by itself."""
