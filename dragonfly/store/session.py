"""HTTP to one etcd endpoint: the session that etcd3gw is given in place of one of `requests`.

It takes the calls that etcd3gw makes, at a fraction of the CPU (`benchmarks/store.py`), and tells a request that never
left (`Fault.unsent`) from an answer that was lost, which `requests` can't.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from dragonfly.store.connection import Connection, Reply
from dragonfly.store.faults import Fault
from dragonfly.store.ways import Leg, Way


class Session:
    """Kept-alive connections to one endpoint; safe to use from several threads."""

    def __init__(
        self,
        way: Way,
        *,
        connect_timeout: float,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Connect to nothing yet.

        Args:
            way: how the endpoint is reached.
            connect_timeout: seconds for TCP and TLS each.
            timeout: seconds for a whole answer, for calls without a deadline of their own.
            clock: monotonic seconds; deadlines are its times.
            headers: what each request says besides; may raise a `StoreError`.
        """
        self._way = way
        self._headers = headers
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._clock = clock
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False
        self._lock = threading.Lock()

    @property
    def way(self) -> Way:
        return self._way

    def get(self, url: str, timeout: float | None = None) -> Reply:
        """GET; the answer's JSON is a dict. Raises as `post`."""
        leg = self._way.leg()
        return self._exchange(leg, self._request(leg, "GET", url), self._deadline(timeout), dict)

    def post(
        self,
        url: str,
        *,
        json: Any = None,
        data: str | bytes | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        token: str = "",
        answer: type[Any] = dict,
        leader: bool = True,
    ) -> Reply:
        """POST.

        Args:
            json: the body, or `data`, already encoded.
            deadline: the clock's time by which the whole answer must be there; without, `timeout` seconds from now.
            token: etcd's authentication token.
            answer: the type that the answer's `json()` gives.
            leader: refuse at once if the member has no leader, before anything is done.

        Raises:
            Fault: no whole answer; `unsent` if the request never left.
        """
        leg = self._way.leg()
        request = self._request(leg, "POST", url, _body(json, data), token=token, leader=leader)
        return self._exchange(leg, request, deadline or self._deadline(timeout), answer)

    @contextlib.contextmanager
    def stream(self, url: str, *, json: Any, deadline: float, silence: float, token: str) -> Iterator[Iterator[bytes]]:
        """POST on a connection of its own, and give the lines of the endless answer (see `Connection.lines`)."""
        leg = self._way.leg()
        request = self._request(leg, "POST", url, _body(json, None), token=token, leader=True)
        connection = self._connect(leg)
        try:
            yield connection.lines(request, deadline, silence)
        finally:
            self._discard(connection)

    def close(self) -> None:
        """Break off what is in flight; later calls fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = self._open.difference(idle)
            self._open.difference_update(idle)
        for connection in idle:
            connection.close()
        for connection in busy:
            connection.abort()

    def _deadline(self, timeout: float | None) -> float:
        return self._clock() + (timeout or self._timeout)

    def _exchange(self, leg: Leg, request: bytes, deadline: float, kind: type[Any]) -> Reply:
        connection = self._take(leg)
        try:
            return connection.exchange(request, deadline, kind)
        finally:
            self._give_back(connection)

    def _request(
        self, leg: Leg, method: str, url: str, body: bytes = b"", *, token: str = "", leader: bool = False
    ) -> bytes:
        authorization = f"Authorization: {token}\r\n" if token else ""
        has_leader = "Grpc-Metadata-hasleader: true\r\n" if leader else ""
        more = "".join(f"{name}: {value}\r\n" for name, value in self._headers().items())
        head = (
            f"{method} {leg.path}{_path(url)} HTTP/1.1\r\nHost: {leg.netloc}\r\nContent-Type: application/json\r\n"
            f"{authorization}{leg.head}{has_leader}{more}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _take(self, leg: Leg) -> Connection:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread took the last one
                connection = self._idle.pop()
                if connection.alive and connection.identity == leg.identity:
                    return connection
                self._discard(connection)
        return self._connect(leg)

    def _connect(self, leg: Leg) -> Connection:
        connection = Connection(leg.link(self._connect_timeout), self._clock, leg.identity)
        with self._lock:
            self._open.add(connection)
            closed = self._closed
        if closed:
            self._discard(connection)
            raise Fault("the session is closed", unsent=True)
        return connection

    def _give_back(self, connection: Connection) -> None:
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()


def _path(url: str) -> str:
    """The path of an absolute URL."""
    return "/" + url.split("/", 3)[3]


def _body(json: Any, data: str | bytes | None) -> bytes:
    if data is None:
        return msgspec.json.encode(json)
    return data.encode() if isinstance(data, str) else data
