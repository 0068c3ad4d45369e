"""Clusters over HTTP: decode, one call, encode; a removal takes two (`intent.clusters`)."""

from functools import partial
from typing import Final

import msgspec
from starlette.responses import Response

from dragonfly.api.calls import JSON, Call
from dragonfly.api.cluster_views import CLUSTERS, ClusterCheckView, check_view, composed
from dragonfly.api.desk import Desk, removed, resource
from dragonfly.api.operations import Collection
from dragonfly.feed.views import ClusterView
from dragonfly.intent import clusters
from dragonfly.intent.clusters import Named
from dragonfly.intent.idempotency import Answer
from dragonfly.intent.refusals import ClusterInUse, NotFound
from dragonfly.kube.kubeconfig import handed
from dragonfly.model.cluster import NAMESPACE, Cluster, ClusterInput, ClusterSpecInput
from dragonfly.model.values import LOCAL, Invalid, is_dns_label
from dragonfly.store import keys
from dragonfly.swarm.members import members

_KIND: Final = "Cluster"


async def list_clusters(desk: Desk, call: Call) -> Response:
    return await desk.list(call, desk.cluster_rows, CLUSTERS)


async def get_cluster(desk: Desk, call: Call) -> Response:
    name = call.name(_KIND)
    held = desk.context.mirror.get(keys.cluster(name))
    row = desk.cluster_rows.get(name)
    if held is None or row is None:
        raise NotFound(_KIND, name)
    return resource(row.json(), held.mod_revision)


async def create_cluster(desk: Desk, call: Call) -> Response:
    sent = await call.input(ClusterInput)
    uid = await _uid_there(desk, sent.metadata.name, sent.spec)
    decide = partial(clusters.create, sent=sent, terms=desk.terms(call), uid=uid)
    return await desk.post(call, decide, partial(_created, desk))


async def replace_cluster(desk: Desk, call: Call) -> Response:
    match = call.match()
    sent, name = await call.input(ClusterInput), call.name(_KIND)
    uid = await _uid_there(desk, name, sent.spec)
    decide = partial(clusters.replace, name=name, sent=sent, match=match, terms=desk.terms(call), uid=uid)
    return await desk.change(decide, partial(_view, desk))


async def patch_cluster(desk: Desk, call: Call) -> Response:
    match = call.match()
    change, name = await call.patch(), call.name(_KIND)
    uid = await _uid_there(desk, name, clusters.patched_spec(change))
    decide = partial(clusters.patch, name=name, change=change, match=match, terms=desk.terms(call), uid=uid)
    return await desk.change(decide, partial(_view, desk))


async def delete_cluster(desk: Desk, call: Call) -> Response:
    name, match = call.name(_KIND), call.match()
    known = await _machines_of(desk, name)
    closed = await desk.write(partial(clusters.close, name=name, match=match, machines=known, terms=desk.terms(call)))
    # From here on no machine comes in, and this replica knows of all that did before.
    await desk.arrived(closed.revision)
    try:
        clusters.check_empty(name, desk.population.of(name))
    except ClusterInUse:
        await desk.write(partial(clusters.reopen, name=name, revision=closed.revision))
        raise
    done = await desk.write(partial(clusters.remove, name=name, revision=closed.revision))
    return removed(done.revision)


async def _machines_of(desk: Desk, name: str) -> frozenset[str]:
    """Return which machines are in a cluster now: some that this replica still shows in it may have left."""
    if not desk.population.of(name):
        return frozenset()
    _, newest = await desk.context.store.read(keys.cluster(name))
    await desk.arrived(newest)
    return desk.population.of(name)


async def check_cluster(desk: Desk, call: Call) -> Response:
    name = call.name(_KIND)
    if desk.cluster_rows.get(name) is None:
        raise NotFound(_KIND, name)
    found = await desk.context.check_cluster(name)
    view = check_view(name, desk.context.replica, found, members(desk.context.mirror))
    return Response(msgspec.json.encode(view), media_type=JSON)


async def _uid_there(desk: Desk, name: str, sent: ClusterSpecInput) -> str:
    """Ask where the cluster is to lead what it is; empty where it leads where it did, or cannot be asked."""
    held = desk.context.mirror.get(keys.cluster(name)) if is_dns_label(name) else None
    known = held.object if held is not None and isinstance(held.object, Cluster) else None
    namespace = sent.namespace or (known.spec.namespace if known is not None else "") or NAMESPACE
    if not sent.kubeconfig:
        moves = known is not None and namespace != known.spec.namespace and name != LOCAL
        return await desk.context.identify(name, "", namespace) if moves else ""
    try:
        given = handed(sent.kubeconfig, desk.context.now(), sent.context)
    except Invalid:
        # It will be refused, and the cluster need not be asked for that.
        return ""
    return await desk.context.identify(name, given.text, namespace)


def _view(desk: Desk, named: Named, revision: int) -> ClusterView:
    return composed(desk.context.mirror, desk.population, named.name, named.cluster, revision)


def _created(desk: Desk, named: Named) -> Answer:
    body = msgspec.json.encode(_view(desk, named, 0)).decode()
    return Answer(status=201, location=f"/api/v1/clusters/{named.name}", body=body)


_CLUSTERS: Final = Collection("clusters", ClusterView, ClusterInput)

_REGISTERED: Final = "cluster-registered"

OPERATIONS = (
    _CLUSTERS.list(list_clusters, "List clusters", CLUSTERS),
    _CLUSTERS.create(
        create_cluster, "Register a cluster; every replica that reaches it can drive it from then on", _REGISTERED
    ),
    _CLUSTERS.read(get_cluster, "Read a cluster and how it is"),
    _CLUSTERS.replace(
        replace_cluster, "Replace a cluster; without a kubeconfig it keeps the one that it has", _REGISTERED
    ),
    _CLUSTERS.patch(
        patch_cluster,
        "Change some of a cluster, such as its kubeconfig; connections are renewed at once",
        _REGISTERED,
    ),
    _CLUSTERS.delete(
        delete_cluster,
        "Remove a cluster that has no machines; what is in it stays as it is",
        "cluster-in-use",
        "cluster-own",
    ),
    _CLUSTERS.act(
        "check",
        check_cluster,
        "Ask a cluster now which of Tinkerbell's types and which rights are missing there",
        {200: ClusterCheckView},
    )._replace(takes_key=False),
)
