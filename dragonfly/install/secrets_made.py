"""The Secrets of an installation: what the swarm keeps to itself, and where its etcd is. Made once and kept."""

import base64
import datetime as dt
import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dragonfly.install import certificates, k3s
from dragonfly.install.certificates import BadAuthority, Pair
from dragonfly.install.cluster import Cluster
from dragonfly.install.detection import SECRET
from dragonfly.install.etcd_mode import agreed, found_mode
from dragonfly.install.execution import StepFailed
from dragonfly.install.host import Host
from dragonfly.install.manifests import NAME, NAMESPACE, OWN_SECRET
from dragonfly.install.own_etcd import OwnEtcd
from dragonfly.install.secret_data import read, secret
from dragonfly.install.steps import GiveEtcd, MakeSecrets
from dragonfly.kube.resources import DEPLOYMENT, Object, Ref

Say = Callable[[str], None]

ADMIN_TOKEN: Final = "admin-token"  # noqa: S105 - its key
_REPLICA_TOKEN: Final = "replica-token"  # noqa: S105 - its key
_SECRET_KEY: Final = "secret-key"  # noqa: S105 - its key
_RESTART: Final = "dragonfly.io/etcd-access"
_DEPLOYMENT: Final = Ref(DEPLOYMENT, NAMESPACE, NAME)


class Secrets:
    """Makes them, from what is on this host and in the cluster."""

    def __init__(self, host: Host, cluster: Cluster, own_etcd: OwnEtcd, now: Callable[[], dt.datetime]) -> None:
        self._host = host
        self._cluster = cluster
        self._own_etcd = own_etcd
        self._now = now

    def admin_token(self) -> str:
        """Return it.

        Raises:
            StepFailed: it cannot be read.
        """
        return self._own()[ADMIN_TOKEN].decode()

    def has_own(self, action: MakeSecrets) -> bool:
        found = self._read(action.namespace, action.name)
        return {ADMIN_TOKEN, _REPLICA_TOKEN, _SECRET_KEY} <= found.keys()

    def make_own(self, action: MakeSecrets, say: Say) -> None:
        """Make what is missing; what is there stays, for passwords are sealed with it.

        Raises:
            StepFailed: the API server refuses it.
        """
        made = {
            ADMIN_TOKEN: f"df_{secrets.token_hex(24)}".encode(),
            _REPLICA_TOKEN: base64.b64encode(secrets.token_bytes(32)),
            _SECRET_KEY: base64.b64encode(secrets.token_bytes(32)),
        }
        data = made | dict(self._read(action.namespace, action.name))
        self._cluster.apply([secret(action.namespace, action.name, data)], say)

    def has_given(self, action: GiveEtcd) -> bool:
        given = self._given(action)
        found = self._cluster.get(_DEPLOYMENT) or {"spec": {"template": {"metadata": {}}}}
        annotations = found["spec"]["template"]["metadata"].get("annotations", {})
        return annotations.get(_RESTART) == self._digest(given[0]) and self._cluster.has(given)

    def give(self, action: GiveEtcd, say: Say) -> None:
        """Tell where etcd is, and have the replicas start again one by one if that or the number of hosts has changed.

        Raises:
            StepFailed: something that is needed cannot be read, or the API server refuses it.
        """
        given = self._given(action)
        self._cluster.apply(given, say)
        self._restart(given[0])

    def give_endpoints(self, endpoints: tuple[str, ...]) -> None:
        """Tell the replicas of other members of the etcd that they have, and have them start again one by one.

        Raises:
            StepFailed: the API server refuses it.
        """
        access = {**self._read(NAMESPACE, SECRET), "endpoints": ",".join(endpoints).encode()}
        told = secret(NAMESPACE, SECRET, access)
        self._cluster.apply([told], lambda _: None)
        self._restart(told)

    def _restart(self, access: Object) -> None:
        annotations = {_RESTART: self._digest(access)}
        self._cluster.patch(_DEPLOYMENT, {"spec": {"template": {"metadata": {"annotations": annotations}}}})

    def _given(self, action: GiveEtcd) -> list[Object]:
        access = self._joined(action) if action.joins else self._access(action.mode, action)
        own = self._own()
        outside = {
            # Who joins from outside goes through the relay: the certificate, root on the cluster, stays inside.
            "replicaToken": own[_REPLICA_TOKEN],
            "service": f"{NAMESPACE}/{NAME}:http".encode(),
            "secretKey": own[_SECRET_KEY],
        }
        return [secret(action.namespace, SECRET, access), secret(action.outside, SECRET, outside)]

    def _joined(self, action: GiveEtcd) -> Mapping[str, bytes]:
        old = self._read(action.namespace, SECRET)
        found = found_mode(old, has_own_etcd=self._own_etcd.is_there())
        return {**old, **self._access(agreed(action.mode, found), action)}

    def _access(self, mode: str, action: GiveEtcd) -> Mapping[str, bytes]:
        made = {"shared": self._shared, "dedicated": self._dedicated, "external": self._external}
        return made[mode](action)

    def _digest(self, access: Object) -> str:
        """Return what makes pods new when it changes.

        `endpoints` reaches them as a variable; and unless they start again, all stay where they are.
        """
        told, hosts = access["data"]["endpoints"], self._cluster.node_count()
        spread = f"{told} {hosts}" if hosts > 1 else told
        return hashlib.sha256(spread.encode()).hexdigest()[:16]

    def _shared(self, action: GiveEtcd) -> Mapping[str, bytes]:
        ca = self._file(str(k3s.ETCD_CA))
        endpoints = [k3s.gateway(address) for address in self._cluster.etcd_addresses() or (action.address,)]
        old = self._read(action.namespace, SECRET)
        if "key" in old and certificates.is_good(old.get("cert", b""), ca, self._now()):
            pair = Pair(old["cert"], old["key"])
        else:
            pair = self._client(Pair(ca, self._file(str(k3s.ETCD_CA_KEY))))
        return {"endpoints": ",".join(endpoints).encode(), "ca": ca, "cert": pair.certificate, "key": pair.key}

    def _client(self, authority: Pair) -> Pair:
        try:
            return certificates.client(authority, "dragonfly", self._now())
        except BadAuthority as error:
            raise StepFailed(f"{k3s.ETCD_CA_KEY}: {error}") from error

    def _dedicated(self, action: GiveEtcd) -> Mapping[str, bytes]:
        return {"endpoints": ",".join(self._own_etcd.endpoints(action.address)).encode(), **self._own_etcd.access()}

    def _external(self, action: GiveEtcd) -> Mapping[str, bytes]:
        if not action.endpoints:  # a host that joins: the first one was told
            return self._read(action.namespace, SECRET)
        return {
            "endpoints": ",".join(action.endpoints).encode(),
            "ca": _content(action.ca_file),
            "username": action.username.encode(),
            "password": _content(action.password_file).strip(),
        }

    def _own(self) -> Mapping[str, bytes]:
        found = self._read(NAMESPACE, OWN_SECRET)
        if not found:
            raise StepFailed(f"Secret {NAMESPACE}/{OWN_SECRET} is not there", "dragonfly install makes it again.")
        return found

    def _read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        return read(self._cluster, namespace, name)

    def _file(self, place: str) -> bytes:
        return _content(str(self._host.path(place)))


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StepFailed(f"{path} cannot be read: {error.strerror}") from error
