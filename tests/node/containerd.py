"""Debian's containerd with runc and the plugins for networks, in a place of its own; what it keeps is in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.toolchain import ToolMissing
from tests.contract import debian
from tests.node.images import of_one_program
from tests.node.place import Place

SOCKET: Final = "/run/containerd/containerd.sock"
PAUSE: Final = "dragonfly-test/pause:1"
BUSYBOX: Final = "dragonfly-test/busybox:1"
PODS: Final = "10.244.0.0/24"
_PLUGINS: Final = Path("/usr/lib/cni")

_CONFIG: Final = f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_PLUGINS}"
    conf_dir = "%s"
"""

# Each pod is a cable to the node, which so sees and translates whatever pods tell each other; on a bridge it does not.
_NETWORK: Final = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {"type": "host-local", "subnet": PODS, "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


class Containerd:
    """Not started; `service` is its process."""

    def __init__(self, place: Place, directory: Path) -> None:
        """
        Raises:
            ToolMissing: Debian's packages are not there.
        """
        directory.mkdir()
        networks = directory / "networks"
        networks.mkdir()
        (networks / "10-pods.conflist").write_text(json.dumps(_NETWORK))
        config = directory / "containerd.toml"
        config.write_text(_CONFIG % networks)
        self._place = place
        command = (*place.enter, _program("containerd"), "--config", str(config))
        self.service = Service(Program("containerd", command, directory / "containerd.log"), self._answers, within=60)

    def start(self) -> None:
        """Start it, with the two images that are always there."""
        self.service.start()
        busybox = debian.busybox()
        forever = ("/bin/busybox", "sleep", "2147483647")
        self.take(of_one_program(f"docker.io/{PAUSE}", busybox, "/bin/busybox", forever))
        self.take(of_one_program(f"docker.io/{BUSYBOX}", busybox, "/bin/busybox", forever))

    def take(self, archive: bytes) -> None:
        """Import an archive's images."""
        self._place.run("ctr", "--namespace", "k8s.io", "images", "import", "-", given=archive)

    def _answers(self) -> bool:
        try:
            self._place.run("ctr", "version")
        except AssertionError:
            return False
        return True


def _program(name: str) -> str:
    for needed in (name, "runc", "ctr", "iptables"):
        if shutil.which(needed, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is None:
            raise ToolMissing(f"{needed} is not here. scripts/ensure-test-programs brings it")
    if not (_PLUGINS / "ptp").exists():
        raise ToolMissing("containernetworking-plugins is not here. scripts/ensure-test-programs brings it")
    return name
