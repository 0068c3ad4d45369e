"""Whose etcd the swarm of a cluster uses, as the cluster itself tells it. Pure.

A host that joins goes by this and never by a default: replicas that are told of another etcd find it empty, and nothing
leads them back. Before it is a node it has no word of the cluster's but the notice of a server, which says this alone:
it is the one thing that never changes once the swarm is there, so that no server's is ever out of date.
"""

from collections.abc import Mapping

import msgspec

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


class _Notice(msgspec.Struct, frozen=True):
    etcd: EtcdMode


def notice(mode: EtcdMode) -> str:
    """Return what a server tells hosts that are to join."""
    return msgspec.json.encode(_Notice(mode)).decode()


def noticed(text: bytes) -> JoinedMode:
    """Return whose etcd it is by such a notice; empty if this is none, or a newer Dragonfly's."""
    try:
        return msgspec.json.decode(text, type=_Notice).etcd
    except msgspec.MsgspecError:
        return ""


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
    mode = found or asked
    if mode and (found or mode != "external"):  # where somebody else's is, no host that joins can tell
        return mode
    raise StepFailed(
        "the cluster does not say yet whose etcd its swarm uses: Secret dragonfly-etcd is not there",
        "Have the installation on the first server come to its end: dragonfly install, there and then here.",
    )
