"""Cluster: a Kubernetes cluster with Tinkerbell that the swarm manages.

`local` is the one that each replica is started with (its KUBECONFIG, or the pod it runs in); all others are registered
with a kubeconfig that every replica takes from etcd, or as the one in whose pods replicas run.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Literal

from dragonfly.model.values import LOCAL, FieldError, Input, Invalid, Metadata, MetadataInput, Value, is_dns_label

NAMESPACE: Final = "tinkerbell"
SHARDS: Final = 8

_MOST_SHARDS: Final = 256
_MOST_QPS: Final = 10_000
_MOST_IN_FLIGHT: Final = 1_000
_MOST_SITES: Final = 32


class ClusterSpec(Value, frozen=True, kw_only=True):
    """Where Tinkerbell is in it, and how the swarm shares the work."""

    shards: int
    """Slices of its machines; fixed, for a machine's slice is its hash modulo this."""
    in_cluster: bool = False
    """It has no kubeconfig: replicas in its pods reach it, with the service account that they have there."""
    context: str = ""
    """The context of the kubeconfig that was taken."""
    namespace: str = ""
    """Tinkerbell's. Empty for `local`, of which each replica is told."""
    sites: tuple[str, ...] = ()
    """Replicas there come before all others."""
    qps: int | None = None
    """Calls a second that each replica may make; None for what is usual."""
    in_flight: int | None = None
    """Calls of each replica that may be under way at the same time; None for what is usual."""


class ClusterSpecInput(Input, frozen=True, kw_only=True):
    """The spec as people send it."""

    kubeconfig: str = ""
    """YAML or JSON, with everything inline. Taken, never shown; empty keeps the present one."""
    in_cluster: bool = False
    """Instead of a kubeconfig: what the pods are in that replicas run in."""
    context: str = ""
    namespace: str = ""
    shards: int | None = None
    sites: tuple[str, ...] = ()
    qps: int | None = None
    in_flight: int | None = None
    namespace_uid: str = ""
    """Of one without a kubeconfig: which namespace it is, where that is another from now on; empty if not."""


class ClusterInput(Input, frozen=True, kw_only=True):
    """A cluster as people send it. `kind` and `status` are accepted so that what was read can be sent back."""

    metadata: MetadataInput = MetadataInput()
    spec: ClusterSpecInput = ClusterSpecInput()
    kind: Literal["Cluster"] = "Cluster"
    status: Any = None


class Cluster(Value, frozen=True, kw_only=True):
    """A cluster as it is stored below `clusters/`; its name is the key's."""

    spec: ClusterSpec
    metadata: Metadata | None = None
    """None of `local` until somebody has changed it: the first replica wrote it, not a person."""
    server: str = ""
    """Where the kubeconfig leads; empty for `local`."""
    sealed_kubeconfig: str = ""
    """One context of it, encrypted with the swarm's key."""
    mark: str = ""
    """What tells that the same kubeconfig was sent again; nobody can guess it from this."""
    server_side: str = ""
    """A fingerprint of the server and what it is trusted by and reached through; empty if it is not known yet."""
    uid: str = ""
    """Of Tinkerbell's namespace there, as its API server says; empty while nobody could ask it."""
    removing_since: datetime | None = None
    """Somebody is removing it: no machine may come into it."""


class PlaceHolder(Value, frozen=True):
    """The value of `unique/cluster/<place>`: who is there."""

    cluster: str


class MissingRight(Value, frozen=True, kw_only=True):
    """Something that the credentials may not do."""

    verb: str
    resource: str
    """As in RBAC's rules, with its group: `workflows.tinkerbell.org`."""


class Checkup(Value, frozen=True, kw_only=True):
    """What one replica found."""

    namespace: str = ""
    """Where it looked for Tinkerbell."""
    error: str = ""
    """Why the API server could not be asked; then nothing else is known."""
    version: str = ""
    """The API server's."""
    tinkerbell: str = ""
    """Tinkerbell's version, as the image of its Deployment says; empty where there is none, or it may not be read."""
    missing_types: tuple[str, ...] = ()
    """Of Tinkerbell's, such as `workflows.tinkerbell.org`."""
    missing_rights: tuple[MissingRight, ...] = ()
    missing_optional: tuple[MissingRight, ...] = ()
    """Rights without which Dragonfly works on; `WITHOUT` tells what it then does without."""


_LATE: Final = "the API server itself does not refuse late writers"

WITHOUT: Final = {
    "deployments.apps": "Tinkerbell's version is not told",
    "validatingadmissionpolicies.admissionregistration.k8s.io": _LATE,
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": _LATE,
}
"""What comes of it if an optional right to a resource is missing."""


IN_CLUSTER: Final = "in-cluster"
"""The server's side of a cluster that pods are in: as far as can be told without being in one, there is one of them."""


def is_found_by_each(name: str, cluster: Cluster) -> bool:
    """Whether each replica finds the cluster by means of its own, so that two of them may find two clusters."""
    return name == LOCAL or cluster.spec.in_cluster


def places(cluster: Cluster) -> tuple[str, ...]:
    """Return what no other cluster may lead to: a namespace of an API server.

    By its uid, which is the same by whatever address and through whatever load balancer it is reached, and by where the
    kubeconfig leads: a uid is known only once somebody reaches it.
    """
    by_server = f"{cluster.server_side}.{cluster.spec.namespace}" if cluster.server_side else ""
    return tuple(place for place in (cluster.uid, by_server) if place)


def validated(spec: ClusterSpec) -> ClusterSpec:
    """Return `spec` if the swarm can work with it.

    Raises:
        Invalid: with every rule that the spec breaks.
    """
    if errors := list(_errors(spec)):
        raise Invalid(errors)
    return spec


def _errors(spec: ClusterSpec) -> Iterator[FieldError]:
    if spec.namespace and not is_dns_label(spec.namespace):
        yield FieldError("spec.namespace", "must be the name of a Kubernetes namespace", spec.namespace)
    if not 1 <= spec.shards <= _MOST_SHARDS:
        yield FieldError("spec.shards", f"must be 1 to {_MOST_SHARDS}", spec.shards)
    if spec.qps is not None and not 1 <= spec.qps <= _MOST_QPS:
        yield FieldError("spec.qps", f"must be 1 to {_MOST_QPS} calls a second", spec.qps)
    if spec.in_flight is not None and not 1 <= spec.in_flight <= _MOST_IN_FLIGHT:
        yield FieldError("spec.inFlight", f"must be 1 to {_MOST_IN_FLIGHT} calls at the same time", spec.in_flight)
    if len(spec.sites) > _MOST_SITES:
        yield FieldError("spec.sites", f"must be {_MOST_SITES} at most")
    for index, site in enumerate(spec.sites):
        if not is_dns_label(site):
            yield FieldError(f"spec.sites[{index}]", "must be a site as in DRAGONFLY_SITE: a-z, 0-9 and -", site)
