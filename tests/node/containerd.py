"""Debian's containerd with runc and the plugins for networks, in a place of its own; what it keeps is in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.toolchain import ToolMissing
from tests.node import settings
from tests.node.images import idle
from tests.node.place import Place

SOCKET: Final = "/run/containerd/containerd.sock"
BUSYBOX: Final = "dragonfly-test/busybox:1"
PODS: Final = "10.244.0.0/24"


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
        (networks / "10-pods.conflist").write_text(json.dumps(settings.pod_network(PODS)))
        config = directory / "containerd.toml"
        config.write_text(
            settings.containerd(SOCKET, root="/var/lib/containerd", state="/run/containerd", networks=networks)
        )
        self._place = place
        command = (*place.enter, program("containerd"), "--config", str(config))
        self.service = Service(Program("containerd", command, directory / "containerd.log"), self._answers, within=60)

    def start(self) -> None:
        """Start it, with the two images that are always there."""
        self.service.start()
        for name in (settings.PAUSE, BUSYBOX):
            self.take(idle(f"docker.io/{name}"))

    def take(self, archive: bytes) -> None:
        """Import an archive's images."""
        self._place.run("ctr", "--namespace", "k8s.io", "images", "import", "-", given=archive)

    def _answers(self) -> bool:
        try:
            self._place.run("ctr", "version")
        except AssertionError:
            return False
        return True


def program(name: str) -> str:
    for needed in (name, "runc", "ctr", "iptables"):
        if shutil.which(needed, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is None:
            raise ToolMissing(f"{needed} is not here. scripts/ensure-test-programs brings it")
    if not (settings.PLUGINS / "ptp").exists():
        raise ToolMissing("containernetworking-plugins is not here. scripts/ensure-test-programs brings it")
    return name
