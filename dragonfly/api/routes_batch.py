"""Batches over HTTP: decode, carry out, encode."""

from typing import Final

import msgspec
from starlette.responses import Response

from dragonfly.api.batch import BatchInput, BatchView, Caller, carry_out_all, operations_in
from dragonfly.api.calls import JSON, Call
from dragonfly.api.desk import Desk
from dragonfly.api.operations import Operation

_PATH: Final = "/api/v1/machines:batch"
_BODY_LIMIT: Final = 8 * 1024 * 1024


async def batch_machines(desk: Desk, call: Call) -> Response:
    sent = operations_in(await call.document())
    key = call.key()
    outcome = await carry_out_all(desk, Caller(call.identity.name, call.id, _PATH, key), sent)
    response = Response(msgspec.json.encode(outcome.view), media_type=JSON)
    revision = max(outcome.revision, desk.context.mirror.revision)
    response.headers["Dragonfly-Revision"] = str(revision)
    return response


OPERATIONS = (
    Operation(
        "POST",
        _PATH,
        batch_machines,
        "Change many machines at once, each with its own result",
        {200: BatchView},
        "machines",
        body=BatchInput,
        body_limit=_BODY_LIMIT,
    ),
)
