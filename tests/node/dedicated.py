"""What the overlay `dedicated` needs of a node before it is applied (docs/kubernetes.md, "An etcd of its own")."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import Final, NamedTuple

import yaml

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.etcd import Access
from dragonfly.sandbox.pki import Authority
from tests.integration.k3s.rendered import K3S
from tests.node.images import of_one_program
from tests.node.node import NAME, Node
from tests.node.objects import secret

NAMESPACE: Final = "dragonfly-etcd"
_PROGRAM: Final = "/usr/local/bin/etcd"
_CLIENT_PORT: Final = 12_379
_PEER_PORT: Final = 12_380


class Dedicated(NamedTuple):
    """Where it will be, and how one gets in."""

    endpoint: str
    access: Access
    tls: ssl.SSLContext


def prepared(node: Node) -> Dedicated:
    """Bring the image, make the certificates and the Secret `etcd`, and label the node."""
    (namespace, daemons) = yaml.safe_load_all((K3S / "overlays" / "dedicated" / "etcd.yaml").read_text())
    (container,) = daemons["spec"]["template"]["spec"]["containers"]
    node.containerd.take(of_one_program(container["image"], toolchain.binary("etcd"), _PROGRAM, [_PROGRAM]))
    authority = Authority(node.directory / "dedicated", "dedicated-etcd-ca", dt.datetime.now(dt.UTC))
    member = authority.server("member", addresses=[node.address], also_client=True)
    client = authority.client("client")
    values = {
        "ca": authority.ca.read_bytes(),
        "cert": member.certificate.read_bytes(),
        "key": member.key.read_bytes(),
        "initial-cluster": f"{NAME}=https://{node.address}:{_PEER_PORT}".encode(),
        "initial-cluster-state": b"new",
    }
    node.apply(namespace)
    node.apply(secret(NAMESPACE, "etcd", values))
    node.kubectl("label", "node", NAME, "dragonfly.io/etcd=member")
    access = Access(authority.ca, client)
    return Dedicated(f"https://{node.address}:{_CLIENT_PORT}", access, authority.context(client))
