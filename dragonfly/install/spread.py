"""Whether replicas are spread over the hosts as they could be, and which of them is one too many where it is. Pure.

Kubernetes chooses a host for a pod when it makes it, and leaves it there: replicas that came together while hosts were
away stay together once those are back. Only one that starts again is put elsewhere.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from dragonfly.install.images import lacking, takes_pods
from dragonfly.kube.resources import Object

_KEEPS_OUT: Final = {"NoSchedule", "NoExecute"}
_ENDED: Final = {"Succeeded", "Failed"}


class Spread(NamedTuple):
    """How the replicas of a Deployment are spread."""

    problem: str = ""
    """Why they are not yet as many as there should be, and ready; empty if they are."""
    counts: Mapping[str, int] = {}
    """How many are on each host that could have some."""
    surplus: str = ""
    """The pod that should start again elsewhere; empty if none should."""


def spread_of(deployment: Object, pods: Iterable[Object], nodes: Iterable[Object]) -> Spread:
    """Return how they are spread.

    None is one too many while not all are ready, nor while a host that gets pods does not have their image: what starts
    again might come to be there, and a file brings it.
    """
    live = [pod for pod in pods if _is_live(pod)]
    if problem := _problem(live, deployment["spec"].get("replicas", 1)):
        return Spread(problem)
    open_to_all = [node for node in nodes if takes_pods(node) and not _keeps_out(node)]
    (container, *_) = deployment["spec"]["template"]["spec"]["containers"]
    if lacking(open_to_all, container["image"]).ready:
        return Spread()
    names = {node["metadata"]["name"]: 0 for node in open_to_all}
    placed = {name: [pod for pod in live if pod["spec"].get("nodeName") == name] for name in names}
    counts = {name: len(found) for name, found in placed.items()}
    fullest = max(counts, key=lambda name: counts[name], default="")
    if not fullest or counts[fullest] - min(counts.values()) <= 1:
        return Spread(counts=counts)
    return Spread(counts=counts, surplus=min(pod["metadata"]["name"] for pod in placed[fullest]))


def _is_live(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") not in _ENDED


def _problem(live: list[Object], wanted: int) -> str:
    ready = sum(map(_is_ready, live))
    if len(live) > wanted:
        return "a former replica still runs"
    return "" if ready >= wanted else f"{ready} of {wanted} replicas are ready"


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _keeps_out(node: Object) -> bool:
    return any(taint.get("effect") in _KEEPS_OUT for taint in node.get("spec", {}).get("taints") or ())
