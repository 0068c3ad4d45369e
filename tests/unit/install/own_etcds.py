"""A cluster whose swarm has an etcd of its own, in memory: nodes, Secrets, pods, and members by etcd's own rules.

Each effect on any of them is a moment at which whoever has it can be killed: before it, or after it and before the
answer is there. Pods follow by themselves, as the DaemonSet and the kubelets have them.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dragonfly.install import certificates
from dragonfly.install.cluster import ApiSilent, Cluster
from dragonfly.install.host import Host
from dragonfly.install.own_etcd import Open, OwnEtcd
from dragonfly.install.secrets_made import Secrets
from dragonfly.install.steps import FoundEtcd, GiveEtcd, JoinEtcd
from dragonfly.kube.resources import DAEMON_SET, DEPLOYMENT, NODE, SECRET, Object, Ref, ref_of
from dragonfly.store.errors import Rejected, Unavailable
from dragonfly.store.members import Member

NOW: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ACCESS: Final = Ref(SECRET, "dragonfly", "dragonfly-etcd")
OWN: Final = Ref(SECRET, "dragonfly-etcd", "etcd")
AUTHORITY: Final = Ref(SECRET, "dragonfly-etcd", "etcd-authority")
_LABEL: Final = "dragonfly.io/etcd"


class Killed(Exception):
    """Its process is gone."""


class Etcd:
    """Members, and what each has on its disk and says of itself."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.down: set[str] = set()
        """Hosts without power."""
        self.ended: set[str] = set()
        """Hosts whose member ends at once, however often it is started."""
        self.lagging = 0
        """How often a promotion is refused before a learner has caught up."""
        self.added: list[str] = []
        self._ids = 0

    def add(self, peer: str, *, is_learner: bool, name: str = "", clients: tuple[str, ...] = ()) -> int:
        self._ids += 1
        self.members[self._ids] = Member(self._ids, name, (peer,), clients, is_learner)
        return self._ids

    def answers(self, member: Member) -> bool:
        return member.is_started and member.name not in self.down | self.ended

    def voters(self) -> list[Member]:
        return [one for one in self.members.values() if not one.is_learner]


class Connection:
    """`Membership`, to those behind some endpoints."""

    def __init__(self, etcd: Etcd, touch: Callable[[Callable[[], object]], None], urls: tuple[str, ...]) -> None:
        self._etcd = etcd
        self._touch = touch
        self._asked = [one for one in etcd.members.values() if set(one.clients) & set(urls)]

    def close(self) -> None:
        pass

    def members(self) -> tuple[Member, ...]:
        self._quorum()
        return tuple(self._etcd.members.values())

    def answering(self) -> Collection[int]:
        return {one.id for one in self._asked if self._etcd.answers(one)}

    def add_learner(self, peer: str) -> None:
        self._quorum()
        if any(one.is_learner for one in self._etcd.members.values()):
            raise Rejected("too many learner members in cluster")
        assert not any(peer in one.peers for one in self._etcd.members.values()), "etcd refuses a peer that it knows"
        self._etcd.added.append(peer)
        self._touch(lambda: self._etcd.add(peer, is_learner=True))

    def promote(self, member: int) -> None:
        self._quorum()
        found = self._etcd.members[member]
        assert found.is_learner
        # What it has acknowledged counts, whether it answers or not.
        if not found.is_started or self._etcd.lagging:
            self._etcd.lagging = max(0, self._etcd.lagging - 1)
            raise Rejected("can only promote a learner member which is in sync with leader")
        voting = Member(found.id, found.name, found.peers, found.clients)
        self._touch(lambda: self._etcd.members.update({member: voting}))

    def remove(self, member: int) -> None:
        self._quorum()
        found = self._etcd.members[member]
        staying = [one for one in self._etcd.voters() if one.id != member]
        if not found.is_learner:
            assert sum(map(self._etcd.answers, staying)) > len(staying) // 2, "it loses its quorum"
        self._touch(lambda: self._etcd.members.pop(member))

    def _quorum(self) -> None:
        voters = self._etcd.voters()
        live = [one for one in voters if self._etcd.answers(one)]
        if len(live) <= len(voters) // 2 or not any(one in live for one in self._asked):
            raise Unavailable("no leader")


class Nodes(Cluster):
    """The cluster, as all hosts' admins see it; whose pods are what, its kind says."""

    opened: Open | None = None
    """How etcd is opened; None if it is a real one."""

    def __init__(self, directory: Path, now: Callable[[], dt.datetime]) -> None:
        super().__init__(Path("/nowhere"))
        self.directory = directory
        self.now = now
        self.addresses: dict[str, str] = {}
        self.labelled: set[str] = set()
        self.running: set[str] = set()
        """The hosts with a pod of etcd."""
        self.objects: dict[Ref, Object] = {Ref(DAEMON_SET, "dragonfly-etcd", "etcd"): {}}
        self.objects[Ref(DEPLOYMENT, "dragonfly", "dragonfly")] = {"spec": {"template": {"metadata": {}}}}
        self.put(
            Ref(SECRET, "dragonfly", "dragonfly"), {"replica-token": b"t", "secret-key": b"k", "admin-token": b"a"}
        )
        self.moments = 0
        self.dies_at = 0
        """The moment at which whoever acts is killed; the odd ones before an effect, the even ones after it."""
        self.silent = 0
        """How often the API server does not tell of nodes."""

    @property
    def is_known(self) -> bool:
        return True

    def touch(self, effect: Callable[[], object]) -> None:
        self._moment()
        effect()
        self.settle()
        self._moment()

    def _moment(self) -> None:
        self.moments += 1
        if self.moments == self.dies_at:
            raise Killed

    def put(self, ref: Ref, data: Mapping[str, bytes]) -> None:
        self.objects[ref] = {"data": {key: base64.b64encode(value).decode() for key, value in data.items()}}

    def says(self, ref: Ref) -> dict[str, str]:
        found = self.objects.get(ref, {}).get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in found.items()}

    def settle(self) -> None:
        """Let pods come and go, and members start or refuse to."""
        self.running = {host for host in self.labelled if host in self.addresses}

    def address(self, number: int) -> str:
        """Of a host."""
        return f"10.0.0.{number}"

    def data(self, host: str) -> Path:
        """What a member keeps on its host."""
        return self.directory / host / "var/lib/dragonfly-etcd/data/member"

    # What the installer asks and does.

    def get(self, ref: Ref) -> Object | None:
        return self.objects.get(ref)

    def apply(self, objects: Iterable[Object], say: Callable[[str], None]) -> None:
        for obj in objects:
            self.touch(lambda obj=obj: self.objects.update({ref_of(obj): obj}))  # type: ignore[misc] # mypy infers no lambda with a default

    def has(self, objects: Iterable[Object]) -> bool:
        return all(self.objects.get(ref_of(obj)) == obj for obj in objects)

    def patch(self, ref: Ref, body: Mapping[str, Any]) -> bool:
        if ref.resource != NODE:
            self.touch(lambda: self.objects.update({ref: dict(body)}))
            return True
        if ref.name not in self.addresses:
            return False
        change = self.labelled.discard if body["metadata"]["labels"][_LABEL] is None else self.labelled.add
        self.touch(lambda: change(ref.name))
        return True

    def node_count(self) -> int:
        return len(self.addresses)

    def hosts(self) -> Mapping[str, str]:
        if self.silent:
            self.silent -= 1
            raise ApiSilent("nodes cannot be read: the API server is busy")
        return dict(self.addresses)

    def pods(self, namespace: str, labels: Mapping[str, str], host: str) -> list[Object]:
        return [{"metadata": {"name": f"etcd-{host}"}}] if host in self.running else []

    def labelled_addresses(self, label: str, value: str) -> tuple[str, ...]:
        return tuple(self.addresses[host] for host in sorted(self.labelled))

    def labelled_names(self, label: str, value: str) -> tuple[str, ...]:
        return tuple(sorted(self.labelled))


class World(Nodes):
    """A cluster with an etcd that is values alone."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, lambda: NOW)
        self.etcd = Etcd()
        self.opened = lambda urls, access: Connection(self.etcd, self.touch, urls)

    def settle(self) -> None:
        super().settle()
        for host in sorted(self.running - self.etcd.down):
            self._start(host)

    def pods(self, namespace: str, labels: Mapping[str, str], host: str) -> list[Object]:
        waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        status = {"containerStatuses": [waiting]} if host in self.etcd.ended else {}
        return [{**pod, "status": status} for pod in super().pods(namespace, labels, host)]

    def lose_disk(self, host: str) -> None:
        """A host's member is started again on an empty disk before anybody looks."""
        self.data(host).unlink()
        self.settle()

    def _start(self, host: str) -> None:
        peer = f"https://{self.addresses[host]}:12380"
        member = next((one for one in self.etcd.members.values() if peer in one.peers), None)
        data, says = self.data(host), self.says(OWN)
        whose = data.read_text() if data.is_file() else ""
        self.etcd.ended.discard(host)
        if not says:
            return  # its pod waits for the Secret
        if member is None and says["initial-cluster-state"] == "new" and not self.etcd.members:
            member = self.etcd.members[self.etcd.add(peer, is_learner=False)]
        elif member is None or (whose and whose != str(member.id)) or (member.is_started and not whose):
            self.etcd.ended.add(host)  # at once: it was taken out, or lost its data
            if not whose:
                data.mkdir(parents=True, exist_ok=True)
            return
        told = set(says["initial-cluster"].split(","))
        known = {f"{one.name or host}={url}" for one in self.etcd.members.values() for url in one.peers}
        covered = certificates.addresses(says["cert"].encode())
        if not whose and told != known:
            return  # "member count is unequal"
        assert self.addresses[host] in covered
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_text(str(member.id))
        clients = (f"https://{self.addresses[host]}:12379",)
        self.etcd.members[member.id] = Member(member.id, host, member.peers, clients, member.is_learner)


class Server:
    """One host of it, with what the installer says there."""

    def __init__(self, world: Nodes, number: int) -> None:
        self.world = world
        self.name = f"host-{number}"
        self.address = world.address(number)
        self.said: list[str] = []
        self._host = TouchedHost(world, world.directory / self.name)
        world.addresses[self.name] = self.address

    def hands(self) -> tuple[OwnEtcd, Secrets]:
        """As each process has them anew."""
        world = self.world
        own = OwnEtcd(self._host, world, world.now, world.opened)
        return own, Secrets(self._host, world, own, world.now)

    def found(self) -> None:
        own, secrets = self.hands()
        action = FoundEtcd(self.name, self.address)
        if not own.has_member(action):
            while problem := own.have_member(action, self.said.append):
                self.said.append(problem)
        secrets.give(self._give("dedicated", joins=False), self.said.append)

    def join(self, *, looks: int = 40) -> None:
        """To its end, or as long as it looks."""
        own, secrets = self.hands()
        action = JoinEtcd(self.name, self.address)
        if not own.has_member(action):
            for _ in range(looks):
                if not (problem := own.have_member(action, self.said.append)):
                    break
                self.said.append(problem)
            else:
                return
        secrets.give(self._give("", joins=True), self.said.append)

    def leave(self) -> str:
        own, secrets = self.hands()
        return own.leave(self.name, secrets.give_endpoints)

    def has_joined(self) -> bool:
        return self.hands()[0].has_member(JoinEtcd(self.name, self.address))

    def former(self) -> list[str]:
        """What was set aside here, as whose data it was."""
        return sorted(file.read_text() for file in (self.world.directory / self.name).rglob("former-*/member"))

    def lose_node(self) -> None:
        del self.world.addresses[self.name]
        self.world.labelled.discard(self.name)
        self.world.settle()

    def _give(self, mode: Any, *, joins: bool) -> GiveEtcd:
        return GiveEtcd(mode, "dragonfly", "tinkerbell", self.address, joins=joins)


class TouchedHost(Host):
    """A tree whose renames are moments too."""

    def __init__(self, world: Nodes, root: Path) -> None:
        super().__init__(root)
        self._world = world

    def rename(self, place: str, new: str) -> None:
        self._world.touch(lambda: super(TouchedHost, self).rename(place, new))
