"""The swarm as this replica sees it, and what this replica and its caller are."""

import msgspec
from starlette.responses import Response

from dragonfly.api.calls import JSON, Call
from dragonfly.api.desk import Desk
from dragonfly.api.operations import Operation
from dragonfly.api.swarm_views import SwarmView, swarm_view
from dragonfly.install.detection import Detection
from dragonfly.model.values import Value


class VersionView(Value, frozen=True, kw_only=True):
    """What the replica that answers runs."""

    version: str
    replica: str


class WhoamiView(Value, frozen=True, kw_only=True):
    """Whose token it is."""

    name: str


async def get_swarm(desk: Desk, _call: Call) -> Response:
    found = await desk.context.insight.inquiry.fresh()
    return Response(msgspec.json.encode(swarm_view(desk.context, found)), media_type=JSON)


async def get_version(desk: Desk, _call: Call) -> Response:
    view = VersionView(version=desk.context.version, replica=desk.context.replica)
    return Response(msgspec.json.encode(view), media_type=JSON)


async def get_mode(desk: Desk, _call: Call) -> Response:
    return Response(msgspec.json.encode(await desk.context.mode()), media_type=JSON)


async def get_whoami(_desk: Desk, call: Call) -> Response:
    return Response(msgspec.json.encode(WhoamiView(name=call.identity.name)), media_type=JSON)


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/swarm",
        get_swarm,
        "Members, clusters, claims, shards without an owner, etcd, and the replica that answers",
        {200: SwarmView},
        "swarm",
    ),
    Operation(
        "GET",
        "/api/v1/version",
        get_version,
        "What the replica that answers runs",
        {200: VersionView},
        "swarm",
        needs_mirror=False,
    ),
    Operation(
        "GET",
        "/api/v1/mode",
        get_mode,
        "In which mode the replica that answers runs, where its cluster and its etcd are, and why",
        {200: Detection},
        "swarm",
        needs_mirror=False,
    ),
    Operation(
        "GET",
        "/api/v1/whoami",
        get_whoami,
        "Whose token it is",
        {200: WhoamiView},
        "swarm",
        needs_mirror=False,
    ),
)
