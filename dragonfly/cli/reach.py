"""Why nothing happens: clusters that nobody reaches, shards that nobody drives; and where a fence is missing."""

from collections.abc import Mapping
from datetime import datetime

from dragonfly.cli import times
from dragonfly.cli.kinds import Document, at, text_at


def obstacle(machine: Document) -> str:
    """Return what keeps everybody from working on the machine; empty if nothing is known to."""
    cluster = at(machine, "status.cluster") or {}
    if cluster.get("reachable") is False:
        name = text_at(machine, "spec.cluster", "local")
        return f"cluster {name} is not reachable{since(cluster)}"
    return "" if text_at(machine, "status.owner") else "its shard is claimed by no replica"


def since(reach: Document) -> str:
    """Return ` since 2026-01-01T00:00:00Z`; empty where nobody knows."""
    moment = times.moment(at(reach, "since"))
    return f" since {times.utc(moment)}" if moment else ""


def cluster_line(cluster: Document, now: datetime) -> str:
    """Return one cluster of `GET /api/v1/swarm` as `status` shows it."""
    unowned, shards = cluster.get("unowned") or 0, cluster.get("shards") or 0
    owned = f"{unowned} of {shards} shards without owner" if unowned else f"{shards} shards"
    if cluster.get("reachable") is not False:
        return f"{text_at(cluster, 'name')}: reachable, {owned}"
    age = times.age(cluster.get("since"), now)
    return f"{text_at(cluster, 'name')}: not reachable{since(cluster)}{f' ({age})' if age else ''}, {owned}"


def is_well(cluster: Document) -> bool:
    return cluster.get("reachable") is not False and not cluster.get("unowned")


def served_elsewhere(swarm: Document) -> Mapping[str, frozenset[str]]:
    """Return for each cluster that is reached the sites whose replicas need not reach it, since it prefers others."""
    sites = frozenset(text_at(member, "site") for member in swarm.get("members") or [])
    return {
        text_at(cluster, "name"): sites - frozenset(cluster["sites"])
        for cluster in swarm.get("clusters") or []
        if cluster.get("sites") and cluster.get("reachable") is not False
    }


def missing_fence(cluster: Document) -> str:
    """Return why the cluster's API server lets a former owner write; empty if it refuses that, or nobody knows."""
    if at(cluster, "admissionPolicy.installed") is not False:
        return ""
    message = text_at(cluster, "admissionPolicy.message") or "no admission policy"
    return f"Cluster {text_at(cluster, 'name')}: {message}"
