"""Plays a Deployment's controller and the kubelet: pods are processes of the template's own words, replaced one by one.

Each gets the variables, Secrets and service account of its template. There is an object for each pod, with what the
kubelet would say of it. What no registry has, `gone.example.com` would have.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service

_DEPLOYMENT: Final = "/apis/apps/v1/namespaces/dragonfly/deployments/dragonfly"
_PODS: Final = "/api/v1/namespaces/dragonfly/pods"
_ACCOUNT: Final = Path("/run/secrets/kubernetes.io/serviceaccount")
_VOLUMES: Final = Path("/run/k3s/pods")
_MERGE: Final = "application/merge-patch+json"
_NOWHERE: Final = "gone.example.com/"
_NOT_PULLED: Final = {
    "reason": "ImagePullBackOff",
    "message": "Back-off pulling image: failed to resolve reference: no such host",
}


class Pod:
    """A replica, or one that cannot start for want of its image."""

    def __init__(self, name: str, template: str, port: int, service: Service | None) -> None:
        self.name = name
        self.template = template
        self.port = port
        self.service = service

    @property
    def is_ready(self) -> bool:
        return self.service is not None and http_ok(f"http://127.0.0.1:{self.port}/readyz")

    def status(self, image: str, *, is_ready: bool) -> dict[str, Any]:
        state: dict[str, Any] = {"running": {}} if self.service else {"waiting": _NOT_PULLED}
        container = {"name": "dragonfly", "image": image, "imageID": "", "restartCount": 0, "ready": is_ready}
        return {
            "phase": "Running" if self.service else "Pending",
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
            "containerStatuses": [container | {"state": state}],
        }


class Pods:
    """Those of the Deployment `dragonfly`, on this node."""

    def __init__(self, api: KubeApi, node: str, address: str, logs: Path, ports: PortLease) -> None:
        self._api = api
        self._node = node
        self._address = address
        self._logs = logs
        self._ports = ports
        self._pods: list[Pod] = []
        self._ending: list[Pod] = []
        self._statuses: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._is_new = True

    def ready_ports(self) -> list[int]:
        return [pod.port for pod in list(self._pods) if pod.is_ready]

    def stop(self) -> None:
        """End all, and forget them: another node has them from now on."""
        services = [pod.service for pod in (*self._pods, *self._ending) if pod.service]
        for service in services:
            service.terminate()
        for service in services:
            service.stop()
        self._pods, self._ending, self._statuses, self._is_new = [], [], {}, True
        shutil.rmtree(_ACCOUNT, ignore_errors=True)
        for directory in (_ACCOUNT.parent, _ACCOUNT.parents[1]):
            with suppress(OSError):
                directory.rmdir()

    def look(self) -> None:
        """Do one thing of what is wanted, and tell how it is."""
        self._reap()
        answer = self._api.request("GET", _DEPLOYMENT)
        if self._is_new:
            self._forget_others()
        if answer.status != 200:
            for pod in tuple(self._pods):
                self._end(pod)
            return
        deployment = answer.body
        ready = {pod.name for pod in self._pods if pod.is_ready}
        self._roll(deployment, ready)
        self._tell(deployment, ready)

    def _roll(self, deployment: Any, ready: set[str]) -> None:
        """As maxSurge 1 and maxUnavailable 0 have it: one more first, then one less."""
        wanted, template = deployment["spec"]["replicas"], _digest(deployment["spec"]["template"])
        former = [pod for pod in self._pods if pod.template != template]
        current = len(self._pods) - len(former)
        if current < wanted and len(self._pods) < wanted + bool(former):
            self._start(deployment, template)
            return
        stuck = [pod for pod in former if pod.name not in ready]
        if stuck or (former and len(ready) > wanted):
            self._end((stuck or former)[0])

    def _start(self, deployment: Any, template: str) -> None:
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        environment = self._environment(pod, container)
        if environment is None:
            return
        name, port = f"dragonfly-{template}-{next(self._numbers)}", self._ports.take()
        service = None
        if not container["image"].startswith(_NOWHERE):
            own = {
                "DRAGONFLY_LISTEN": f"127.0.0.1:{port}",
                "DRAGONFLY_ADVERTISE": f"127.0.0.1:{port}",
                "DRAGONFLY_REPLICA": f"{self._node}-{name}",
            }
            command = (sys.executable, "-m", "dragonfly", "server")
            service = Service(
                Program(name, command, self._logs / f"{name}.log", environment | own), lambda: True, within=60
            )
            service.spawn()
        self._pods.append(Pod(name, template, port, service))
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        metadata = {"name": name, "labels": labels | {"pod-template-hash": template}}
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod | {"nodeName": self._node}}
        answer = self._api.request("POST", _PODS, document)
        assert answer.status == 201, answer.body

    def _end(self, pod: Pod) -> None:
        self._pods.remove(pod)
        self._delete(pod.name)
        if pod.service:
            pod.service.terminate()
            self._ending.append(pod)

    def _reap(self) -> None:
        self._ending = [pod for pod in self._ending if pod.service and pod.service.running]

    def _delete(self, name: str) -> None:
        self._statuses.pop(name, None)
        self._api.request("DELETE", f"{_PODS}/{name}?gracePeriodSeconds=0")

    def _forget_others(self) -> None:
        """Take out the pods of a node that is gone, or of this one before it started again."""
        for item in self._api.request("GET", _PODS).body["items"]:
            self._delete(item["metadata"]["name"])
        self._is_new = False

    def _tell(self, deployment: Any, ready: set[str]) -> None:
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        for pod in self._pods:
            status = pod.status(image, is_ready=pod.name in ready)
            if self._statuses.get(pod.name) != status:
                self._api.request("PATCH", f"{_PODS}/{pod.name}/status", {"status": status}, _MERGE)
                self._statuses[pod.name] = status
        template = _digest(deployment["spec"]["template"])
        counted = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(self._pods),
            "updatedReplicas": sum(pod.template == template for pod in self._pods),
            "readyReplicas": len(ready & {pod.name for pod in self._pods}),
        }
        counted["availableReplicas"] = counted["readyReplicas"]
        if any(deployment.get("status", {}).get(key, 0) != value for key, value in counted.items()):
            self._api.request("PATCH", f"{_DEPLOYMENT}/status", {"status": counted}, _MERGE)

    def _environment(self, pod: Any, container: Any) -> dict[str, str] | None:
        """The variables of the template, with its volumes as directories; None while a Secret is missing."""
        found = {"KUBERNETES_SERVICE_HOST": self._address, "KUBERNETES_SERVICE_PORT": "6443"}
        mounts = self._mounts(pod, container)
        if mounts is None:
            return None
        for variable in container["env"]:
            value = self._value(variable)
            if value is None:
                return None
            for place, directory in mounts.items():
                value = value.replace(place, str(directory))
            if value:
                found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
        self._account(pod["serviceAccountName"])
        return found

    def _value(self, variable: Any) -> str | None:
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            return "127.0.0.1"
        if "secretKeyRef" not in source:
            return str(variable["value"])
        reference = source["secretKeyRef"]
        data = secret(self._api, "dragonfly", reference["name"])
        if data is None or (reference["key"] not in data and not reference.get("optional")):
            return None
        return data.get(reference["key"], b"").decode()

    def _mounts(self, pod: Any, container: Any) -> dict[str, Path] | None:
        names = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"]}
        found: dict[str, Path] = {}
        for mount in container["volumeMounts"]:
            data = secret(self._api, "dragonfly", names[mount["name"]])
            if data is None:
                return None
            found[mount["mountPath"]] = mounted(_VOLUMES / mount["name"], data)
        return found

    def _account(self, name: str) -> None:
        data = {
            "token": self._api.token("dragonfly", name, hours=1).encode(),
            "namespace": b"dragonfly",
            "ca.crt": Path("/var/lib/rancher/k3s/server/tls/server-ca.crt").read_bytes(),
        }
        mounted(_ACCOUNT, data)


def secret(api: KubeApi, namespace: str, name: str) -> dict[str, bytes] | None:
    """What a Secret holds; None if it is not there."""
    answer = api.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    if answer.status != 200:
        return None
    return {key: base64.b64decode(value) for key, value in answer.body.get("data", {}).items()}


def mounted(directory: Path, data: dict[str, bytes]) -> Path:
    """A directory with a file for each key."""
    directory.mkdir(parents=True, exist_ok=True)
    for key, content in data.items():
        (directory / key).write_bytes(content)
    return directory


def _digest(template: Any) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
