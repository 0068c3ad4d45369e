"""Does on this host and in its cluster what steps say; `execution` says when."""

import base64
import datetime as dt
import hashlib
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from dragonfly.install import k3s
from dragonfly.install.carriers import ETCD_ROLE, Carriers
from dragonfly.install.claim import claim
from dragonfly.install.cluster import Cluster, Say
from dragonfly.install.detection import SECRET as ETCD_SECRET
from dragonfly.install.execution import StepFailed
from dragonfly.install.host import Host, sha256
from dragonfly.install.images import Lacking
from dragonfly.install.manifests import ETCD_DIRECTORY, MEMBER, MEMBER_LABEL, NAME, NAMESPACE
from dragonfly.install.neighbours import Neighbours
from dragonfly.install.own_etcd import OwnEtcd
from dragonfly.install.record_kept import keep, seen
from dragonfly.install.recorded import Seen
from dragonfly.install.secrets_made import Secrets
from dragonfly.install.spreading import spread
from dragonfly.install.steps import (
    Action,
    ApplyChart,
    ApplyObjects,
    AwaitImage,
    AwaitNode,
    AwaitReplicas,
    ClaimAddresses,
    CopyFile,
    DeleteObjects,
    Download,
    FoundEtcd,
    GiveEtcd,
    Gone,
    ImportImages,
    JoinEtcd,
    KeepRecord,
    LeaveCluster,
    LeaveEtcd,
    MakeDirectory,
    MakeSecrets,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    RestoreFile,
    SelfTest,
    SpreadReplicas,
    StartService,
    StopService,
    Undo,
    WriteFile,
    names_of,
)
from dragonfly.install.swarm_asked import swarm_problem
from dragonfly.install.upgrade import restored
from dragonfly.kube.resources import SECRET, Object, Ref

T = TypeVar("T")

_PAUSE: Final = 0.5
_BACK_SECONDS: Final = 300
_TELL_SECONDS: Final = 20
_DOWN_SECONDS: Final = 90
"""systemd starts k3s again within some; one that stays away for so long does not come."""


class RealHands:
    """`execution.Hands`."""

    def __init__(
        self,
        host: Host,
        saved: Path,
        *,
        neighbours: Neighbours | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        """`saved`: where files that are replaced are kept, to be put back."""
        self._host = host
        self._saved = saved
        self._cluster = Cluster(host.path(str(k3s.KUBECONFIG)))
        self._neighbours = neighbours or Neighbours()
        self.own_etcd = OwnEtcd(host, self._cluster, now)
        self.secrets = Secrets(host, self._cluster, self.own_etcd, now)

    def is_done(self, action: Action, proof: str) -> bool:
        try:
            return self._is_done(action, proof)
        except StepFailed:
            return False  # it can't be looked at, so it is carried out, which tells why

    def _is_done(self, action: Action, proof: str) -> bool:
        host = self._host
        match action:
            case WriteFile(path) | CopyFile(_, path) | Download(_, _, path) if host.is_torn(path):
                return False
            case MakeDirectory(path):
                return host.path(path).is_dir()
            case WriteFile(path, content, mode):
                return host.has(path, content.encode(), mode)
            case CopyFile(source, path):
                wanted = sha256(Path(source)) if Path(source).is_file() else proof
                return bool(wanted) and host.sum(path) == wanted
            case Download(url, _, path):
                return proof == _download_proof(url, host.sum(path))
            case StartService(unit, files):
                return proof == self._digest(files) and host.is_active(unit)
            case ImportImages(archive):
                return bool(proof) and proof == host.sum(archive)
            case ClaimAddresses(_, addresses):
                return proof == ",".join(addresses)
            case _:
                return self._cluster.is_known and self._is_there(action)

    def _is_there(self, action: Action) -> bool:
        cluster = self._cluster
        match action:
            case AwaitNode(hostname):
                return not cluster.node_problem(hostname)
            case ApplyObjects(objects):
                return cluster.has(objects)
            case KeepRecord(record):
                return cluster.has([record])
            case ApplyChart():
                return cluster.has([_chart(action)])
            case MakeSecrets():
                return self.secrets.has_own(action)
            case GiveEtcd():
                return self.secrets.has_given(action)
            case FoundEtcd() | JoinEtcd():
                return self.own_etcd.has_member(action)
            case AwaitImage(hostname, image):
                return hostname not in cluster.lacking(image).ready
            case AwaitReplicas(namespace, name):
                return not cluster.rollout_problem(namespace, name)
            case SpreadReplicas(namespace, name):
                return not cluster.spread(namespace, name).surplus
            case _:
                return False

    def undo_of(self, step: str, action: Action) -> tuple[Undo, ...]:
        host = self._host
        match action:
            case MakeDirectory(path, _, is_tree, is_data):
                own: Undo = RemoveTree(path, is_data) if is_tree else RemoveDirectory(path)
                return (own, *host.undo_of_parents(path))
            case WriteFile(path) | CopyFile(_, path) | Download(_, _, path):
                return host.undo_of_file(path, self._saved / step)
            case StartService(unit, _, trees, leaves):
                made = (RemoveTree(tree) for tree in trees if not host.path(tree).exists())
                return (*((LeaveCluster(leaves),) if leaves else ()), StopService(unit), *made)
            case ApplyObjects(objects, keeps=False):
                return (DeleteObjects(names_of(objects)),)
            case ApplyChart(one) | KeepRecord(one):
                return (DeleteObjects(names_of((one,))),)
            case MakeSecrets(namespace, name):
                return (DeleteObjects((Gone("v1", "Secret", namespace, name),), is_data=True),)
            case _:
                return ()

    def carry_out(self, action: Action, say: Say) -> str:
        try:
            return self._carry_out(action, say)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise StepFailed(f"{where}{error.strerror or error}") from error

    def _carry_out(self, action: Action, say: Say) -> str:
        host = self._host
        match action:
            case MakeDirectory(path, mode):
                host.path(path).mkdir(mode=mode, parents=True, exist_ok=True)
            case WriteFile(path, content, mode):
                host.write(path, content.encode(), mode)
            case CopyFile(source, path, mode):
                return host.copy(Path(source), path, mode, say)
            case Download(url, sums, path, mode):
                return _download_proof(url, host.download(url, sums, path, mode, say))
            case StartService(unit, files):
                host.start(unit)
                return self._digest(files)
            case ImportImages(archive):
                host.import_images(archive)
                return host.sum(archive)
            case ClaimAddresses(interface, addresses):
                return claim(self._neighbours, self._cluster, interface, addresses)
            case _:
                return self._carry_out_there(action, say)
        return ""

    def _carry_out_there(self, action: Action, say: Say) -> str:
        cluster = self._cluster
        match action:
            case AwaitNode(hostname, seconds):
                self._wait(lambda: cluster.node_problem(hostname), seconds, say)
            case ApplyObjects(objects):
                cluster.apply(objects, say)
            case KeepRecord():
                return keep(cluster, action, say)
            case ApplyChart():
                cluster.apply([_chart(action)], say)
            case MakeSecrets():
                self.secrets.make_own(action, say)
            case GiveEtcd():
                self.secrets.give(action, say)
            case FoundEtcd() | JoinEtcd():
                self._wait(lambda: self.own_etcd.have_member(action, say), action.seconds, say)
            case AwaitImage(hostname, image, seconds):
                self._wait(lambda: self._untold(hostname, image), seconds, say)
            case AwaitReplicas(namespace, name, seconds):
                self._wait(lambda: cluster.rollout_problem(namespace, name), seconds, say)
            case SpreadReplicas(seconds=seconds):
                spread(cluster, action, lambda problem: self._wait(problem, seconds, say), say)
            case SelfTest():
                return self._tested(action, say)
            case _:
                raise StepFailed(f"nobody knows how to do {action!r}")
        return ""

    def take_back(self, undo: Undo, say: Say) -> str:
        host = self._host
        match undo:
            case RemoveFile() | RestoreFile() | RemoveDirectory():
                host.take_back(undo)
            case RemoveTree(path):
                host.remove_tree(path)
            case StopService(unit):
                host.stop(unit)
            case LeaveEtcd(hostname, seconds):
                self._wait(lambda: self.own_etcd.leave(hostname, self.secrets.give_endpoints), seconds, say)
            case LeaveCluster(hostname):
                return self._cluster.leave(hostname)
            case DeleteObjects(objects):
                return self._cluster.delete(objects)
        return ""

    def carriers(self) -> Carriers:
        """Return who carries the cluster that this host is of, or why that can't be told."""
        host, cluster = _hostname(), self._cluster
        if not cluster.is_known:
            return Carriers(host)

        def told() -> Carriers:
            servers = cluster.labelled_names(ETCD_ROLE, "true")
            members = cluster.labelled_names(MEMBER_LABEL, MEMBER)
            others = tuple(name for name in servers if name != host)
            problem = self.own_etcd.leaving_problem(host) if others and members else ""
            return Carriers(host, others, members, etcd_problem=problem)

        try:
            return self._told(told)
        except StepFailed as error:
            return Carriers(host, problem=str(error))

    def has_swarms_data(self) -> bool:
        """Whether a member of the swarm's own etcd has, or had, its data here."""
        return self._host.holds(ETCD_DIRECTORY)

    def has_clusters_data(self) -> bool:
        """Whether a member of the cluster's etcd, k3s's own, has or had its data here."""
        return self._host.holds(str(k3s.ETCD_DATA))

    def installation(self) -> Seen:
        """Return what the cluster tells of its installation, and who is in it.

        Raises:
            StepFailed: the API server does not answer.
        """
        return self._told(lambda: seen(self._cluster))

    def remark(self) -> str:
        """Return what is to be known of the swarm that stands now; empty if nothing is."""
        return self.own_etcd.remark()

    def others_lacking(self, image: str) -> Lacking:
        """Return the other hosts of the cluster that do not have the image of replicas.

        Raises:
            StepFailed: the API server does not answer.
        """
        return self._cluster.lacking(image).without(_hostname())

    def found(self, names: Iterable[Gone]) -> list[Object]:
        """As `upgrade.Workload` says.

        Raises:
            StepFailed: the API server does not answer.
        """
        return self._cluster.found(names)

    def put_back(self, former: Iterable[Object], added: Iterable[Gone], say: Say) -> None:
        self._cluster.apply([restored(obj) for obj in reversed(list(former))], say)
        self._cluster.delete(added)
        self._wait(lambda: self._cluster.rollout_problem(NAMESPACE, NAME), _BACK_SECONDS, say)

    def etcd_access(self) -> Object:
        """Return the Secret that says where etcd is.

        Raises:
            StepFailed: it is not there, or the cluster does not answer.
        """
        found = self._cluster.get(Ref(SECRET, NAMESPACE, ETCD_SECRET))
        if found is None:
            raise StepFailed(f"Secret {NAMESPACE}/{ETCD_SECRET} is not there", "To make it: dragonfly install")
        return found

    def _told(self, look: Callable[[], T]) -> T:
        """Return what the cluster tells, once it does.

        Raises:
            StepFailed: it does not, and k3s does not run or had time enough.
        """
        deadline = time.monotonic() + _TELL_SECONDS
        while True:
            try:
                return look()
            except StepFailed:
                if time.monotonic() > deadline or not self._host.is_active(k3s.SERVICE):
                    raise
                time.sleep(_PAUSE)

    def _wait(self, problem: Callable[[], str], seconds: float, say: Say) -> None:
        """Wait until there is no problem left, telling each that there is.

        Raises:
            StepFailed: k3s ended, or it took too long.
        """
        deadline, told = time.monotonic() + seconds, ""
        patience = time.monotonic() + _DOWN_SECONDS
        while left := problem():
            if self._host.is_active(k3s.SERVICE):
                patience = time.monotonic() + _DOWN_SECONDS
            elif time.monotonic() > patience:
                raise StepFailed(f"{k3s.SERVICE} does not run", self._host.last_words(k3s.SERVICE))
            if left != told:
                say(left)
                told = left
            if time.monotonic() > deadline:
                raise StepFailed(f"not within {seconds:g} s: {left}", self._host.last_words(k3s.SERVICE))
            time.sleep(_PAUSE)

    def _untold(self, hostname: str, image: str) -> str:
        try:
            lacks = hostname in self._cluster.lacking(image).ready
        except StepFailed as error:
            return str(error)
        return f"node {hostname} tells of no image {image} yet" if lacks else ""

    def _digest(self, files: tuple[str, ...]) -> str:
        sums = "\n".join(f"{self._host.sum(place)} {place}" for place in files)
        return hashlib.sha256(sums.encode()).hexdigest()

    def _tested(self, action: SelfTest, say: Say) -> str:
        """Ask the swarm as its users do, and return its address."""
        token = self.secrets.admin_token()
        address = ""

        def problem() -> str:
            nonlocal address
            address = self._cluster.service_address(action.namespace, action.name)
            return swarm_problem(address, action.port, token) if address else "the load balancer has no address yet"

        self._wait(problem, action.seconds, say)
        return f"http://{address}:{action.port}"


def _hostname() -> str:
    """Return this host's name, as its node has it."""
    return socket.gethostname().lower()


def _chart(action: ApplyChart) -> Object:
    if not action.archive:
        return action.object
    try:
        archive = Path(action.archive).read_bytes()
    except OSError as error:
        raise StepFailed(f"{action.archive} cannot be read: {error.strerror}") from error
    spec = {key: value for key, value in action.object["spec"].items() if key not in {"chart", "version"}}
    return action.object | {"spec": {**spec, "chartContent": base64.b64encode(archive).decode()}}


def _download_proof(url: str, digest: str) -> str:
    return f"{url} {digest}"
