"""What the clients of a swarm asked for and were told: each request, its answer, and who gave it.

The record is what promises are checked against (`verdict`), so it holds what a client can know, and nothing else: a
request without an answer is there too, with status 0.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.e2e.api import Answer, Api

_PAUSE: Final = 0.3
"""Seconds between two reads of one reader."""


class Seen(NamedTuple):
    """An object in an answer."""

    kind: str
    name: str
    revision: int
    """0 in the answer to a write, which shows what was sent."""
    phase: str


class Request(NamedTuple):
    """One request; the times are seconds since 1970, as in audit logs."""

    client: str
    method: str
    path: str
    """Without the query."""
    sent_at: float
    answered_at: float
    min_revision: int
    replica: str
    """Who answered; empty for nobody, or the load balancer itself."""
    status: int
    revision: int
    seen: tuple[Seen, ...]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class History:
    """All requests, in the order of their answers; clients of several threads write to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._newest = 0

    @property
    def requests(self) -> tuple[Request, ...]:
        with self._lock:
            return tuple(self._requests)

    @property
    def newest(self) -> int:
        """The greatest revision that any client was told."""
        return self._newest

    def add(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)
            if request.ok:
                self._newest = max(self._newest, request.revision)


class RecordingApi(Api):
    """A client whose every request is recorded, repeated ones too."""

    def __init__(self, url: str, token: str, history: History, client: str) -> None:
        super().__init__(url, token)
        self._history = history
        self._client = client

    def once(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        sent_at = time.time()
        answer: Answer | None = None
        try:
            answer = super().once(method, path, body, headers=headers, content=content)
        finally:
            self._history.add(_request(self._client, method, path, sent_at, time.time(), answer))
        return answer


class Readers:
    """One client for each address, each in a thread of its own, that reads again and again for the length of a block.

    They ask replicas directly: behind a load balancer nobody knows beforehand whose session it is.
    """

    def __init__(self, clients: Mapping[str, RecordingApi], history: History, path: str) -> None:
        self._history = history
        self._path = path
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(client,), name=f"reader {name}", daemon=True)
            for name, client in clients.items()
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _read(self, client: RecordingApi) -> None:
        """Read plainly, and then what anybody was told already, in turns."""
        with client:
            turn = 0
            while not self._stopped.wait(_PAUSE):
                query = f"{'&' if '?' in self._path else '?'}minRevision={self._history.newest}" if turn % 2 else ""
                turn += 1
                try:
                    client.once("GET", self._path + query)
                except httpx.TransportError:
                    continue  # recorded as unanswered; the replica is away


def _request(client: str, method: str, path: str, sent_at: float, answered_at: float, answer: Answer | None) -> Request:
    parts = urlsplit(path)
    headers = answer.headers if answer else {}
    return Request(
        client=client,
        method=method,
        path=parts.path,
        sent_at=sent_at,
        answered_at=answered_at,
        min_revision=int(parse_qs(parts.query).get("minRevision", ["0"])[0]),
        replica=headers.get("Dragonfly-Replica", ""),
        status=answer.status if answer else 0,
        revision=int(headers.get("Dragonfly-Revision", "0")),
        seen=tuple(_seen(answer.document)) if answer and answer.ok else (),
    )


def _seen(document: Any) -> Iterator[Seen]:
    if not isinstance(document, dict):
        return
    for item in document.get("items", [document]):
        if "metadata" in item:
            metadata, status = item["metadata"], item.get("status") or {}
            yield Seen(item["kind"], metadata["name"], metadata["revision"], status.get("phase", ""))
