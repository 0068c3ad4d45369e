"""Secrets of the cluster as plain values, and back."""

import base64
from collections.abc import Mapping

from dragonfly.install.cluster import Cluster
from dragonfly.kube.resources import SECRET, Object, Ref


def read(cluster: Cluster, namespace: str, name: str) -> Mapping[str, bytes]:
    """Return what a Secret has; nothing if it is not there.

    Raises:
        StepFailed: the API server does not answer.
    """
    found = cluster.get(Ref(SECRET, namespace, name))
    return {key: base64.b64decode(value) for key, value in ((found or {}).get("data") or {}).items()}


def secret(namespace: str, name: str, data: Mapping[str, bytes]) -> Object:
    """Return a Secret that has this."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in sorted(data.items())},
    }
