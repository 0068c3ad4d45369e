"""A receiver of webhooks on loopback that does to each path what a test tells it, and keeps what it got."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

import msgspec

from dragonfly.sandbox.ports import LOOPBACK


class Got(NamedTuple):
    """One delivery as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> str:
        return self.headers["Dragonfly-Event"]

    @property
    def change(self) -> dict[str, Any]:
        change: dict[str, Any] = msgspec.json.decode(self.body)
        return change


class Reply(NamedTuple):
    """What is answered; a delivery counts as got only with a 2xx."""

    status: int = 204
    headers: Mapping[str, str] = {}
    after: threading.Event | None = None
    """Answered once this is set."""


GOOD: Final = Reply()

Decide: TypeAlias = Callable[[Got], Reply]


class Receiver:
    """Used as a context."""

    def __init__(self) -> None:
        self.replies: dict[str, Decide] = {}
        self.began: list[Got] = []
        self.got: list[Got] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply = receiver._take(Got(self.path, dict(self.headers.items()), body))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A sender that died took its connection with it."""

        self._server = Server((LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def at(self, path: str) -> list[Got]:
        with self._lock:
            return [got for got in self.got if got.path == path]

    def tries_at(self, path: str) -> list[Got]:
        with self._lock:
            return [got for got in self.began if got.path == path]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, got: Got) -> Reply:
        with self._lock:
            self.began.append(got)
        decide = self.replies.get(got.path)
        reply = decide(got) if decide is not None else GOOD
        if reply.after is not None:
            reply.after.wait(20)
        if 200 <= reply.status < 300:
            with self._lock:
                self.got.append(got)
        return reply
