"""Whose etcd the swarm of a cluster uses, as the cluster itself tells it. Pure.

A host that joins goes by this and never by a default: replicas that are told of another etcd find it empty, and nothing
leads them back.
"""

from collections.abc import Mapping

from dragonfly.install.execution import StepFailed
from dragonfly.install.options import EtcdMode, JoinedMode


def found_mode(access: Mapping[str, bytes], *, has_own_etcd: bool) -> JoinedMode:
    """Return whose etcd it is; empty if nobody has said yet.

    Args:
        access: what the Secret has that tells the replicas where etcd is; empty if it is not there.
        has_own_etcd: whether the cluster runs an etcd for the swarm alone.
    """
    if "username" in access or "password" in access:
        return "external"
    if has_own_etcd:
        return "dedicated"
    return "shared" if access else ""


def agreed(asked: JoinedMode, found: JoinedMode) -> EtcdMode:
    """Return whose etcd a host that joins tells the replicas of.

    Args:
        asked: by `--etcd`; empty if nobody did.
        found: what stands.

    Raises:
        StepFailed: they contradict each other, or neither says.
    """
    if found and asked and asked != found:
        raise StepFailed(
            f"this cluster's swarm uses etcd {found!r}, and --etcd {asked} was said; the replicas were told nothing",
            "Join without --etcd: dragonfly install --join SERVER --token-file FILE",
        )
    if mode := found or asked:
        return mode
    raise StepFailed(
        "the cluster does not say yet whose etcd its swarm uses: Secret dragonfly-etcd is not there",
        "Have the installation on the first server come to its end: dragonfly install, there and then here.",
    )
