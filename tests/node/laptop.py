"""A replica outside of the cluster, which a kubeconfig alone leads to etcd, or to the relay of the pods."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dragonfly.sandbox.pki import KeyPair, write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.process import Service
from dragonfly.sandbox.swarm import Swarm
from tests.e2e.api import Api
from tests.node.deployed import NAMESPACE, TINKERBELL, Deployed
from tests.node.node import Node

LAPTOP: Final = "laptop"
SERVICE: Final = "dragonfly"
_RBAC: Final = "rbac.authorization.k8s.io"


class Laptop:
    """One replica; see `running`."""

    def __init__(self, url: str, service: Service, token: str) -> None:
        self.url = url
        self.service = service
        self.api = Api(url, token)

    @classmethod
    @contextmanager
    def running(
        cls,
        deployed: Deployed,
        ports: PortLease,
        directory: Path,
        *,
        name: str = LAPTOP,
        told: Mapping[str, str] | None = None,
    ) -> Iterator[Laptop]:
        """Have one for the block; `told`: what it is told besides where its cluster is."""
        token = directory / "admin.token"
        write_private(token, deployed.token.encode())
        environment = {
            "KUBECONFIG": str(kubeconfig(deployed.node, directory)),
            "DRAGONFLY_NAMESPACE": TINKERBELL,
            "DRAGONFLY_ADMIN_TOKEN_FILE": str(token),
            "DRAGONFLY_LOG_FORMAT": "json",
            **(told or {}),
        }
        own = {"a": {"DRAGONFLY_REPLICA": name}}
        swarm = Swarm(directory / "swarm", ports, environment, replicas=1, own=own, restart=False)
        (replica,) = swarm.replicas
        laptop = cls(replica.url, replica.service, deployed.token)
        try:
            swarm.start()
            with laptop.api:
                yield laptop
        finally:
            swarm.stop()


def kubeconfig(node: Node, directory: Path) -> Path:
    """Of a service account with Dragonfly's rights, and the one to go through the API server to replicas."""
    account = {"kind": "ServiceAccount", "name": LAPTOP, "namespace": TINKERBELL}
    rule = {"apiGroups": [""], "resources": ["services/proxy"], "resourceNames": [f"http:{SERVICE}:http"]}
    node.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": LAPTOP, "namespace": TINKERBELL}},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": LAPTOP, "namespace": NAMESPACE},
            "rules": [rule | {"verbs": ["create"]}],
        },
        *(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": LAPTOP, "namespace": namespace},
                "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": role},
                "subjects": [account],
            }
            for namespace, role in ((NAMESPACE, LAPTOP), (TINKERBELL, "dragonfly"))
        ),
    )
    return node.apiserver.kubeconfig(directory / "laptop.kubeconfig", TINKERBELL, LAPTOP, token_hours=1)


def tell_the_way(deployed: Deployed, endpoints: Sequence[str], client: KeyPair | None = None) -> None:
    """Make the Secret by which a kubeconfig leads to etcd at these endpoints, or else to the relay of the pods.

    Args:
        client: what lets in at etcd; nothing does without it.
    """
    known = secret_of(deployed)
    said = {
        "endpoints": ",".join(endpoints),
        "ca": deployed.node.etcd.access.ca.read_text(),
        "replicaToken": known["replica-token"],
        "secretKey": known["secret-key"],
        "service": f"{NAMESPACE}/{SERVICE}:http",
    }
    if client is not None:
        said |= {"cert": client.certificate.read_text(), "key": client.key.read_text()}
    metadata = {"name": "dragonfly-etcd", "namespace": TINKERBELL}
    deployed.node.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": said})


def secret_of(deployed: Deployed) -> dict[str, str]:
    """What the pods are told that nobody else may know."""
    data = deployed.node.get("--namespace", NAMESPACE, "secret", "dragonfly")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}
