"""The checks of /readyz: whether this replica can answer reads that are current and take writes, and if not, why.

A replica that can do only a part of that is not ready: a load balancer has others. When none is ready, the one that
Dragonfly ships sends its clients to all that are alive, so that reads go on (P10); see docs/architecture.md.
"""

from collections.abc import Callable

from dragonfly.api.context import CheckResult, Lease
from dragonfly.model.swarm import Member
from dragonfly.store import keys
from dragonfly.store.health import Health
from dragonfly.store.mirror import Mirror


def check_etcd(health: Health) -> CheckResult:
    """Whether etcd takes writes of this replica; one member of several that is bad is told, and does no harm."""
    verdict = health.look()
    return CheckResult(verdict.writable, verdict.reason, verdict.state, health.since)


def check_mirror(mirror: Mirror, trouble: Callable[[], Exception | None], clock: Callable[[], float]) -> CheckResult:
    """Whether what is read is current.

    Args:
        trouble: why nobody follows etcd; None while somebody does.
        clock: the mirror's.
    """
    error = trouble()
    if not mirror.synced:
        return CheckResult(ok=False, detail=f"waiting for etcd: {error or 'first snapshot'}", state="empty")
    if mirror.stale_since is None:
        return CheckResult(ok=True, detail=f"current at revision {mirror.revision}", state="current")
    age = max(0.0, clock() - mirror.stale_since)
    why = f": {error}" if error else ""
    return CheckResult(ok=False, detail=f"as it was {age:.1f} s ago, at revision {mirror.revision}{why}", state="stale")


def check_lease(lease: Lease) -> CheckResult:
    """Whether the replica may act on what it has claimed."""
    silent = lease.silent_for()
    if silent is None:
        return CheckResult(ok=False, detail="etcd has given no lease yet", state="none")
    detail = f"kept alive {silent:.1f} s ago"
    return CheckResult(lease.held(), detail, "held" if lease.held() else "fenced")


def check_member(mirror: Mirror, replica: str, lease: int, name_taken: str) -> CheckResult:
    """Whether the other replicas see this one."""
    if name_taken:
        return CheckResult(ok=False, detail=f"{name_taken}; give one of them another DRAGONFLY_REPLICA")
    held = mirror.get(keys.member(replica))
    if held is None or not isinstance(held.object, Member) or held.lease != lease:
        return CheckResult(ok=False, detail="not registered in the swarm yet")
    return CheckResult(ok=True)
