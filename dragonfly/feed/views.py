"""Resources as the API shows them: composed of what is stored in several keys, without what is not for people.

Stored records leave out what is at its default; a view shows the defaults that a reader would otherwise have to know.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec.structs import asdict

from dragonfly.model.cluster import Checkup, Cluster, ClusterSpec
from dragonfly.model.machine import (
    Arch,
    Machine,
    MachinePhase,
    MachineSpec,
    MachineStatus,
    Moving,
    Observed,
    status_of,
)
from dragonfly.model.power import PowerAction, PowerPhase, PowerRequest
from dragonfly.model.provision import (
    Provision,
    ProvisionPhase,
    ProvisionSpec,
    ProvisionStatus,
    ProvisionSummary,
    summary_of,
)
from dragonfly.model.swarm import ClusterReach, ReplicaReach
from dragonfly.model.template import Template, TemplateSpec
from dragonfly.model.values import Metadata, Value


class MetadataView(Value, frozen=True, kw_only=True):
    """What every resource has beside its spec. `revision` is what `If-Match` wants."""

    name: str
    revision: int
    labels: dict[str, str]
    tags: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


class MachineSpecView(MachineSpec, frozen=True, kw_only=True):
    cluster: str
    arch: Arch
    firmware: Literal["uefi", "bios"]
    boot: Literal["netboot", "iso", "none"]


class ProvisionSummaryView(ProvisionSummary, frozen=True, kw_only=True):
    progress: int


class MachineStatusView(MachineStatus, frozen=True, kw_only=True):
    phase: MachinePhase
    power: Literal["on", "off", "unknown"]
    owner: str
    active_provision: ProvisionSummaryView | None = None
    last_provision: ProvisionSummaryView | None = None
    cluster: ClusterReach
    deleting_since: datetime | None = None
    moving: Moving | None = None
    """Where it is being moved to; until it is there, it is in `spec.cluster`."""


class MachineView(Value, frozen=True, kw_only=True):
    """A machine: what it should be, and what is known of it."""

    kind: Literal["Machine"]
    metadata: MetadataView
    spec: MachineSpecView
    status: MachineStatusView


class TemplateSpecView(TemplateSpec, frozen=True, kw_only=True):
    global_timeout: int


class TemplateView(Value, frozen=True, kw_only=True):
    """A template."""

    kind: Literal["Template"]
    metadata: MetadataView
    spec: TemplateSpecView


class ProvisionStatusView(ProvisionStatus, frozen=True, kw_only=True):
    phase: ProvisionPhase
    progress: int


class ProvisionView(Value, frozen=True, kw_only=True):
    """A provision: what was asked for, and how far it is."""

    kind: Literal["Provision"]
    metadata: MetadataView
    spec: ProvisionSpec
    status: ProvisionStatusView


class ClusterMetadataView(Value, frozen=True, kw_only=True):
    """As of every resource, but `local` has no times until somebody has changed it."""

    name: str
    revision: int
    labels: dict[str, str]
    tags: tuple[str, ...]
    created_at: datetime | None = None
    updated_at: datetime | None = None


class ClusterSpecView(ClusterSpec, frozen=True, kw_only=True):
    shards: int
    sites: tuple[str, ...]


class ClusterStatusView(Value, frozen=True, kw_only=True):
    reachable: bool
    """Whether any replica reaches it."""
    since: datetime | None = None
    """Since when none does."""
    reason: str = ""
    replicas: tuple[ReplicaReach, ...]
    """What each replica that may drive shards says of it, by site."""
    server: str = ""
    namespace_uid: str = ""
    """Which namespace it is, as its API server says; empty while nobody has asked."""
    owners: dict[str, str]
    """The replica that drives each shard; empty for one that nobody drives."""
    removing_since: datetime | None = None
    machines: int | None = None
    """How many are in it; not told by the feed."""
    checkup: Checkup | None = None
    """What the replica found that drives its first shard: versions, missing types and rights; not told by the feed."""


class ClusterView(Value, frozen=True, kw_only=True):
    """A cluster: how the swarm gets there, and how it is there."""

    kind: Literal["Cluster"]
    metadata: ClusterMetadataView
    spec: ClusterSpecView
    status: ClusterStatusView


class PowerActionSpecView(Value, frozen=True, kw_only=True):
    machine: str
    action: PowerAction
    requested_by: str


class PowerActionStatusView(Value, frozen=True, kw_only=True):
    phase: PowerPhase


class PowerActionView(Value, frozen=True, kw_only=True):
    """A power action that was accepted. The machine's status tells how it goes on, and what became of it."""

    kind: Literal["PowerAction"]
    metadata: MetadataView
    spec: PowerActionSpecView
    status: PowerActionStatusView


def machine_view(
    machine: Machine,
    revision: int,
    *,
    observed: Observed | None,
    active: Provision | None,
    power: PowerRequest | None,
    owner: str,
    cluster: ClusterReach,
) -> MachineView:
    summary = summary_of(active) if active is not None else None
    status = status_of(machine, observed, summary, owner, power=power, cluster=cluster)
    shown = {
        **asdict(status),
        "active_provision": _summary_view(status.active_provision),
        "last_provision": _summary_view(status.last_provision),
        "deleting_since": machine.deleting_since,
        "moving": machine.moving,
    }
    return MachineView(
        kind="Machine",
        metadata=_metadata_view(machine.metadata, revision),
        spec=MachineSpecView(**asdict(machine.spec)),
        status=MachineStatusView(**shown),
    )


def template_view(template: Template, revision: int) -> TemplateView:
    return TemplateView(
        kind="Template",
        metadata=_metadata_view(template.metadata, revision),
        spec=TemplateSpecView(**asdict(template.spec)),
    )


def provision_view(provision: Provision, revision: int) -> ProvisionView:
    return ProvisionView(
        kind="Provision",
        metadata=_metadata_view(provision.metadata, revision),
        spec=provision.spec,
        status=ProvisionStatusView(**asdict(provision.status)),
    )


def cluster_view(
    name: str,
    cluster: Cluster,
    revision: int,
    *,
    reach: ClusterReach,
    replicas: tuple[ReplicaReach, ...],
    owners: Sequence[str],
    machines: int | None = None,
    checkup: Checkup | None = None,
) -> ClusterView:
    metadata = cluster.metadata
    return ClusterView(
        kind="Cluster",
        metadata=ClusterMetadataView(
            name=name,
            revision=revision,
            labels=metadata.labels if metadata is not None else {},
            tags=metadata.tags if metadata is not None else (),
            created_at=metadata.created_at if metadata is not None else None,
            updated_at=metadata.updated_at if metadata is not None else None,
        ),
        spec=ClusterSpecView(**asdict(cluster.spec)),
        status=ClusterStatusView(
            reachable=reach.reachable,
            since=reach.since,
            reason=reach.reason,
            replicas=replicas,
            server=cluster.server,
            namespace_uid=cluster.uid,
            owners={str(shard): owner for shard, owner in enumerate(owners)},
            removing_since=cluster.removing_since,
            machines=machines,
            checkup=checkup,
        ),
    )


def power_action_view(request: PowerRequest, revision: int) -> PowerActionView:
    at = request.requested_at
    metadata = MetadataView(name=request.name, revision=revision, labels={}, tags=(), created_at=at, updated_at=at)
    spec = PowerActionSpecView(machine=request.machine, action=request.action, requested_by=request.requested_by)
    status = PowerActionStatusView(phase=request.phase)
    return PowerActionView(kind="PowerAction", metadata=metadata, spec=spec, status=status)


def _metadata_view(metadata: Metadata, revision: int) -> MetadataView:
    return MetadataView(**asdict(metadata), revision=revision)


def _summary_view(summary: ProvisionSummary | None) -> ProvisionSummaryView | None:
    return ProvisionSummaryView(**asdict(summary)) if summary is not None else None
