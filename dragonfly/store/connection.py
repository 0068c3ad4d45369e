"""One HTTP connection to etcd: a request out, an answer in, each with a deadline for the whole of it.

urllib3 makes the connection (TLS, host names, socket options), httptools parses the answer in C. `http.client`, which
`requests` and urllib3 read answers with, spends five times the CPU of all the rest of an etcd call on headers.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httptools
import msgspec
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from dragonfly.store.faults import Fault, fault_of
from dragonfly.store.lines import LineSplitter
from dragonfly.store.wire import decode

_RECEIVE = 262_144


class Reply:
    """A whole answer; has what etcd3gw looks at in one of `requests`."""

    __slots__ = ("_kind", "content", "reason", "status_code")

    def __init__(self, status_code: int, reason: str, content: bytes, kind: type[Any]) -> None:
        self.status_code = status_code
        self.reason = f"{status_code} {reason}"
        self.content = content
        self._kind = kind

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The answer as the type that the caller of `post` asked for.

        Raises:
            Fault: it is something else.
        """
        try:
            return decode(self.content, self._kind)
        except msgspec.MsgspecError as error:
            raise Fault(f"unreadable answer: {error}") from error


class _Parsed:
    """What httptools calls while it reads one answer."""

    __slots__ = ("complete", "headed", "parts", "reason", "stays")

    def __init__(self) -> None:
        self.reason = b""
        self.parts: list[bytes] = []
        self.headed = False
        self.stays = True
        self.complete = False

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"connection" and value.lower() == b"close":
            self.stays = False

    def on_headers_complete(self) -> None:
        self.headed = True

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True


def _why(error: OSError | HTTPError) -> str:
    """What the system says, without urllib3's frame around it or the line of OpenSSL's source."""
    if isinstance(error, TimeoutError):
        return "the TLS handshake was not answered in time"
    said = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(said, TimeoutError):
        return "no answer in time"
    return re.sub(r" \(_ssl\.c:\d+\)$", "", getattr(said, "strerror", None) or str(said))


def _peer(link: HTTPConnection) -> str:
    return f"{link.host}:{link.port}{' (the proxy)' if link.proxy is not None else ''}"


class Connection:
    """One connection, used by one thread at a time; `abort` may be called by any."""

    def __init__(self, link: HTTPConnection, clock: Callable[[], float], identity: int = 0) -> None:
        """Connect; `identity`: who we are there (`Leg.identity`).

        Raises:
            Fault: that failed; nothing was sent.
        """
        self._link = link
        self._clock = clock
        self.identity = identity
        try:
            link.connect()
        except (OSError, HTTPError) as error:
            link.close()
            raise Fault(f"can't connect to {_peer(link)}: {_why(error)}", unsent=True) from error
        self._socket: socket.socket = link.sock
        self.reusable = True

    @property
    def alive(self) -> bool:
        """Whether the other side has not closed it while it lay idle."""
        return self.reusable and self._link.is_connected

    def exchange(self, request: bytes, deadline: float, kind: type[Any]) -> Reply:
        """Send, and read the whole answer by `deadline` (the clock's time).

        Raises:
            Fault: no whole answer; the request may have been carried out.
        """
        parsed, parser = self._start(request, deadline)
        while not parsed.complete:
            self._feed(parser, deadline)
        self.reusable = parsed.stays
        return Reply(parser.get_status_code(), parsed.reason.decode(errors="replace"), b"".join(parsed.parts), kind)

    def lines(self, request: bytes, deadline: float, silence: float) -> Iterator[bytes]:
        """Send, and yield the lines of an endless answer; the first bytes must come by `deadline`.

        Raises:
            Fault: the stream ended, broke, or gave nothing for `silence` seconds.
            StoreError, TokenRefused: the answer is one of etcd's errors.
        """
        parsed, parser = self._start(request, deadline)
        while not parsed.headed:
            self._feed(parser, deadline)
        status = parser.get_status_code()
        if status != 200:
            while not parsed.complete:
                self._feed(parser, deadline)
            raise fault_of(b"".join(parsed.parts), f"{status} {parsed.reason.decode(errors='replace')}")
        splitter = LineSplitter()
        while True:
            parts, parsed.parts = parsed.parts, []
            for part in parts:
                yield from splitter.feed(part)
            if parsed.complete:
                raise Fault("the stream ended")
            self._feed(parser, self._clock() + silence)

    def abort(self) -> None:
        """Wake the thread that waits on this connection; it gets a `Fault`."""
        self.reusable = False
        # Past SSLSocket.shutdown, which would take the TLS object away from under the thread that reads.
        with contextlib.suppress(OSError):  # already closed
            # In TLS through a proxy that itself speaks TLS, urllib3 has one around the other.
            socket.socket.shutdown(getattr(self._socket, "socket", self._socket), socket.SHUT_RDWR)

    def close(self) -> None:
        self.reusable = False
        self._link.close()

    def _start(self, request: bytes, deadline: float) -> tuple[_Parsed, httptools.HttpResponseParser]:
        self.reusable = False  # until a whole answer was read
        try:
            self._socket.settimeout(max(deadline - self._clock(), 0.001))
            self._socket.sendall(request)
        except OSError as error:
            raise Fault(f"the request was not sent as a whole: {error}") from error
        parsed = _Parsed()
        return parsed, httptools.HttpResponseParser(parsed)

    def _feed(self, parser: httptools.HttpResponseParser, deadline: float) -> None:
        left = deadline - self._clock()
        if left <= 0:
            raise Fault("no answer in time")
        try:
            self._socket.settimeout(left)
            data = self._socket.recv(_RECEIVE)
        except TimeoutError as error:
            raise Fault("no answer in time") from error
        except (OSError, ValueError) as error:  # ValueError: closed under us
            raise Fault(f"the connection broke: {error}") from error
        if not data:
            raise Fault("the connection was closed before the answer was whole")
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise Fault(f"the answer is no HTTP: {error}") from error
