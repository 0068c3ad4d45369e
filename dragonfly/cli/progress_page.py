"""A small page that shows an installation to whoever looks on, while it runs, and changes nothing.

Read only: three paths, no parameters, no token. It is there for the one command and ends with it. A browser that asks
for it by a name that is not its own is refused, so that no page from elsewhere reads it by that (DNS rebinding).
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator
from importlib.resources import files
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from dragonfly.api.page import content_security_policy
from dragonfly.install.execution import Event
from dragonfly.install.progress import Outcome, Progress, after, ended
from dragonfly.settings import Address

_MOST: Final = 50
"""Connections at a time: more have to wait outside."""
_LAST_SECONDS: Final = 2
"""For those who look on to be told the end."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class ProgressPage:
    """The page, for a block; told of each event, from any thread."""

    def __init__(self, address: Address, progress: Progress) -> None:
        """Take the port; nothing is served before the block.

        Raises:
            OSError: it cannot be had.
        """
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.create_server((address.host, address.port), family=family)
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._progress = progress
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app(),
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MOST,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="progress-page", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self.address}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.outcome == "running":
            self.end("failed", "The installation was interrupted.", "To go on from there: dragonfly install")
        self._server.should_exit = True
        self._thread.join(_LAST_SECONDS * 2)

    def __call__(self, event: Event) -> None:
        self._show(after(self._progress, event))

    def end(self, outcome: Outcome, message: str, advice: str = "") -> None:
        """Tell how it ended."""
        self._show(ended(self._progress, outcome, message, advice))

    def _show(self, progress: Progress) -> None:
        self._progress = progress
        # Whatever becomes of the page, the installation goes on.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve([self._socket]))

    def _app(self) -> Starlette:
        html = files("dragonfly.cli").joinpath("progress_page.html").read_text("utf-8")
        page_headers = {**_HEADERS, "Content-Security-Policy": content_security_policy(html)}

        async def page(_: Request) -> Response:
            return HTMLResponse(html, headers=page_headers)

        async def progress(_: Request) -> Response:
            return Response(msgspec.json.encode(self._progress), headers=_HEADERS, media_type="application/json")

        async def events(_: Request) -> Response:
            return StreamingResponse(self._states(), headers=_HEADERS, media_type="text/event-stream")

        routes = [Route("/", page), Route("/progress", progress), Route("/events", events)]
        return Starlette(routes=routes, middleware=[_guard(self.address.host)])

    async def _states(self) -> AsyncIterator[bytes]:
        """Each state that there is time for, the last one for certain."""
        while True:
            changed, progress = self._changed, self._progress
            yield b"data: " + msgspec.json.encode(progress) + b"\n\n"
            if progress.outcome != "running":
                return
            await changed.wait()


def _guard(host: str) -> Any:
    is_everywhere = ipaddress.ip_address(host).is_unspecified
    own = f"[{host}]" if ":" in host else host
    names = ["*"] if is_everywhere else [own, "localhost", "127.0.0.1", "[::1]"]
    return Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
