"""A Docker daemon for a test: the one that runs here, or one of the test's own, stopped afterwards."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import docker  # type: ignore[import-untyped] # it has no types
from docker.errors import APIError, DockerException  # type: ignore[import-untyped] # it has no types

from dragonfly.sandbox.process import Program, Service
from tests.e2e.docker_proxy import DockerProxy

_USUAL: Final = Path("/var/run/docker.sock")
_SECONDS: Final = 60


class Daemon:
    """A daemon that answers."""

    def __init__(self, path: Path) -> None:
        self.socket = path
        self.client = docker.DockerClient(base_url=f"unix://{path}", version="auto", timeout=30)

    @contextmanager
    def image(self, name: str, filesystem: bytes) -> Iterator[str]:
        """Make an image of a tar archive for the block; its name."""
        repository, _, tag = name.rpartition(":")
        self.client.api.import_image_from_data(filesystem, repository=repository, tag=tag)
        try:
            yield name
        finally:
            self.client.images.remove(name, force=True)

    def gives_privileges(self, image: str, command: list[str]) -> bool:
        try:
            self.client.containers.run(image, command, privileged=True, remove=True, network_mode="none")
        except APIError:
            self.client.containers.prune()
            return False
        return True

    @contextmanager
    def for_agents(self, directory: Path, image: str, command: list[str]) -> Iterator[Path]:
        """The socket that tink-agent can use: the daemon's, or a proxy's where it gives no privileges."""
        if self.gives_privileges(image, command):
            yield self.socket
            return
        with DockerProxy(directory / "proxy.sock", self.socket) as proxy:
            yield proxy.socket


@contextmanager
def running_daemon(directory: Path) -> Iterator[Daemon]:
    """The daemon of this computer if there is one, else one that lives in `directory`."""
    with ExitStack() as stack:
        socket = _USUAL if _answers(_USUAL) else stack.enter_context(_own(directory))
        daemon = Daemon(socket)
        stack.callback(daemon.client.close)
        yield daemon


@contextmanager
def _own(directory: Path) -> Iterator[Path]:
    socket = directory / "docker.sock"
    # Without a bridge and without rules in the firewall it changes nothing for anybody else here.
    flags = {
        "host": f"unix://{socket}",
        "data-root": directory / "data",
        "exec-root": directory / "exec",
        "pidfile": directory / "docker.pid",
        "iptables": "false",
        "ip6tables": "false",
        "bridge": "none",
    }
    command = (_dockerd(), *(f"--{flag}={value}" for flag, value in flags.items()))
    service = Service(Program("dockerd", command, directory / "dockerd.log"), lambda: _answers(socket), within=_SECONDS)
    try:
        service.start()
        yield socket
    finally:
        service.stop(grace=20)
        _unmount(directory)


def _dockerd() -> str:
    # Debian puts servers where an ordinary user's PATH does not look.
    found = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/local/sbin:/usr/sbin:/sbin")
    assert found, "no Docker daemon answers, and there is no dockerd to start one: install docker.io and iptables"
    return found


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    with suppress(DockerException):
        client = docker.DockerClient(base_url=f"unix://{socket}", version="auto", timeout=10)
        try:
            return bool(client.ping())
        finally:
            client.close()
    return False


def _unmount(directory: Path) -> None:
    """Docker leaves a mount of a network namespace behind, in the way of whoever removes the directory."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=True)
