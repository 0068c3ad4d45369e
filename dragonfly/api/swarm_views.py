"""The swarm as one replica sees it: values of `GET /api/v1/swarm`, and how they are put together."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from dragonfly.api.context import Context, Insight
from dragonfly.model.swarm import AdmissionPolicy, Claim, DrainRequest, Member
from dragonfly.model.values import Value
from dragonfly.store import keys
from dragonfly.store.health import EtcdState
from dragonfly.store.inquiry import Found
from dragonfly.store.mirror import Held
from dragonfly.store.values import MemberStatus
from dragonfly.swarm.members import admission_policy, members, reach
from dragonfly.swarm.shards import rankings, shards_of
from dragonfly.swarm.standing import State
from dragonfly.swarm.vacancies import why_unowned


class UnreachedView(Value, frozen=True, kw_only=True):
    """A cluster that a replica does not reach."""

    cluster: str
    since: datetime
    reason: str


class MemberView(Value, frozen=True, kw_only=True):
    """A live replica and how many shards it drives; none ever, if it `observes`.

    `keepaliveAge` says how many seconds ago etcd last heard of it, rounded up; it is absent where etcd does not tell.
    """

    id: str
    site: str
    version: str
    address: str
    started: datetime
    observes: bool = False
    keepalive_age: float | None = None
    clusters: tuple[str, ...]
    unreachable: tuple[UnreachedView, ...] = ()
    claims: int


class ClaimView(Value, frozen=True, kw_only=True):
    """Who drives a shard, under which epoch (the claim's revision), and since when by the owner's clock."""

    cluster: str
    shard: int
    owner: str
    epoch: int
    since: datetime | None = None


class ShardView(Value, frozen=True, kw_only=True):
    """A shard that nobody drives, since when this replica has seen that, and what it waits for."""

    cluster: str
    shard: int
    since: datetime | None = None
    reason: str


class DrainView(Value, frozen=True, kw_only=True):
    """A better-ranked replica asks a shard's owner to give it up."""

    cluster: str
    shard: int
    owner: str
    asked_by: str
    epoch: int


class SwarmClusterView(Value, frozen=True, kw_only=True):
    """Whether any replica reaches a cluster, or since when none does, and how many of its shards nobody drives.

    Replicas of its `sites` come before all others. Which replicas reach it is told with each of the members.
    `admissionPolicy` says whether the API server itself refuses what a former owner writes; it is absent until the
    replica that keeps the policy has looked.
    """

    name: str
    reachable: bool
    since: datetime | None = None
    reason: str = ""
    sites: tuple[str, ...] = ()
    shards: int
    unowned: int
    admission_policy: AdmissionPolicy | None = None


class EndpointView(Value, frozen=True, kw_only=True):
    """One endpoint of etcd, as it answered last."""

    endpoint: str
    reachable: bool
    member_id: str = ""
    """In hexadecimal, as etcdctl shows it."""
    leader: bool = False
    version: str = ""
    revision: int = 0
    raft_term: int = 0
    db_size: int = 0
    """Bytes on disk."""
    error: str = ""


class EtcdView(Value, frozen=True, kw_only=True):
    """How etcd is to the replica that answers. `asked` is how many seconds ago the members were."""

    state: EtcdState
    reason: str = ""
    since: datetime
    asked: float | None = None
    members: tuple[EndpointView, ...]


class LeaseView(Value, frozen=True, kw_only=True):
    """The lease of the replica that answers: whether it can rely on it, for how many seconds, and when it was heard."""

    held: bool
    remaining: float
    keepalive_age: float | None = None


class SelfView(Value, frozen=True, kw_only=True):
    """The replica that answers. `member` tells whether the others see it; `state` what it may do, and `reason` why.

    `acting`: it drives shards. `following`: it drives none, and is ready to. `observing`: it was told to drive none.
    `fenced`: its lease may have ended, so it has stopped. `read-only`: etcd takes no writes of it.
    """

    id: str
    site: str
    version: str
    member: bool
    claims: int
    state: State
    reason: str
    since: datetime
    lease: LeaseView


class SwarmView(Value, frozen=True, kw_only=True):
    """Members, clusters, claims, and what nobody drives.

    `stale` is there when the answer may be out of date: for so many seconds etcd has not been heard of.
    """

    kind: Literal["Swarm"]
    revision: int
    stale: float | None = None
    members: tuple[MemberView, ...]
    claims: tuple[ClaimView, ...]
    unowned: tuple[ShardView, ...]
    drains: tuple[DrainView, ...]
    clusters: tuple[SwarmClusterView, ...]
    etcd: EtcdView
    self: SelfView


def swarm_view(context: Context, found: Found) -> SwarmView:
    """Put together what the mirror shows, what etcd was asked, and what this replica knows of itself."""
    live = members(context.mirror)
    claims = _claims(context)
    unowned = _unowned(context, {(claim.cluster, claim.shard) for claim in claims}, live)
    stale = context.mirror.stale_since
    return SwarmView(
        kind="Swarm",
        revision=context.mirror.revision,
        stale=None if stale is None else round(max(0.0, context.clock() - stale), 1),
        members=tuple(_member(context, found, held, claims) for held in context.mirror.under(keys.MEMBERS)),
        claims=claims,
        unowned=unowned,
        drains=tuple(_drains(context, {(claim.cluster, claim.shard): claim.owner for claim in claims})),
        clusters=tuple(_cluster(context, name, unowned) for name in sorted(context.clusters)),
        etcd=_etcd(context),
        self=_self(context, context.insight, claims, live),
    )


def _member(context: Context, found: Found, held: Held, claims: tuple[ClaimView, ...]) -> MemberView:
    member = held.object
    assert isinstance(member, Member)
    silent = found.silent_for(held.lease, context.clock())
    return MemberView(
        id=member.id,
        site=member.site,
        version=member.version,
        address=member.address,
        started=member.started,
        observes=member.observes,
        keepalive_age=None if silent is None else round(silent, 1),
        clusters=member.clusters,
        unreachable=tuple(
            UnreachedView(cluster=cluster, since=since, reason=member.troubles.get(cluster, ""))
            for cluster, since in sorted(member.unreachable.items())
        ),
        claims=sum(claim.owner == member.id for claim in claims),
    )


def _claims(context: Context) -> tuple[ClaimView, ...]:
    found = (
        ClaimView(
            cluster=place[0],
            shard=place[1],
            owner=held.object.owner,
            epoch=held.create_revision,
            since=held.object.since,
        )
        for held in context.mirror.under(keys.CLAIMS)
        if isinstance(held.object, Claim) and (place := keys.claim_in(held.key)) is not None
    )
    return tuple(sorted(found, key=lambda claim: (claim.cluster, claim.shard)))


def _unowned(context: Context, owned: set[tuple[str, int]], live: list[Member]) -> tuple[ShardView, ...]:
    since = context.insight.vacancies.look()
    shards = [shard for cluster, count in sorted(context.clusters.items()) for shard in shards_of(cluster, count)]
    sites = {shard: context.sites_of(shard.cluster) for shard in shards}
    ranks = rankings(sites, live) if len(owned) < len(shards) else {}
    return tuple(
        ShardView(
            cluster=shard.cluster,
            shard=shard.shard,
            since=since[shard].since if shard in since else None,
            reason=why_unowned(shard, ranks.get(shard, ()), live),
        )
        for shard in shards
        if shard not in owned
    )


def _drains(context: Context, owners: Mapping[tuple[str, int], str]) -> Iterable[DrainView]:
    for held in context.mirror.under(keys.DRAINS):
        place, request = keys.drain_in(held.key), held.object
        if place is not None and isinstance(request, DrainRequest):
            yield DrainView(
                cluster=place[0],
                shard=place[1],
                owner=owners.get(place, ""),
                asked_by=request.asked_by,
                epoch=request.epoch,
            )


def _cluster(context: Context, name: str, unowned: tuple[ShardView, ...]) -> SwarmClusterView:
    reached = reach(context.mirror, name)
    return SwarmClusterView(
        name=name,
        reachable=reached.reachable,
        since=reached.since,
        reason=reached.reason,
        sites=tuple(context.sites_of(name)),
        shards=context.clusters[name],
        unowned=sum(shard.cluster == name for shard in unowned),
        admission_policy=admission_policy(context.mirror, name),
    )


def _etcd(context: Context) -> EtcdView:
    health = context.insight.etcd
    verdict = health.look()
    asked = context.insight.inquiry.members_ago
    return EtcdView(
        state=verdict.state,
        reason=verdict.reason,
        since=health.since,
        asked=None if asked is None else round(asked, 1),
        members=tuple(map(_endpoint, health.members)),
    )


def _endpoint(member: MemberStatus) -> EndpointView:
    return EndpointView(
        endpoint=member.endpoint,
        reachable=member.reachable,
        member_id=f"{member.member_id:x}" if member.member_id else "",
        leader=member.leader,
        version=member.version,
        revision=member.revision,
        raft_term=member.raft_term,
        db_size=member.db_size,
        error=member.error,
    )


def _self(context: Context, insight: Insight, claims: tuple[ClaimView, ...], live: list[Member]) -> SelfView:
    standing = insight.sentry.look()
    silent = insight.lease.silent_for()
    lease = LeaseView(
        held=insight.lease.held(),
        remaining=round(max(0.0, insight.lease.remaining()), 1),
        keepalive_age=None if silent is None else round(silent, 1),
    )
    return SelfView(
        id=context.replica,
        site=context.site,
        version=context.version,
        member=any(member.id == context.replica for member in live),
        claims=sum(claim.owner == context.replica for claim in claims),
        state=standing.state,
        reason=standing.reason,
        since=insight.sentry.since,
        lease=lease,
    )
