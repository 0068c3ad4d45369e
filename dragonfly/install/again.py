"""What stands on a host against what is asked of it now. Pure.

A swarm that is told of another etcd finds it empty, and a server that is told to be of another cluster is of none; so
neither is done by saying `install` with other options. What is refused here is refused before anything is changed.
"""

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from dragonfly.install.options import Options

K3S_STEP: Final = "k3s"
MANIFESTS_STEP: Final = "manifests"
"""The first step that says to the cluster whose etcd the swarm uses."""

_GO_ON: Final = "To go on with what stands: dragonfly install, without that option."
_ANEW: Final = "To begin anew, first delete what stands with all of its data: dragonfly uninstall --delete-data."


class Conflict(NamedTuple):
    """What is asked and cannot be had from what stands."""

    name: str
    found: str
    remedy: str


def conflicts(
    before: Options | None, steps: Collection[str], options: Options, *, left_to: tuple[str, ...] = ()
) -> Iterator[Conflict]:
    """Yield what the options ask that would lose what stands.

    Args:
        before: what was asked of this host the last time; None if nothing was.
        steps: those that have been begun here, also ones that were taken back and left data.
        left_to: the servers to which this host left the cluster that it had founded.
    """
    if before is None or K3S_STEP not in steps:
        return
    if left_to:
        yield _left(left_to)
    elif before.is_first != options.is_first:
        yield _other_role(before, options)
    elif options.is_first and MANIFESTS_STEP in steps:
        yield from _other_etcd(before, options)


def _left(servers: tuple[str, ...]) -> Conflict:
    return Conflict(
        "cluster",
        f"this host left the cluster that it had founded to {', '.join(servers)}; what it has of it is behind",
        "First delete what is left here, which changes nothing there: dragonfly uninstall --delete-data. Then join, or "
        "found another.",
    )


def _other_role(before: Options, options: Options) -> Conflict:
    if before.is_first:
        found = f"this host founded a cluster, and was told to join that of {options.join}"
        return Conflict("cluster", found, f"{_GO_ON} {_ANEW}")
    found = f"this host joined the cluster of {before.join}, and was told to found one"
    return Conflict("cluster", found, f"{_GO_ON} {_ANEW}")


def _other_etcd(before: Options, options: Options) -> Iterator[Conflict]:
    if before.etcd != options.etcd:
        found = (
            f"the swarm was installed with --etcd {before.etcd}, and --etcd {options.etcd} would leave its data there"
        )
        yield Conflict("etcd", found, f"{_GO_ON} {_ANEW}")
        return
    if before.external is None or options.external is None:
        return
    former, new = before.external.endpoints, options.external.endpoints
    if not set(former) & set(new):
        yield Conflict(
            "etcd",
            f"the swarm's etcd is {', '.join(former)}, and none of {', '.join(new)} is of it as far as is known",
            f"{_GO_ON} If they are new members of the same etcd, name a former one beside them at first. {_ANEW}",
        )
