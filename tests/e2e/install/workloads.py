"""Plays what runs pods, charts and load balancers on a node: replicas are processes of the Deployment's own words.

A replica gets the variables, Secrets and service account of its pod template. Tinkerbell is the real program, started
when its HelmChart is there. The load balancer is a forwarder on the Service's port at the node's address, or at the
address that kube-vip would hold.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.tinkerbell import Tinkerbell
from tests.e2e.install.supervisor import gateway

_PAUSE: Final = 0.2
_DEPLOYMENT: Final = "/apis/apps/v1/namespaces/dragonfly/deployments/dragonfly"
_SERVICE: Final = "/api/v1/namespaces/dragonfly/services/dragonfly"
_CHART: Final = "/apis/helm.cattle.io/v1/namespaces/kube-system/helmcharts/tinkerbell"
_ACCOUNT: Final = Path("/run/secrets/kubernetes.io/serviceaccount")
_PODS: Final = Path("/run/k3s/pods")
_MERGE: Final = "application/merge-patch+json"


class Workloads:
    """Looks again and again, on a thread of its own, and does what is wanted by then."""

    def __init__(self, api: KubeApi, address: str, logs: Path, etcd: ssl.SSLContext, *, runs_pods: bool) -> None:
        self._api = api
        self._address = address
        self._logs = logs
        self._etcd = etcd
        self._runs_pods = runs_pods
        self._ports = PortLease()
        self._replicas: dict[str, Service] = {}
        self._urls: dict[str, str] = {}
        self._template = ""
        self._tinkerbell: Tinkerbell | None = None
        self._balancer: Balancer | None = None
        self._nodes: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        for service in (*self._replicas.values(), *([self._tinkerbell.service] if self._tinkerbell else [])):
            service.stop()
        if self._balancer:
            self._balancer.close()
        self._ports.release()
        shutil.rmtree(_ACCOUNT, ignore_errors=True)
        for directory in (_ACCOUNT.parent, _ACCOUNT.parents[1]):
            with suppress(OSError):
                directory.rmdir()

    def _loop(self) -> None:
        while not self._stopped.wait(_PAUSE):
            try:
                self._look()
            except Exception:
                # As a controller does: told in the log, and tried again.
                traceback.print_exc()

    def _look(self) -> None:
        self._drop_members()
        if self._runs_pods:
            self._chart()
            self._deployment()
            self._service()

    def _get(self, path: str) -> Any:
        answer = self._api.request("GET", path)
        return answer.body if answer.status == 200 else None

    def _drop_members(self) -> None:
        """A node that is deleted loses its place in etcd."""
        found = {item["metadata"]["name"] for item in self._get("/api/v1/nodes")["items"]}
        for gone in self._nodes - found:
            for member in gateway("cluster/member/list", {}, self._etcd).get("members", ()):
                if member.get("name") == gone:
                    gateway("cluster/member/remove", {"ID": member["ID"]}, self._etcd)
        self._nodes = found

    def _chart(self) -> None:
        chart = self._get(_CHART)
        if chart is None and self._tinkerbell is not None:
            self._tinkerbell.service.stop()
            self._tinkerbell = None
        if chart is not None and self._tinkerbell is None:
            directory = self._logs / "tinkerbell"
            kubeconfig = Path("/etc/rancher/k3s/k3s.yaml")
            binary = toolchain.binary("tinkerbell")
            self._tinkerbell = Tinkerbell(binary, directory, kubeconfig, self._api, self._ports)
            self._tinkerbell.service.start()

    def _deployment(self) -> None:
        deployment = self._get(_DEPLOYMENT)
        template = json.dumps(deployment["spec"]["template"], sort_keys=True) if deployment else ""
        if template != self._template or not deployment:
            for service in self._replicas.values():
                service.stop()
            self._replicas, self._urls, self._template = {}, {}, template
        if not deployment:
            return
        wanted = deployment["spec"]["replicas"]
        if len(self._replicas) < wanted and (environment := self._environment(deployment)):
            for number in range(wanted):
                self._start(f"dragonfly-{number}", environment)
        ready = sum(http_ok(f"{url}/readyz") for url in self._urls.values())
        count = len(self._replicas)
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": count,
            "updatedReplicas": count,
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        if any(deployment.get("status", {}).get(key, 0) != value for key, value in status.items()):
            self._api.request("PATCH", f"{_DEPLOYMENT}/status", {"status": status}, _MERGE)

    def _start(self, name: str, environment: dict[str, str]) -> None:
        port = self._ports.take()
        own = {
            "DRAGONFLY_LISTEN": f"127.0.0.1:{port}",
            "DRAGONFLY_ADVERTISE": f"127.0.0.1:{port}",
            "DRAGONFLY_REPLICA": name,
        }
        command = (sys.executable, "-m", "dragonfly", "server")
        program = Program(name, command, self._logs / f"{name}.log", environment | own)
        self._replicas[name] = Service(program, lambda: True, within=60)
        self._urls[name] = f"http://127.0.0.1:{port}"
        self._replicas[name].spawn()

    def _environment(self, deployment: Any) -> dict[str, str]:
        """The variables of the template, with its volumes as directories; none while a Secret is missing."""
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        found = {"KUBERNETES_SERVICE_HOST": self._address, "KUBERNETES_SERVICE_PORT": "6443"}
        mounts = self._mounts(pod, container)
        if mounts is None:
            return {}
        for variable in container["env"]:
            value = self._value(variable)
            if value is None:
                return {}
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
        data = self._secret(reference["name"])
        if data is None or (reference["key"] not in data and not reference.get("optional")):
            return None
        return data.get(reference["key"], b"").decode()

    def _mounts(self, pod: Any, container: Any) -> dict[str, Path] | None:
        names = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"]}
        found: dict[str, Path] = {}
        for mount in container["volumeMounts"]:
            data = self._secret(names[mount["name"]])
            if data is None:
                return None
            directory = _PODS / mount["name"]
            directory.mkdir(parents=True, exist_ok=True)
            for key, content in data.items():
                (directory / key).write_bytes(content)
            found[mount["mountPath"]] = directory
        return found

    def _secret(self, name: str) -> dict[str, bytes] | None:
        secret = self._get(f"/api/v1/namespaces/dragonfly/secrets/{name}")
        return None if secret is None else {k: base64.b64decode(v) for k, v in secret.get("data", {}).items()}

    def _account(self, name: str) -> None:
        _ACCOUNT.mkdir(parents=True, exist_ok=True)
        (_ACCOUNT / "token").write_text(self._api.token("dragonfly", name, hours=1))
        (_ACCOUNT / "namespace").write_text("dragonfly")
        authority = Path("/var/lib/rancher/k3s/server/tls/server-ca.crt")
        (_ACCOUNT / "ca.crt").write_bytes(authority.read_bytes())

    def _service(self) -> None:
        service = self._get(_SERVICE)
        if service is None:
            return
        wanted = service["spec"].get("loadBalancerIP") or self._address
        if self._balancer is None:
            if wanted != self._address:  # as kube-vip does
                subprocess.run(["ip", "address", "add", f"{wanted}/32", "dev", "cluster"], check=False)
            self._balancer = Balancer(wanted, service["spec"]["ports"][0]["port"], self)
        ingress = [{"ip": wanted, "ipMode": "VIP"}]
        if service["status"].get("loadBalancer", {}).get("ingress") != ingress:
            status = {"loadBalancer": {"ingress": ingress}}
            self._api.request("PATCH", f"{_SERVICE}/status", {"status": status}, _MERGE)

    def ready(self) -> list[int]:
        """The ports of replicas that are ready."""
        return [int(url.rpartition(":")[2]) for url in list(self._urls.values()) if http_ok(f"{url}/readyz")]


class Balancer:
    """Forwards connections to replicas that are ready, in turn."""

    def __init__(self, address: str, port: int, workloads: Workloads) -> None:
        self._workloads = workloads
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        serving = asyncio.start_server(self._forward, address, port)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports = await asyncio.to_thread(self._workloads.ready)
        if not ports:
            writer.close()
            return
        self._turn += 1
        inner = await asyncio.open_connection("127.0.0.1", ports[self._turn % len(ports)])
        await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
