"""What Deployments and their pods tell of how far they are, and of what keeps them. Pure."""

from collections.abc import Iterable
from typing import Final

from dragonfly.kube.resources import Object

_ON_ITS_WAY: Final = {"", "ContainerCreating", "PodInitializing"}
"""Why a container may wait without anything being wrong."""


def rollout_problem(deployment: Object) -> str:
    """Return what `kubectl rollout status` would wait for; empty if for nothing. Pure."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return "the change was not noticed yet"
    for condition in status.get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"pods cannot be made: {condition.get('message', '')}"
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    if updated < wanted:
        return f"{updated} of {wanted} replicas are new"
    if status.get("replicas", 0) > updated:
        return "a former replica still runs"
    return "" if ready >= wanted else f"{ready} of {wanted} replicas are ready"


def pods_trouble(pods: Iterable[Object]) -> str:
    """Return why the first of the pods that cannot start doesn't, as Kubernetes tells it; empty if all can. Pure."""
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"pod {name} has no node: {condition.get('message', '')}"
        for container in status.get("containerStatuses", ()):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason", "") not in _ON_ITS_WAY:
                return f"pod {name}: {waiting['reason']}: {waiting.get('message', '')}"
    return ""


def keeps_ending(pods: Iterable[Object]) -> bool:
    """Whether a container of theirs has ended so often that it is started after a pause only. Pure."""
    states = (one.get("state", {}) for pod in pods for one in pod.get("status", {}).get("containerStatuses", ()))
    return any(state.get("waiting", {}).get("reason") == "CrashLoopBackOff" for state in states)
