"""Proxies put in front of a control plane's parts, and what replicas must be told to go through them."""

import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import yaml

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from tests.chaos.proxy import FaultProxy, Plan

Own = Mapping[str, Mapping[str, str]]
"""What each replica is told, by its id."""
Front = Callable[[ControlPlane, Path, PortLease, Iterable[str], Plan], AbstractContextManager[tuple[FaultProxy, Own]]]


@contextmanager
def kubernetes_front(
    plane: ControlPlane, directory: Path, ports: PortLease, replicas: Iterable[str], plan: Plan
) -> Iterator[tuple[FaultProxy, Own]]:
    """A proxy in front of the API server, with a certificate of its authority, and a kubeconfig for each replica."""
    authority = plane.apiserver._authority
    pair = authority.server("fault-proxy")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    addresses = {replica: ports.take() for replica in replicas}
    with FaultProxy(plane.apiserver.url, authority.context(), addresses, plan, tls=tls) as proxy:
        yield proxy, {replica: _kubeconfig(plane, directory, replica, url) for replica, url in proxy.urls.items()}


@contextmanager
def etcd_front(
    plane: ControlPlane, directory: Path, ports: PortLease, replicas: Iterable[str], plan: Plan
) -> Iterator[tuple[FaultProxy, Own]]:
    """A proxy in front of etcd's first member. It presents the client certificate, so the replicas need none."""
    del directory  # as `kubernetes_front`
    tls = ssl.create_default_context(cafile=plane.etcd_ca)
    tls.load_cert_chain(plane.etcd_cert, plane.etcd_key)
    addresses = {replica: ports.take() for replica in replicas}
    with FaultProxy(plane.etcd_endpoints[0], tls, addresses, plan) as proxy:
        none = dict.fromkeys(("DRAGONFLY_ETCD_CA_FILE", "DRAGONFLY_ETCD_CERT_FILE", "DRAGONFLY_ETCD_KEY_FILE"), "")
        yield proxy, {replica: {"DRAGONFLY_ETCD_ENDPOINTS": url, **none} for replica, url in proxy.urls.items()}


def _kubeconfig(plane: ControlPlane, directory: Path, replica: str, url: str) -> dict[str, str]:
    document = yaml.safe_load(plane.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = url
    path = directory / f"{replica}.kubeconfig"
    write_private(path, yaml.safe_dump(document).encode())
    return {"KUBECONFIG": str(path)}
