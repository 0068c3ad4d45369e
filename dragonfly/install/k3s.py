"""What k3s is told and where it keeps its things. Pure.

Its etcd serves gRPC alone on port 2379; the JSON gateway that Dragonfly speaks is on a port of its own, which k3s opens
on loopback only, unless etcd is told otherwise (https://github.com/etcd-io/etcd/issues/15402).
"""

from pathlib import PurePosixPath as Place
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from dragonfly.install.options import API_PORT, Options, in_brackets

BINARY: Final = Place("/usr/local/bin/k3s")
CONFIG: Final = Place("/etc/rancher/k3s/config.yaml")
JOIN_TOKEN: Final = Place("/etc/rancher/k3s/join-token")
KUBECONFIG: Final = Place("/etc/rancher/k3s/k3s.yaml")
TOKEN: Final = Place("/var/lib/rancher/k3s/server/token")
ETCD_CA: Final = Place("/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt")
ETCD_CA_KEY: Final = Place("/var/lib/rancher/k3s/server/tls/etcd/server-ca.key")
IMAGES: Final = Place("/var/lib/rancher/k3s/agent/images")
SERVER: Final = Place("/var/lib/rancher/k3s/server")
NOTICE: Final = SERVER / "static/dragonfly/swarm.json"
"""For hosts that are to join: k3s serves what is in `static` to whoever asks its port."""
NOTICE_PATH: Final = "/static/dragonfly/swarm.json"
UNIT: Final = Place("/etc/systemd/system/k3s.service")
SERVICE: Final = "k3s.service"

SETTINGS_TREE: Final = Place("/etc/rancher")
DATA_TREE: Final = Place("/var/lib/rancher")
"""The cluster itself: etcd's data, certificates, tokens."""
ETCD_DATA: Final = DATA_TREE / "k3s/server/db/etcd"
TREES: Final = tuple(
    map(
        Place,
        (
            "/run/k3s",
            "/run/flannel",
            "/var/lib/kubelet",
            "/var/lib/cni",
            "/etc/cni",
            "/var/log/pods",
            "/var/log/containers",
        ),
    )
)
"""What k3s makes besides, and nobody needs once it is gone."""

RELEASES: Final = "https://github.com/k3s-io/k3s/releases/download"
"""Has a directory for each version."""

GATEWAY_PORT: Final = 2382
POD_NETWORK: Final = "10.42.0.0/16"
"""k3s's default, from which each node gets a part."""
SERVICE_NETWORK: Final = "10.43.0.0/16"
"""Likewise."""

UNIT_TEXT: Final = f"""\
# Written by dragonfly install.
[Unit]
Description=k3s, with its etcd
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
# As k3s's own installer has it; for a proxy, for instance.
EnvironmentFile=-{UNIT}.env
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart={BINARY} server
# Containers outlive a restart of k3s.
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
# The first start unpacks images.
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
"""


def gateway(address: str) -> str:
    """Return the URL of the JSON gateway of the member on a host."""
    return f"https://{address}:{GATEWAY_PORT}"


def config(options: Options, address: str) -> str:
    """Return config.yaml of a server with this address."""
    said: dict[str, Any] = {
        "node-ip": address,
        "tls-san": [name for name in (options.floating_ip,) if name],
        "disable": ["traefik"],
        # The swarm's secret key is a Secret: etcd must not have it beside what it seals.
        "secrets-encryption": True,
        "write-kubeconfig-mode": "0600",
        "etcd-arg": [
            f"listen-client-http-urls=https://127.0.0.1:{GATEWAY_PORT},{gateway(address)}",
            "enable-grpc-gateway=true",
            # Proves quiet watches, so that replicas need not write to prove them.
            "watch-progress-notify-interval=2s",
        ],
    }
    if options.is_first:
        said = {"cluster-init": True, **said}
    else:
        said = {"server": server_url(options.join), "token-file": str(JOIN_TOKEN), **said}
    return "# Written by dragonfly install.\n" + yaml.safe_dump(
        {key: value for key, value in said.items() if value != []}, sort_keys=False
    )


def server_url(join: str) -> str:
    """Return the URL of the server that `--join` names."""
    parts = urlsplit(f"//{in_brackets(join)}")
    return f"https://{parts.netloc}" if parts.port else f"https://{parts.netloc}:{API_PORT}"


def download(version: str, architecture: str, name: str, releases: str = RELEASES) -> str:
    """Return where a file of a release is.

    Args:
        architecture: `amd64` or `arm64`.
        name: `binary`, `images`, or `sums` for the file with their SHA-256.
        releases: the URL above all versions.
    """
    file = {
        "binary": "k3s" if architecture == "amd64" else f"k3s-{architecture}",
        "images": f"k3s-airgap-images-{architecture}.tar.zst",
        "sums": f"sha256sum-{architecture}.txt",
    }[name]
    return f"{releases}/{version.replace('+', '%2B')}/{file}"
