"""The ASGI application of one replica: every route, behind the gate."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dragonfly.api import (
    health,
    routes_batch,
    routes_clusters,
    routes_events,
    routes_machines,
    routes_moves,
    routes_power,
    routes_provisions,
    routes_relay,
    routes_swarm,
    routes_templates,
    routes_webhooks,
)
from dragonfly.api.calls import JSON, Call
from dragonfly.api.context import Context
from dragonfly.api.desk import Desk, desk_of
from dragonfly.api.gate import Gate
from dragonfly.api.openapi import document
from dragonfly.api.operations import MIN_REVISION, Operation
from dragonfly.api.page import front_page
from dragonfly.api.problems import Fault, response_of
from dragonfly.model.values import FieldError, Invalid

OPERATIONS: tuple[Operation, ...] = (
    *routes_machines.OPERATIONS,
    *routes_moves.OPERATIONS,
    *routes_power.OPERATIONS,
    *routes_batch.OPERATIONS,
    *routes_templates.OPERATIONS,
    *routes_clusters.OPERATIONS,
    *routes_provisions.OPERATIONS,
    *routes_swarm.OPERATIONS,
    *routes_webhooks.OPERATIONS,
    *routes_events.OPERATIONS,
)


def create_app(context: Context) -> Starlette:
    """Return the application; the mirror must be followed by somebody else."""
    desk = desk_of(context)
    described = msgspec.json.encode(document(OPERATIONS, context.version))
    page = front_page()
    app = Starlette(
        routes=[
            *(_route(path, operations, desk) for path, operations in _by_path().items()),
            Route("/healthz", health.healthz),
            Route("/readyz", _on_loop(lambda: health.readyz(context))),
            Route("/metrics", _on_loop(lambda: health.metrics(context))),
            Route("/openapi.json", _on_loop(lambda: Response(described, media_type=JSON))),
            Route("/", _on_loop(page)),
            *_relayed(context),
        ],
        middleware=[Middleware(Gate, context=context)],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False  # one resource, one address
    return app


def _relayed(context: Context) -> list[Route]:
    if context.relay is None:
        return []
    return [Route(f"{routes_relay.PATH}{{call:path}}", routes_relay.RelayRoute(context.relay))]


def _on_loop(answer: Callable[[], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Answer on the event loop, where the mirror lives; Starlette runs plain functions in threads."""

    async def endpoint(_request: Request) -> Response:
        return answer()

    return endpoint


def _by_path() -> Mapping[str, list[Operation]]:
    paths: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, []).append(operation)
    return paths


def _route(path: str, operations: Sequence[Operation], desk: Desk) -> Route:
    """One route for all methods of a path, so that 405 can name each of them."""
    by_method: dict[str, Operation] = {operation.method: operation for operation in operations}

    async def endpoint(request: Request) -> Response:
        operation = by_method["GET" if request.method == "HEAD" else request.method]
        state = request.scope["dragonfly"]
        state["route"] = path
        try:
            return await _answer(operation, desk, Call(request, state["identity"], state["id"], operation.body_limit))
        except Exception as error:
            return response_of(error, instance=request.url.path, request_id=state["id"])

    return Route(path, endpoint, methods=list(by_method))


async def _answer(operation: Operation, desk: Desk, call: Call) -> Response:
    _check_query(operation, call)
    mirror = desk.context.mirror
    if operation.needs_mirror and not mirror.synced:
        raise Fault("not-synced", "This replica has not read etcd yet. Ask another one, or try again.")
    if operation.is_read:
        await desk.arrived(_min_revision(call))
    elif (refusal := desk.context.insight.refusal()) is not None:
        raise refusal
    response = await operation.handler(desk, call)
    # Nothing has run since the handler read the mirror, so this is the revision that the answer reflects.
    response.headers.setdefault("Dragonfly-Revision", str(mirror.revision))
    return response


def _check_query(operation: Operation, call: Call) -> None:
    known = {parameter.name for parameter in operation.query} | ({MIN_REVISION.name} if operation.is_read else set())
    allowed = ", ".join(sorted(known)) or "none"
    unknown = [name for name in call.query() if name not in known]
    if unknown:
        raise Invalid([FieldError(f"?{name}", f"is unknown; there are {allowed}") for name in unknown])


def _min_revision(call: Call) -> int:
    text = call.request.query_params.get(MIN_REVISION.name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Invalid([FieldError(f"?{MIN_REVISION.name}", "must be a revision: a whole number", text)])
    return int(text)


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer what no route takes."""
    path = request.url.path
    request_id = request.scope["dragonfly"]["id"]
    assert isinstance(error, HTTPException)
    return response_of(_fault(error, request.method, path), instance=path, request_id=request_id)


def _fault(error: HTTPException, method: str, path: str) -> Fault:
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        detail = f"{path} has no method {method}; it has {allowed}."
        return Fault("method-not-allowed", detail, headers={"Allow": allowed})
    if error.status_code == 404:
        return Fault("not-found", f"There is nothing at {path}. /openapi.json lists all routes.")
    return Fault("malformed", error.detail)
