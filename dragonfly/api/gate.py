"""The way in and out of every request: its id, who calls, what every answer carries, the access log, the metrics."""

import re
from typing import Any, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragonfly.api.access import Identity
from dragonfly.api.context import Context
from dragonfly.api.problems import Fault, response_of
from dragonfly.api.routes_relay import PATH as RELAY

_log = structlog.get_logger(__name__)

OPEN: Final = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
"""What needs no token: nothing of it tells anything of the machines. Everything else does."""

_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_NO_ROUTE: Final = "none"


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._context.clock()
        headers = Headers(scope=scope)
        request_id = self._request_id(headers)
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._complete(MutableHeaders(scope=message), request_id)
            await send(message)

        self._context.metrics.http.in_flight.inc()
        try:
            await self._pass(scope, receive, sending, headers, request_id)
        finally:
            self._context.metrics.http.in_flight.dec()
            self._record(scope, request_id, status, self._context.clock() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, headers: Headers, request_id: str) -> None:
        path = scope["path"]
        identity = _identity(self._context, headers)
        if identity is None and path not in OPEN and not self._relayed(path):
            answer = response_of(_refusal(headers), instance=path, request_id=request_id)
            await answer(scope, receive, send)
            return
        known = lambda: _identity(self._context, headers) == identity  # noqa: E731 - what lasts asks again
        scope["dragonfly"] = {"id": request_id, "identity": identity, "known": known}
        await self._app(scope, receive, send)

    def _relayed(self, path: str) -> bool:
        """Whether another way in guards it (`RelayRoute`)."""
        return self._context.relay is not None and path.startswith(RELAY)

    def _request_id(self, headers: Headers) -> str:
        sent = headers.get("x-request-id", "")
        return sent if _SANE_ID.fullmatch(sent) else self._context.new_ulid()

    def _complete(self, headers: MutableHeaders, request_id: str) -> None:
        mirror = self._context.mirror
        headers["X-Request-Id"] = request_id
        headers["Dragonfly-Replica"] = self._context.replica
        headers.setdefault("Dragonfly-Revision", str(mirror.revision))
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("X-Content-Type-Options", "nosniff")
        if self._context.leaving():
            # The next request on this connection might meet its end, and be sent in vain.
            headers["Connection"] = "close"
        if mirror.stale_since is not None:
            headers["Dragonfly-Stale"] = f"{max(0.0, self._context.clock() - mirror.stale_since):.1f}"

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        known: dict[str, Any] = scope.get("dragonfly", {})
        route = known.get("route", scope["path"] if scope["path"] in OPEN else _NO_ROUTE)
        http = self._context.metrics.http
        http.requests.labels(_method(scope["method"]), route, str(status)).inc()
        if not known.get("stream"):  # it lasts as long as its client likes
            http.duration.labels(route).observe(seconds)
        identity: Identity | None = known.get("identity")
        quiet = scope["path"] in _QUIET or (route == RELAY and status < 400)  # keepalives come each second
        log = _log.debug if quiet else _log.info
        log(
            "http.request",
            request=request_id,
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            seconds=round(seconds, 6),
            by=identity.name if identity is not None else "",
        )


def _identity(context: Context, headers: Headers) -> Identity | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    return context.access.authenticate(token.strip())


def _refusal(headers: Headers) -> Fault:
    if "authorization" in headers:
        challenge = 'Bearer realm="dragonfly", error="invalid_token"'
        return Fault("unauthenticated", "The token is not valid.", headers={"WWW-Authenticate": challenge})
    detail = "Send a token: Authorization: Bearer <token>."
    return Fault("unauthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="dragonfly"'})


def _method(sent: str) -> str:
    """Bounded, whatever clients make up."""
    return sent if sent in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
