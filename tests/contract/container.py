"""The same etcd in a container: the image is built on the spot, of the program and nothing else."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.probes import http_ok
from tests.e2e.docker_daemon import running_daemon
from tests.e2e.waiting import eventually


@contextmanager
def etcd_in_a_container(directory: Path, ports: PortLease) -> Iterator[str]:
    """The URL of a member that runs for the block; its data goes with its container."""
    # Its helper container comes from a registry, and would remove what is removed here.
    testcontainers_config.ryuk_disabled = True
    client, peer = (f"http://{LOOPBACK}:{ports.take()}" for _ in range(2))
    flags = {
        "data-dir": "/data",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }
    command = ["/etcd", *(f"--{flag}={value}" for flag, value in flags.items())]
    with (
        running_daemon(directory) as daemon,
        daemon.image(f"dragonfly-test/etcd:{uuid.uuid4().hex}", _image()) as image,
    ):
        container = DockerContainer(image, {"environment": {"DOCKER_HOST": f"unix://{daemon.socket}"}})
        with container.with_command(command).with_kwargs(network_mode="host"):
            eventually("etcd in its container is healthy", lambda: http_ok(f"{client}/health"), within=60)
            yield client


def _image() -> bytes:
    """A file system of one program, which needs no libraries."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        tar.add(toolchain.binary("etcd"), arcname="etcd")
    return archive.getvalue()
