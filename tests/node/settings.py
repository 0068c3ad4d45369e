"""What the programs of a node are told, as values; whoever starts them says where their things are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dragonfly.sandbox.pki import KeyPair

PAUSE: Final = "dragonfly-test/pause:1"
"""The image that holds a pod's namespaces."""
PLUGINS: Final = Path("/usr/lib/cni")

_CONTAINERD: Final = f"""
version = 2
root = "%(root)s"
state = "%(state)s"
[grpc]
  address = "%(socket)s"
[plugins."io.containerd.internal.v1.opt"]
  path = "%(root)s/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "%(networks)s"
"""


def containerd(socket: str, *, root: str, state: str, networks: Path) -> str:
    """Its configuration, as TOML; `networks`: the directory with that of the pods' network."""
    return _CONTAINERD % {"socket": socket, "root": root, "state": state, "networks": networks}


def pod_network(subnet: str) -> dict[str, Any]:
    """Of the pods of one node, for containerd's plugins.

    Each pod is a cable to the node, which so sees and translates whatever pods tell each other; on a bridge it does
    not.
    """
    ipam = {"type": "host-local", "subnet": subnet, "routes": [{"dst": "0.0.0.0/0"}]}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet(address: str, authority: Path, served: KeyPair, socket: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """A KubeletConfiguration.

    Args:
        address: where it listens.
        authority: the file with that of its clients.
        socket: containerd's.
        more: what it is told besides.
    """
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "healthzBindAddress": address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(served.certificate),
        "tlsPrivateKeyFile": str(served.key),
        "containerRuntimeEndpoint": f"unix://{socket}",
        "clusterDomain": "cluster.local",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "localStorageCapacityIsolation": False,
        # How full this computer's disk is, is nobody's business here.
        "evictionHard": {
            "memory.available": "1Mi",
            **{f"{kind}.{what}": "0%" for kind in ("nodefs", "imagefs") for what in ("available", "inodesFree")},
        },
        "imageGCHighThresholdPercent": 100,
        **more,
    }


def kube_proxy(name: str, address: str, kubeconfig: Path, pods: str, healthz: int) -> dict[str, Any]:
    """A KubeProxyConfiguration.

    Args:
        name: of the node.
        pods: the network of the pods of all nodes.
        healthz: the port where it tells how it is.
    """
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": address,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": pods,
        # Settings of the whole computer: left alone.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "healthzBindAddress": f"{address}:{healthz}",
        "hostnameOverride": name,
        "metricsBindAddress": "",
        "mode": "iptables",
    }


def flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"--{flag}={value}" for flag, value in values.items())
