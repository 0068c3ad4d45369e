"""The two Secrets of the swarm's own etcd: how a member starts and a client gets in, and the authority behind that."""

import datetime as dt
import ipaddress
from collections.abc import Callable, Collection, Mapping
from typing import Final

from dragonfly.install import certificates
from dragonfly.install.certificates import BadAuthority, Pair
from dragonfly.install.cluster import Cluster, Say
from dragonfly.install.execution import StepFailed
from dragonfly.install.manifests import ETCD_NAMESPACE
from dragonfly.install.secret_data import read, secret

BY_HAND: Final = "docs/kubernetes.md, An etcd of its own, says how to do it by hand."
ACCESS: Final = "etcd"
"""The name of the Secret by which members start and clients get in."""
_AUTHORITY: Final = "etcd-authority"
_GROWN: Final = b"existing"
"""The state of an etcd that others have joined, or may have."""


class OwnSecrets:
    """Both, as the cluster has them."""

    def __init__(self, cluster: Cluster, now: Callable[[], dt.datetime]) -> None:
        self._cluster = cluster
        self._now = now

    def access(self) -> Mapping[str, bytes]:
        """Return what the first of them says; empty if it is not there.

        Raises:
            StepFailed: the API server does not answer.
        """
        return read(self._cluster, ETCD_NAMESPACE, ACCESS)

    def found(self, initial_cluster: str, address: str, say: Say) -> None:
        """Make both, for a first member; an authority that is there stays.

        Raises:
            StepFailed: the API server refuses it.
        """
        now = self._now()
        authority = self._kept_authority() or certificates.authority("dragonfly-etcd", now)
        pair = certificates.member(authority, (address,), now)
        access = {
            "ca": authority.certificate,
            "cert": pair.certificate,
            "key": pair.key,
            "initial-cluster": initial_cluster.encode(),
            "initial-cluster-state": b"new",
        }
        kept = {"ca": authority.certificate, "key": authority.key}
        self._cluster.apply([secret(ETCD_NAMESPACE, _AUTHORITY, kept), secret(ETCD_NAMESPACE, ACCESS, access)], say)

    def is_told(self, access: Mapping[str, bytes], initial_cluster: str, addresses: Collection[str]) -> bool:
        """Whether a member that starts finds these others, and a certificate for these addresses."""
        return _start(initial_cluster).items() <= access.items() and self._covers(access, addresses)

    def tell(self, initial_cluster: str, addresses: Collection[str], say: Say) -> None:
        """Say with which others a member starts, with a certificate for these addresses.

        Raises:
            StepFailed: there can be no such certificate, or the API server refuses it.
        """
        access = self.access()
        told = {**access, **_start(initial_cluster)}
        if not self._covers(access, addresses):
            pair = self.certificate(addresses)
            told |= {"cert": pair.certificate, "key": pair.key}
        self._cluster.apply([secret(ETCD_NAMESPACE, ACCESS, told)], say)

    def certificate(self, addresses: Collection[str]) -> Pair:
        """Return one for members and their clients.

        Raises:
            StepFailed: the authority is not there or cannot be read, or not all of these are addresses.
        """
        if names := sorted(filter(_is_name, addresses)):
            raise StepFailed(
                f"members of the swarm's own etcd are known by name: {', '.join(names)}; the certificates that are "
                "made here are for addresses",
                f"Give those members peer URLs with addresses (etcdctl member update). {BY_HAND}",
            )
        authority = self._kept_authority()
        if authority is None:
            raise StepFailed(
                f"Secret {ETCD_NAMESPACE}/{_AUTHORITY} is not there, whose key signs the members' certificate",
                f"Put it back, or make the member by hand: {BY_HAND}",
            )
        try:
            return certificates.member(authority, addresses, self._now())
        except BadAuthority as error:
            raise StepFailed(f"Secret {ETCD_NAMESPACE}/{_AUTHORITY}: {error}") from error

    def _covers(self, access: Mapping[str, bytes], addresses: Collection[str]) -> bool:
        is_good = certificates.is_good(access["cert"], access["ca"], self._now())
        return is_good and certificates.addresses(access["cert"]) >= set(addresses)

    def _kept_authority(self) -> Pair | None:
        kept = read(self._cluster, ETCD_NAMESPACE, _AUTHORITY)
        return Pair(kept["ca"], kept["key"]) if {"ca", "key"} <= kept.keys() else None


def has_grown(access: Mapping[str, bytes]) -> bool:
    """Whether others have joined the first member, or may have."""
    return access.get("initial-cluster-state") == _GROWN


def _start(initial_cluster: str) -> Mapping[str, bytes]:
    return {"initial-cluster": initial_cluster.encode(), "initial-cluster-state": _GROWN}


def _is_name(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return True
    return False
