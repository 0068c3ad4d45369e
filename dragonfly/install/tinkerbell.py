"""Tinkerbell as k3s's helm-controller installs it: a HelmChart with the values that this site needs. Pure.

The keys are those of the chart of Tinkerbell 0.25.0; a test renders that very chart with them.
"""

import base64
from typing import Any, Final

import yaml

from dragonfly.install.detection import TINKERBELL
from dragonfly.install.k3s import POD_NETWORK
from dragonfly.install.options import Options
from dragonfly.kube.resources import Object

CHART: Final = "oci://ghcr.io/tinkerbell/charts/tinkerbell"
HOOKOS_PORT: Final = 7173
HOOKOS_DIRECTORY: Final = "/var/lib/tinkerbell-hookos"
"""On each host. The chart's own choice is /tmp, where everybody may put a kernel for machines to boot."""

DEAD_NODE_SECONDS: Final = 30
"""As for the replicas (deploy/k3s/base/deployment.yaml)."""

KUBE_VIP_CLASS: Final = "kube-vip.io/kube-vip-class"


def values(options: Options, address: str) -> dict[str, Any]:
    """Return the chart's values.

    Args:
        address: of the first host, for what has no address that moves.
    """
    serves_hookos = not (options.artifacts_url or options.airgap)
    public = options.tinkerbell_ip or address
    artifacts = options.artifacts_url or f"http://{options.artifacts_ip or address}:{HOOKOS_PORT}"
    return {
        "publicIP": public,
        "artifactsFileServer": artifacts,
        "trustedProxies": [POD_NETWORK],
        "service": {"lbClass": _class(options.tinkerbell_ip)},
        "deployment": {
            "envs": {
                # Its own limit of 100 requests a second is what bounds a burst of provisions.
                "globals": {"backendKubeQPS": -1, "backendKubeBurst": -1},
                "rufio": {"maxConcurrentReconciles": 10, "powerCheckInterval": "5m0s"},
                # While a boot job runs, a worker sleeps in it.
                "tinkController": {"maxConcurrentReconciles": 20},
                "smee": {"dhcpEnabled": options.dhcp},
            },
            "init": {"enabled": options.dhcp},
            "tolerations": [_leaves_after(taint) for taint in ("not-ready", "unreachable")],
            # The chart's limit of half a CPU and 128 MiB is for a handful of machines.
            "resources": {
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": "2", "memory": "1Gi"},
            },
        },
        "optional": {
            "hookos": {
                "enabled": serves_hookos,
                "persistence": {"localPersistentVolume": {"path": HOOKOS_DIRECTORY}},
            },
            "osie": {"service": {"lbClass": _class(options.artifacts_ip)}},
            "kubevip": {
                "enabled": bool(options.addresses),
                # Services without a class are k3s's own load balancer's: two that fight for one lose packets.
                "additionalEnv": [
                    {"name": "lb_class_only", "value": "true"},
                    {"name": "lb_class_name", "value": KUBE_VIP_CLASS},
                ],
            },
        },
    }


def helm_chart(options: Options, address: str, archive: bytes = b"") -> Object:
    """Return the object that has k3s install the chart.

    Args:
        archive: the chart's .tgz; empty to have it fetched.
    """
    source = {"chartContent": base64.b64encode(archive).decode()} if archive else _remote(options)
    return {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChart",
        "metadata": {"name": "tinkerbell", "namespace": "kube-system"},
        "spec": {
            **source,
            "targetNamespace": TINKERBELL,
            "valuesContent": yaml.safe_dump(values(options, address), sort_keys=False),
        },
    }


def _remote(options: Options) -> dict[str, str]:
    return {"chart": CHART, "version": options.tinkerbell_version}


def _leaves_after(taint: str) -> dict[str, Any]:
    """Return how long Tinkerbell stays on a dead node; if nothing is said, no machine is installed for five minutes."""
    key = f"node.kubernetes.io/{taint}"
    return {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEAD_NODE_SECONDS}


def _class(address: str) -> str:
    """An address that moves is kube-vip's to hold; the hosts' own are served by k3s's load balancer."""
    return KUBE_VIP_CLASS if address else ""
