"""Objects of Kubernetes as tests write them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tests.node.containerd import BUSYBOX


def secret(namespace: str, name: str, values: Mapping[str, bytes]) -> dict[str, Any]:
    data = {key: base64.b64encode(value).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}


def pod(namespace: str, name: str, container: Mapping[str, Any]) -> dict[str, Any]:
    """A pod of one container with busybox; `container`: what it has besides."""
    full = {"name": name, "image": BUSYBOX, "imagePullPolicy": "Never", **container}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [full]}}
