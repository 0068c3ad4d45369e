"""Plays the pod of the DaemonSet `etcd` on a node: real etcd with its arguments, files and ports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.kubeapi import KubeApi
from dragonfly.sandbox.process import Program, Service
from tests.e2e.install.pods import mounted, secret

_SET: Final = "/apis/apps/v1/namespaces/dragonfly-etcd/daemonsets/etcd"
_VOLUMES: Final = Path("/run/k3s/pods/own-etcd")


class OwnEtcd:
    """Runs while the DaemonSet is there and the node has its label."""

    def __init__(self, api: KubeApi, node: str, address: str, logs: Path) -> None:
        self._api = api
        self._node = node
        self._address = address
        self._logs = logs
        self._service: Service | None = None

    def stop(self) -> None:
        if self._service:
            self._service.stop()
        self._service = None

    def look(self) -> None:
        answer = self._api.request("GET", _SET)
        pod = answer.body["spec"]["template"]["spec"] if answer.status == 200 else None
        if pod is None or not self._is_chosen(pod["nodeSelector"]):
            self.stop()
        elif self._service is None and (command := self._command(pod)):
            program = Program("own-etcd", command, self._logs / "own-etcd.log", {"ETCD_UNSAFE_NO_FSYNC": "true"})
            self._service = Service(program, lambda: True, within=60)
            self._service.spawn()
        elif self._service is not None:
            self._service.spawn()  # again, if it ended: as the kubelet does

    def _is_chosen(self, selector: dict[str, str]) -> bool:
        node = self._api.request("GET", f"/api/v1/nodes/{self._node}").body
        labels: dict[str, str] = node["metadata"].get("labels", {})
        return selector.items() <= labels.items()

    def _command(self, pod: Any) -> tuple[str, ...]:
        """Nothing while its Secret is missing."""
        (container,) = pod["containers"]
        data = secret(self._api, "dragonfly-etcd", "etcd")
        if data is None:
            return ()
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        places = {
            mount["mountPath"]: _place(volumes[mount["name"]], data)
            for mount in sorted(container["volumeMounts"], key=lambda mount: -len(mount["mountPath"]))
        }
        variables = {variable["name"]: self._value(variable["valueFrom"], data) for variable in container["env"]}
        assert container["command"] == ["/usr/local/bin/etcd"]
        return (str(toolchain.binary("etcd")), *(_argument(text, variables, places) for text in container["args"]))

    def _value(self, source: Any, data: dict[str, bytes]) -> str:
        if "secretKeyRef" in source:
            return data[source["secretKeyRef"]["key"]].decode()
        return {"spec.nodeName": self._node, "status.hostIP": self._address}[source["fieldRef"]["fieldPath"]]


def _place(volume: Any, data: dict[str, bytes]) -> Path:
    """Where a volume is on the node."""
    if "secret" in volume:
        return mounted(_VOLUMES, data)
    path = Path(volume["hostPath"]["path"])
    path.mkdir(parents=True, exist_ok=True)
    return path


def _argument(text: str, variables: dict[str, str], places: dict[str, Path]) -> str:
    said = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], text)
    for place, directory in places.items():
        said = said.replace(f"={place}/", f"={directory}/")
    return said
