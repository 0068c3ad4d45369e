"""The swarm's own etcd: founded on one host, with a member on each that joins, none on one that leaves.

`own_members` says what is to be done next; here it is done.
"""

import datetime as dt
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

from dragonfly.install import etcd_log
from dragonfly.install.cluster import ApiSilent, Cluster, Say
from dragonfly.install.detection import SECRET
from dragonfly.install.execution import StepFailed
from dragonfly.install.host import Host
from dragonfly.install.manifests import ETCD_DIRECTORY, ETCD_NAMESPACE, MEMBER, MEMBER_LABEL, NAMESPACE
from dragonfly.install.own_members import (
    CLIENT_PORT,
    PEER_PORT,
    Add,
    Label,
    Move,
    Place,
    Promote,
    Remove,
    SetAside,
    Tell,
    Unlabel,
    Wait,
    addresses,
    endpoints,
    initial_cluster,
    joining,
    leaving_problem,
    of_host,
    tolerance,
    voters,
)
from dragonfly.install.own_secrets import ACCESS, BY_HAND, OwnSecrets, has_grown
from dragonfly.install.rollouts import keeps_ending, pods_trouble
from dragonfly.install.secret import in_memory
from dragonfly.install.secret_data import read
from dragonfly.install.steps import FoundEtcd, JoinEtcd
from dragonfly.kube.resources import DAEMON_SET, NODE, Ref
from dragonfly.store.errors import Rejected, StoreError, Unavailable
from dragonfly.store.members import EtcdMembers, Member
from dragonfly.store.settings import EtcdSettings

T = TypeVar("T")

DAEMONS: Final = Ref(DAEMON_SET, ETCD_NAMESPACE, "etcd")
_PODS: Final = {"app.kubernetes.io/name": "dragonfly-etcd"}
_DATA: Final = f"{ETCD_DIRECTORY}/data"


class Membership(Protocol):
    """`EtcdMembers`, as far as it takes."""

    def members(self) -> tuple[Member, ...]: ...
    def add_learner(self, peer: str) -> None: ...
    def promote(self, member: int) -> None: ...
    def remove(self, member: int) -> None: ...
    def answering(self) -> Collection[int]: ...
    def close(self) -> None: ...


Open = Callable[[tuple[str, ...], Mapping[str, bytes]], Membership]
"""To the etcd behind these endpoints, with `ca`, `cert` and `key`."""


class OwnEtcd:
    """It, as seen from this host."""

    def __init__(
        self, host: Host, cluster: Cluster, now: Callable[[], dt.datetime], opened: Open | None = None
    ) -> None:
        self._host = host
        self._cluster = cluster
        self._secrets = OwnSecrets(cluster, now)
        self._opened = opened or _opened

    def is_there(self) -> bool:
        """Whether the swarm has one.

        Raises:
            StepFailed: the API server does not answer.
        """
        return self._cluster.get(DAEMONS) is not None

    def has_member(self, action: FoundEtcd | JoinEtcd) -> bool:
        """Whether there is nothing to do, as far as the API server tells; also if the swarm has no etcd of its own.

        Raises:
            StepFailed: that etcd does not tell.
        """
        try:
            if isinstance(action, FoundEtcd) and not has_grown(access := self._secrets.access()):
                return bool(access) and self._is_labelled(action.hostname)
            return not self.is_there() or self._next(action.hostname, action.address) is None
        except ApiSilent:
            return False

    def have_member(self, action: FoundEtcd | JoinEtcd, say: Say) -> str:
        """Make the next move for this host to have a member; return what is so by it, empty if nothing is left to do.

        The first member is founded; to have its own again once there are others, the founder joins as all others do.

        Raises:
            StepFailed: the move can't be made.
        """
        try:
            if isinstance(action, FoundEtcd) and not has_grown(access := self._secrets.access()):
                self._found(action, access, say)
                return ""
            return self._joined(action.hostname, action.address, say) if self.is_there() else ""
        except (_Silent, ApiSilent) as error:
            return str(error)

    def _found(self, action: FoundEtcd, access: Mapping[str, bytes], say: Say) -> None:
        """Make the authority, a certificate and a first member; those that are there stay.

        Raises:
            StepFailed: the API server refuses it, or there are other members, which would know neither.
        """
        if not access:
            self._check_alone(action)
            first = f"{action.hostname}=https://{action.address}:{PEER_PORT}"
            self._secrets.found(first, action.address, say)
        self._label(action.hostname, MEMBER)

    def _joined(self, host: str, address: str, say: Say) -> str:
        move = self._next(host, address)
        done = self._made(move, host, address, say) if move else ""
        return f"{done}{self._pods_trouble(host)}" if isinstance(move, Wait) else done

    def endpoints(self, address: str) -> tuple[str, ...]:
        """Return where its clients are served.

        Args:
            address: this host's, for one that has just been founded.

        Raises:
            StepFailed: it does not tell.
        """
        access = self._secrets.access()
        if not access:
            raise StepFailed(f"Secret {ETCD_NAMESPACE}/{ACCESS} is not there", "dragonfly install makes it again.")
        if not has_grown(access):
            labelled = self._cluster.labelled_addresses(MEMBER_LABEL, MEMBER) or (address,)
            return tuple(map(_client, labelled))
        with self._open(access, ()) as etcd:
            return endpoints(_asked(etcd.members))

    def access(self) -> Mapping[str, bytes]:
        """Return the certificates by which a client gets in."""
        return {key: value for key, value in self._secrets.access().items() if key in {"ca", "cert", "key"}}

    def leaving_problem(self, host: str) -> str:
        """Return why it cannot do without the member of a host, or cannot be asked; empty if it can.

        Raises:
            StepFailed: the API server does not answer.
        """
        try:
            _, members, place = self._seen_of(host)
        except _Failed as error:
            return str(error) if self._is_labelled(host) else ""
        return leaving_problem(members, place)

    def leave(self, host: str, tell: Callable[[tuple[str, ...]], None]) -> str:
        """Take the member of a host out, if there is one; return why it has to be tried again, empty if it is gone.

        Args:
            tell: is called with where clients are served by those that stay, before the member is taken out.

        Raises:
            StepFailed: the others cannot do without it.
        """
        try:
            return self._left(host, tell)
        except ApiSilent as error:
            return str(error)

    def _left(self, host: str, tell: Callable[[tuple[str, ...]], None]) -> str:
        try:
            address, members, place = self._seen_of(host)
            if problem := leaving_problem(members, place):
                raise StepFailed(f"the member of the swarm's own etcd on this host cannot be taken out: {problem}")
            if mine := of_host(members, place):
                tell(endpoints([one for one in members if one.id != mine.id]))
                self._ask(address, lambda etcd: etcd.remove(mine.id))
        except _Silent as error:
            # What its node is not told to have it has not, unless it stopped half-way.
            return str(error) if self._is_labelled(host) else ""
        if place.is_labelled:
            self._label(host, None)
        return ""

    def remark(self) -> str:
        """Return what the number of its members means; empty where that cannot be told, or there is none."""
        try:
            if not self._cluster.is_known or not self.is_there():
                return ""
            with self._open(self._secrets.access(), ()) as etcd:
                return tolerance(len(voters(_asked(etcd.members))))
        except StepFailed:
            return ""

    def _next(self, host: str, address: str) -> Move | None:
        access = self._secrets.access()
        if not access:
            raise StepFailed(f"Secret {ETCD_NAMESPACE}/{ACCESS} is not there", BY_HAND)
        members, place = self._seen(access, host, address)
        return joining(members, place)

    def _seen_of(self, host: str) -> tuple[str, tuple[Member, ...], Place]:
        address = self._cluster.hosts().get(host, "")
        return (address, *self._seen(self._secrets.access(), host, address))

    def _seen(self, access: Mapping[str, bytes], host: str, address: str) -> tuple[tuple[Member, ...], Place]:
        """Look at everything that decides; others are asked, for what is here may be no member yet."""
        with self._open(access, (_client(address),)) as etcd:
            members = _asked(etcd.members)
        clients = tuple(url for one in members for url in one.clients)
        answering: Collection[int] = ()
        if clients:
            with closing(self._opened(clients, access)) as etcd:
                answering = etcd.answering()
        pods = self._cluster.pods(ETCD_NAMESPACE, _PODS, host)
        place = Place(
            host,
            address,
            is_labelled=self._is_labelled(host),
            has_pod=bool(pods),
            has_data=self._host.holds(_DATA),
            is_told=False,
            nodes=self._cluster.hosts(),
            answering=answering,
            is_blank=etcd_log.is_blank(self._host.path(_DATA)),
            keeps_ending=keeps_ending(pods),
        )
        others = initial_cluster(members, place)
        return members, place._replace(is_told=self._secrets.is_told(access, others, addresses(members)))

    def _made(self, move: Move, host: str, address: str, say: Say) -> str:
        """Make a move, and return what is so by it."""
        match move:
            case Unlabel():
                self._label(host, None)
                return "this host's former member was taken out: its pod ends"
            case SetAside():
                return f"what a former member left in {_DATA} is not used again, and kept in {self._set_aside()}"
            case Add(peer):
                self._ask(address, lambda etcd: self._add(etcd, peer))
                return "a member is added on this host, and gets its vote when it has caught up"
            case Tell():
                members, place = self._seen(self._secrets.access(), host, address)
                self._secrets.tell(initial_cluster(members, place), addresses(members), say)
                return "its certificate and the other members are told"
            case Label():
                self._label(host, MEMBER)
                return "its pod starts"
            case Promote(member):
                self._ask(address, lambda etcd: etcd.promote(member))
                return "it has caught up, and has its vote"
            case Remove(member, why):
                self._ask(address, lambda etcd: etcd.remove(member))
                return f"a member is taken out: {why}"
            case Wait(problem):
                return problem

    def _add(self, etcd: Membership, peer: str) -> None:
        """Add a member, if it can have a certificate: else it would be a learner that keeps others from joining."""
        self._secrets.certificate({*addresses(etcd.members()), urlsplit(peer).hostname or ""})
        etcd.add_learner(peer)

    def _check_alone(self, action: FoundEtcd) -> None:
        others = set(self._told()) - {_client(action.address)}
        others |= set(self._cluster.labelled_names(MEMBER_LABEL, MEMBER)) - {action.hostname}
        if others:
            raise StepFailed(
                f"Secret {ETCD_NAMESPACE}/{ACCESS} is not there, and the swarm's own etcd has other members: "
                f"{', '.join(sorted(others))}",
                f"Put the Secret back from a backup of the cluster. {BY_HAND}",
            )

    def _set_aside(self) -> str:
        numbers = (f"{ETCD_DIRECTORY}/former-{number}" for number in range(1, 10_000))
        free = next(place for place in numbers if not self._host.path(place).exists())
        self._host.rename(_DATA, free)
        return free

    def _label(self, host: str, value: str | None) -> None:
        node = Ref(NODE, "", host)
        if not self._cluster.patch(node, {"metadata": {"labels": {MEMBER_LABEL: value}}}):
            raise StepFailed(f"{node} is not there")

    def _is_labelled(self, host: str) -> bool:
        return host in self._cluster.labelled_names(MEMBER_LABEL, MEMBER)

    def _pods_trouble(self, host: str) -> str:
        trouble = pods_trouble(self._cluster.pods(ETCD_NAMESPACE, _PODS, host))
        return f"; {trouble}" if trouble else ""

    def _told(self) -> list[str]:
        """Return where the replicas are told that it is."""
        told = read(self._cluster, NAMESPACE, SECRET).get("endpoints", b"").decode().split(",")
        return [url for url in told if url]

    def _ask(self, address: str, what: Callable[[Membership], None]) -> None:
        with self._open(self._secrets.access(), (_client(address),)) as etcd:
            _asked(functools.partial(what, etcd))

    @contextmanager
    def _open(self, access: Mapping[str, bytes], without: Collection[str]) -> Iterator[Membership]:
        """Open the way to where the replicas are told that it is: members with a vote, whatever the labels say."""
        known = self._told() or list(map(_client, self._cluster.labelled_addresses(MEMBER_LABEL, MEMBER)))
        asked = tuple(url for url in known if url not in without) or tuple(known)
        if not (asked and access):
            raise _Failed(
                "nobody is told yet where the swarm's own etcd is",
                "Have the installation on the first server come to its end: dragonfly install, there and then here.",
            )
        with closing(self._opened(asked, access)) as etcd:
            yield etcd


class _Failed(StepFailed):
    """It cannot be asked, or refuses."""


class _Silent(_Failed):
    """It does not answer, or does not do it now."""


def _asked(what: Callable[[], T]) -> T:
    try:
        return what()
    except Rejected as error:
        raise _Silent(f"the swarm's own etcd refuses it for now: {error}") from error
    except Unavailable as error:
        raise _Silent(f"the swarm's own etcd does not do it now: {error}") from error
    except StoreError as error:
        raise _Failed(f"the swarm's own etcd: {error}") from error


def _client(address: str) -> str:
    return f"https://{address}:{CLIENT_PORT}"


def _opened(urls: tuple[str, ...], access: Mapping[str, bytes]) -> Membership:
    ca, cert, key = _files(access["ca"], access["cert"], access["key"])
    return EtcdMembers.open(EtcdSettings(endpoints=urls, ca_file=ca, cert_file=cert, key_file=key))


@functools.cache
def _files(*contents: bytes) -> tuple[Path, ...]:
    """Return files in memory, which end with this process: they are looked into again and again."""
    return tuple(Path(in_memory(content)) for content in contents)
