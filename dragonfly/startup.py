"""What a replica cannot begin without, opened as its settings say; what is wrong with them is told in words."""

import os
import socket
from pathlib import Path

from dragonfly.api.connections import bound
from dragonfly.kube.credentials import InCluster, Kubeconfig
from dragonfly.settings import Settings
from dragonfly.store.client import EtcdStore
from dragonfly.store.errors import StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.seal import Seal, read_seal
from dragonfly.store.settings import etcd_settings
from dragonfly.store.ways import Way


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


def listener(settings: Settings) -> socket.socket:
    """Return the socket that HTTP is served on.

    Raises:
        StartError: the address can't be had.
    """
    host, port = settings.listen
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        message = f"cannot listen on {settings.listen}: {error.strerror}; choose another with --listen"
        raise StartError(message) from error
    bound(opened)
    return opened
