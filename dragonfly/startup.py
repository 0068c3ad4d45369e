"""What a replica cannot begin without, opened as its settings say; what is wrong with them is told in words."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dragonfly.api.connections import bound
from dragonfly.kube.credentials import InCluster, Kubeconfig
from dragonfly.settings import Settings
from dragonfly.store.client import EtcdStore
from dragonfly.store.errors import StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.seal import Seal, read_seal
from dragonfly.store.settings import etcd_settings
from dragonfly.store.ways import Way

_FIRST_HANDED_OVER: Final = 3
"""SD_LISTEN_FDS_START: the first file descriptor that systemd hands over."""


class StartError(Exception):
    """The replica cannot start; the message says why and what to do."""


def etcd(settings: Settings, way: Way | None = None) -> EtcdStore:
    """Return etcd, not yet asked anything.

    Args:
        settings: where it is.
        way: how it is reached, if they do not say it all.

    Raises:
        StartError: nobody says where it is, or its certificates can't be read.
    """
    if not settings.etcd_endpoints:
        raise StartError("no etcd: set DRAGONFLY_ETCD_ENDPOINTS, or try `dragonfly demo`, which brings its own")
    try:
        found = etcd_settings(settings)
        return EtcdStore(found, gateway=Gateway.open(found, way=way))
    except OSError as error:
        files = ", ".join(filter(None, (settings.etcd_ca_file, settings.etcd_cert_file, settings.etcd_key_file)))
        raise StartError(f"etcd's certificates ({files}): {error}") from error


def cluster(settings: Settings) -> Kubeconfig | InCluster:
    """Return the way to the cluster `local`."""
    return Kubeconfig.from_variable(settings.kubeconfig, settings.context) if settings.kubeconfig else InCluster()


def is_in_pod() -> bool:
    """Return whether Kubernetes runs this replica: it tells each pod where its API server is."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def seal(settings: Settings) -> Seal | None:
    """Return what seals secrets; None if no key is configured.

    Raises:
        StartError: the key can't be read.
    """
    if not settings.secret_key_file:
        return None
    try:
        return read_seal(Path(settings.secret_key_file))
    except StoreError as error:
        raise StartError(str(error)) from error


def handed_over(environment: Mapping[str, str], pid: int) -> int | None:
    """Return the socket that systemd hands over to this process (sd_listen_fds(3)); None if it hands over none.

    Raises:
        StartError: it hands over something else than one socket.
    """
    if environment.get("LISTEN_PID") != str(pid):  # for somebody who started this process, or for nobody
        return None
    number = environment.get("LISTEN_FDS", "")
    if number != "1":
        raise StartError(f"LISTEN_FDS={number}: a replica takes one socket from systemd; one ListenStream= is enough")
    return _FIRST_HANDED_OVER


def listener(settings: Settings) -> socket.socket:
    """Return the socket that HTTP is served on: systemd's if it hands one over, else one of our own.

    Raises:
        StartError: the address can't be had, or what is handed over is of no use.
    """
    descriptor = handed_over(os.environ, os.getpid())
    if descriptor is None:
        return _opened(settings)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # not for programs that this one starts
        os.environ.pop(name, None)
    return taken_over(descriptor, settings)


def taken_over(descriptor: int, settings: Settings) -> socket.socket:
    """Return a socket that somebody else opened; they keep it open when this one is closed.

    Raises:
        StartError: it does not listen for TCP on the port that the settings say, which is the one that others are told.
    """
    try:
        taken = socket.socket(fileno=descriptor)
        listens = taken.type == socket.SOCK_STREAM and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"file descriptor {descriptor}, which systemd hands over: {error.strerror}") from error
    if taken.family not in {socket.AF_INET, socket.AF_INET6} or not listens:
        taken.close()
        raise StartError(f"file descriptor {descriptor}, which systemd hands over, is no socket that listens for TCP")
    port = taken.getsockname()[1]
    if port != settings.listen.port:
        taken.close()
        raise StartError(f"systemd hands over port {port}, and --listen says {settings.listen}: say the same in both")
    taken.set_inheritable(False)
    bound(taken)
    return taken


def _opened(settings: Settings) -> socket.socket:
    host, port = settings.listen
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        message = f"cannot listen on {settings.listen}: {error.strerror}; choose another with --listen"
        raise StartError(message) from error
    bound(opened)
    return opened
