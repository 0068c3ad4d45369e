"""/healthz: the loop turns. /readyz: this replica can do its work now. /metrics: what it counts."""

from typing import Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from dragonfly.api.calls import JSON
from dragonfly.api.context import CheckResult, Context
from dragonfly.api.gauges import measure, run_check

_REFRESH: Final = 5.0
"""Seconds after which somebody who asks how this replica is makes it ask etcd's members how they are."""


async def healthz(_request: Request) -> Response:
    """Never asks etcd: a replica must not be restarted because etcd is away."""
    return Response(b'{"status":"ok"}', media_type=JSON)


def readyz(context: Context) -> Response:
    """Tell each check's result; 503 as soon as one fails, which takes the replica out of the load balancer."""
    context.insight.inquiry.refresh(after=_REFRESH)
    results = {name: run_check(check) for name, check in context.checks.items()}
    ready = all(result.ok for result in results.values())
    standing = context.insight.sentry.look()
    body: dict[str, Any] = {"ready": ready, "replica": context.replica, "state": standing.state}
    body["checks"] = {name: _shown(result) for name, result in results.items()}
    return Response(msgspec.json.encode(body), 200 if ready else 503, media_type=JSON)


def metrics(context: Context) -> Response:
    context.insight.inquiry.refresh(after=_REFRESH)
    measure(context)
    return Response(generate_latest(context.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _shown(result: CheckResult) -> dict[str, Any]:
    shown: dict[str, Any] = {"ok": result.ok}
    if result.state:
        shown["state"] = result.state
    if result.since is not None:
        shown["since"] = result.since
    return {**shown, "detail": result.detail}
