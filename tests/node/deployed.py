"""Dragonfly in pods of a node, set up as docs/kubernetes.md says, beside a real Tinkerbell that is a process."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.etcd import Access
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.tinkerbell import Tinkerbell
from tests.e2e.api import Api
from tests.e2e.waiting import eventually
from tests.node import replica_image
from tests.node.node import Node

NAMESPACE: Final = "dragonfly"
TINKERBELL: Final = "tinkerbell"
REPLICAS: Final = 3
ROLLOUT: Final = 300
"""Seconds that pods have to become ready, on a computer that is busy with other things."""
_OVERLAYS: Final = Path(__file__).parents[2] / "deploy" / "k3s" / "overlays"


class Deployed:
    """Three replicas behind a Service with an address, on an overlay of deploy/k3s."""

    def __init__(self, node: Node, ports: PortLease) -> None:
        """Nothing starts before `running`."""
        self.node = node
        self._ports = ports
        self.token = f"df_{secrets.token_hex(24)}"
        self.url: str
        """The Service's, from outside."""
        self.api: Api
        self.tinkerbell: Tinkerbell

    @contextmanager
    def running(
        self, overlay: str = "shared", *, endpoint: str | None = None, access: Access | None = None
    ) -> Iterator[Deployed]:
        """Have it for the block; its objects go with the node.

        Args:
            endpoint: of etcd; the control plane's unless said.
            access: what lets in there.
        """
        with ExitStack() as stack:
            self._start_tinkerbell(stack)
            self.node.containerd.take(replica_image.archive().read_bytes())
            self.node.kubectl("apply", "-f", str(_OVERLAYS.parent / "base" / "namespace.yaml"))
            etcd = self.node.etcd
            self._make_secrets(endpoint or ",".join(etcd.endpoints), access or etcd.access)
            self.node.kubectl("apply", "--server-side", "-k", str(_OVERLAYS / overlay))
            self.rolled_out()
            self.url = f"http://{self.node.balance(NAMESPACE, 'dragonfly')}:3000"
            self.api = stack.enter_context(Api(self.url, self.token))
            eventually("the swarm is whole", lambda: not self.api.get("swarm")["unowned"], within=120)
            yield self

    def rolled_out(self) -> None:
        """Wait until the Deployment is as it should be, and nothing of another is left."""
        self._kubectl("rollout", "status", "deployment/dragonfly", f"--timeout={ROLLOUT}s")
        eventually("only its pods are there", lambda: len(self.pods()) == REPLICAS, within=ROLLOUT, every=0.5)

    def pods(self) -> dict[str, Any]:
        """By name, those that are ending too."""
        selector = ("--selector", "app.kubernetes.io/name=dragonfly")
        found = self.node.get("--namespace", NAMESPACE, "pods", *selector)["items"]
        return {pod["metadata"]["name"]: pod for pod in found}

    def ready(self) -> set[str]:
        """The pods that the Service leads to, as its endpoints tell."""
        selector = ("--selector", "kubernetes.io/service-name=dragonfly")
        slices = self.node.get("--namespace", NAMESPACE, "endpointslices.discovery.k8s.io", *selector)["items"]
        return {
            endpoint["targetRef"]["name"]
            for each in slices
            for endpoint in each["endpoints"] or ()
            if endpoint["conditions"]["ready"]
        }

    def evict(self, pod: str) -> int:
        """Ask for it as `kubectl drain` does; the status of the answer."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": NAMESPACE},
        }
        return self.admin.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction", body).status

    @property
    def admin(self) -> KubeApi:
        return self.node.apiserver.admin

    def run(self, pod: str, *command: str) -> str:
        """What a program says that runs in a replica's container."""
        return self._kubectl("exec", pod, "--", *command)

    def set_template(self, change: Mapping[str, Any]) -> None:
        """Change the pods' template by a merge, which rolls out."""
        patch = yaml.safe_dump({"spec": {"template": change}})
        self._kubectl("patch", "deployment", "dragonfly", "--type", "strategic", "--patch", patch)

    def _kubectl(self, *arguments: str) -> str:
        return self.node.kubectl("--namespace", NAMESPACE, *arguments)

    def _start_tinkerbell(self, stack: ExitStack) -> None:
        self.node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TINKERBELL}})
        rbac = resources.files("dragonfly.sandbox") / "manifests" / "tinkerbell-rbac.yaml"
        self.node.apply(*yaml.safe_load_all(rbac.read_text()))
        directory = self.node.directory / "tinkerbell"
        directory.mkdir()
        kubeconfig = self.node.apiserver.kubeconfig(
            directory / "tinkerbell.kubeconfig", TINKERBELL, "tinkerbell", token_hours=24
        )
        self.tinkerbell = Tinkerbell(toolchain.binary("tinkerbell"), directory, kubeconfig, self.admin, self._ports)
        stack.callback(self.tinkerbell.service.stop)
        self.tinkerbell.service.start()

    def _make_secrets(self, endpoints: str, access: Access) -> None:
        keys = {name: base64.b64encode(secrets.token_bytes(32)) for name in ("replica-token", "secret-key")}
        etcd = {
            "endpoints": endpoints.encode(),
            "ca": access.ca.read_bytes(),
            "cert": access.client.certificate.read_bytes(),
            "key": access.client.key.read_bytes(),
        }
        self.node.apply(
            _secret("dragonfly", {"admin-token": self.token.encode(), **keys}), _secret("dragonfly-etcd", etcd)
        )


def _secret(name: str, values: Mapping[str, bytes]) -> dict[str, Any]:
    data = {key: base64.b64encode(value).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}
