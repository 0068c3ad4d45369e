"""k3s's helm-controller: what a HelmChart says is in the cluster, rendered by a real Helm, until the HelmChart goes."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.kubeapi import KubeApi
from tests.integration.k3s.rendered import KUBERNETES, helm

KUBECONFIG: Final = Path("/etc/rancher/k3s/k3s.yaml")
DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_CHARTS: Final = "/apis/helm.cattle.io/v1/namespaces/kube-system/helmcharts"
_FINALIZER: Final = "wrangler.cattle.io/on-helm-chart-remove"
_MERGE: Final = "application/merge-patch+json"
_FIELDS: Final = ("chart", "chartContent", "version", "targetNamespace", "valuesContent")

DEFINITION: Final[dict[str, Any]] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "helmcharts.helm.cattle.io"},
    "spec": {
        "group": "helm.cattle.io",
        "scope": "Namespaced",
        "names": {"kind": "HelmChart", "listKind": "HelmChartList", "plural": "helmcharts", "singular": "helmchart"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {key: {"type": "string"} for key in _FIELDS},
                            }
                        },
                    }
                },
            }
        ],
    },
}


class Charts:
    """Those of one cluster."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._installed: dict[str, Any] = {}
        """What each said when it was installed last."""

    def look(self) -> None:
        """Do what the charts say by now."""
        for chart in self._api.request("GET", _CHARTS).body["items"]:
            name, spec = chart["metadata"]["name"], chart["spec"]
            if "deletionTimestamp" in chart["metadata"]:
                _kubectl("delete", "--ignore-not-found", "-f", "-", given=_rendered(name, spec))
                self._finalize(name, [])
                self._installed.pop(name, None)
            elif self._installed.get(name) != spec:
                self._finalize(name, [_FINALIZER])
                _kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=_rendered(name, spec))
                self._installed[name] = spec

    def _finalize(self, name: str, finalizers: list[str]) -> None:
        self._api.request("PATCH", f"{_CHARTS}/{name}", {"metadata": {"finalizers": finalizers}}, _MERGE)


def _rendered(name: str, spec: Any) -> str:
    with tempfile.TemporaryDirectory() as directory:
        archive, values = Path(directory, "chart.tgz"), Path(directory, "values.yaml")
        archive.write_bytes(base64.b64decode(spec["chartContent"]))
        values.write_text(spec["valuesContent"])
        arguments = ("template", name, str(archive), "--namespace", spec["targetNamespace"], "--values", str(values))
        return _output([str(helm()), *arguments, *KUBERNETES])


def _kubectl(*arguments: str, given: str) -> None:
    _output([str(toolchain.binary("kubectl")), "--kubeconfig", str(KUBECONFIG), *arguments], given)


def _output(command: list[str], given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
