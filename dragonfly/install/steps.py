"""The steps of an installation as values: what each does, how it is known to be done, how it is undone. Pure.

An action says what should be so, never how to get from what is to that: carrying it out twice is carrying it out once.
An undo is made before its step touches anything, from what was there then, and is written down (`journal`); so taking
everything back needs neither the options of that day nor the files that they named.
"""

from typing import Any, Final, TypeAlias

import msgspec

from dragonfly.install.options import JoinedMode
from dragonfly.kube.resources import Object

_MEMBER_SECONDS: Final = 900
"""How long a member of the swarm's own etcd may take to come or to go, with an API server that is away meanwhile."""


class MakeDirectory(msgspec.Struct, frozen=True, tag="directory"):
    path: str
    mode: int = 0o755
    is_tree: bool = False
    """Whether whatever gets into it is the installation's, so that it goes with it."""
    is_data: bool = False
    """Whether it stays when the installation is taken off, unless its data is to be deleted."""


class WriteFile(msgspec.Struct, frozen=True, tag="file"):
    path: str
    content: str
    mode: int = 0o644


class CopyFile(msgspec.Struct, frozen=True, tag="copy"):
    source: str
    path: str
    mode: int = 0o644


class Download(msgspec.Struct, frozen=True, tag="download"):
    url: str
    sums: str
    """Where a file in the manner of sha256sum has its checksum."""
    path: str
    mode: int = 0o755


class StartService(msgspec.Struct, frozen=True, tag="service"):
    """The service runs, is started at boot, and was started since `files` were last changed."""

    unit: str
    files: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    """What it makes that goes with it."""
    leaves: str = ""
    """The node to take out of the cluster before it is stopped, for the others to go on without it; empty for none."""


class ImportImages(msgspec.Struct, frozen=True, tag="import"):
    """A running k3s has the images of an archive; one that starts takes them up by itself."""

    archive: str


class AwaitNode(msgspec.Struct, frozen=True, tag="node"):
    """The API server answers, and this host is a ready node of the cluster."""

    hostname: str
    seconds: float = 600


class ClaimAddresses(msgspec.Struct, frozen=True, tag="addresses"):
    """Nobody on the wire has these addresses, or the load balancer of this very cluster."""

    interface: str
    addresses: tuple[str, ...]


class ApplyObjects(msgspec.Struct, frozen=True, tag="objects"):
    """These objects are in the cluster."""

    objects: tuple[Object, ...]
    keeps: bool = False
    """Whether they stay: namespaces that hold more than what is put there now."""


class KeepRecord(msgspec.Struct, frozen=True, tag="record"):
    """The cluster has this record of its installation."""

    object: Object
    before: str | None = None
    """The text of the one that it may replace; None for whichever there is."""


class ApplyChart(msgspec.Struct, frozen=True, tag="chart"):
    """A HelmChart is in the cluster, with the archive that `archive` names if it does."""

    object: Object
    archive: str = ""


class MakeSecrets(msgspec.Struct, frozen=True, tag="secrets"):
    """The swarm's own secrets are there; ones that are there already stay as they are."""

    namespace: str
    name: str


class GiveEtcd(msgspec.Struct, frozen=True, tag="etcd"):
    """The Secrets that say where etcd is, for the replicas and for who may join them from outside."""

    mode: JoinedMode
    namespace: str
    outside: str
    """The namespace where those outside look for it."""
    address: str
    joins: bool = False
    """Whether the cluster says whose etcd it is; `mode` is then empty, or must agree."""
    endpoints: tuple[str, ...] = ()
    ca_file: str = ""
    username: str = ""
    password_file: str = ""


class FoundEtcd(msgspec.Struct, frozen=True, tag="own-etcd"):
    """The swarm's own etcd has a certificate and a member on this host, the first one if there is no other."""

    hostname: str
    address: str
    seconds: float = _MEMBER_SECONDS


class JoinEtcd(msgspec.Struct, frozen=True, tag="join-etcd"):
    """If the swarm has an etcd of its own, this host has a member of it, with a vote."""

    hostname: str
    address: str
    seconds: float = _MEMBER_SECONDS


class AwaitImage(msgspec.Struct, frozen=True, tag="image"):
    """This host's node tells the cluster that it has an image."""

    hostname: str
    image: str
    seconds: float = 120


class AwaitReplicas(msgspec.Struct, frozen=True, tag="replicas"):
    """Every replica of the newest revision is ready."""

    namespace: str
    name: str
    seconds: float


class SpreadReplicas(msgspec.Struct, frozen=True, tag="spread"):
    """No host has two replicas more than another that could have them."""

    namespace: str
    name: str
    seconds: float = 300
    """How long a replica that starts again has to get ready, and its budget to let it go."""


class SelfTest(msgspec.Struct, frozen=True, tag="self-test"):
    """The swarm answers through its load balancer, to the admin's token, and says that it is well."""

    namespace: str
    name: str
    port: int
    seconds: float = 300


Action: TypeAlias = (
    MakeDirectory
    | WriteFile
    | CopyFile
    | Download
    | StartService
    | ImportImages
    | AwaitNode
    | ClaimAddresses
    | ApplyObjects
    | KeepRecord
    | ApplyChart
    | MakeSecrets
    | GiveEtcd
    | FoundEtcd
    | JoinEtcd
    | AwaitImage
    | AwaitReplicas
    | SpreadReplicas
    | SelfTest
)


class RemoveFile(msgspec.Struct, frozen=True, tag="remove-file"):
    path: str


class RestoreFile(msgspec.Struct, frozen=True, tag="restore-file"):
    path: str
    saved: str
    """Where its content is meanwhile."""
    mode: int


class RemoveDirectory(msgspec.Struct, frozen=True, tag="remove-directory"):
    """Unless something is in it that is not the installation's."""

    path: str


class RemoveTree(msgspec.Struct, frozen=True, tag="remove-tree"):
    path: str
    is_data: bool = False


class StopService(msgspec.Struct, frozen=True, tag="stop"):
    """Stop it and all containers, and start it at boot no more."""

    unit: str


class LeaveEtcd(msgspec.Struct, frozen=True, tag="leave-etcd"):
    """Take a host's member out of the swarm's own etcd, after the replicas were told of those that stay."""

    hostname: str
    seconds: float = _MEMBER_SECONDS


class LeaveCluster(msgspec.Struct, frozen=True, tag="leave"):
    hostname: str


class Gone(msgspec.Struct, frozen=True):
    """The name of an object, as the API has it."""

    api_version: str
    kind: str
    namespace: str
    name: str


class DeleteObjects(msgspec.Struct, frozen=True, tag="delete"):
    objects: tuple[Gone, ...]
    is_data: bool = False


Undo: TypeAlias = (
    RemoveFile | RestoreFile | RemoveDirectory | RemoveTree | StopService | LeaveEtcd | LeaveCluster | DeleteObjects
)


class Step(msgspec.Struct, frozen=True):
    """One step. Its name is what the journal knows it by."""

    name: str
    title: str
    """What it does, for people: `Start k3s`."""
    done: str
    """What is then so: `k3s runs and starts at boot`."""
    undo: str
    """What taking it back does; empty if there is nothing to take back."""
    action: Action


class Plan(msgspec.Struct, frozen=True):
    steps: tuple[Step, ...]


def names_of(objects: tuple[Object, ...]) -> tuple[Gone, ...]:
    """Return the names of objects, the last first: in the order in which they can go."""
    return tuple(
        Gone(obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        for obj in reversed(objects)
    )


def in_words(undo: Undo) -> str:
    """Return what an undo does, or leaves undone if it is about data, as one would tell it."""
    match undo:
        case RemoveFile(path) | RemoveDirectory(path) | RemoveTree(path):
            return f"remove {path}"
        case RestoreFile(path):
            return f"put {path} back"
        case StopService(unit):
            return f"stop {unit} and its containers"
        case LeaveEtcd(hostname):
            return f"take the member on {hostname} out of the swarm's own etcd"
        case LeaveCluster(hostname):
            return f"take node {hostname} out of the cluster"
        case DeleteObjects(objects):
            return "delete " + ", ".join(f"{one.kind} {one.name}" for one in objects)


def is_data(undo: Undo) -> bool:
    return isinstance(undo, RemoveTree | DeleteObjects) and undo.is_data


def described(action: Action) -> dict[str, Any]:
    """Return an action as JSON for people to read: no content of files or objects that was said elsewhere."""
    plain: dict[str, Any] = msgspec.to_builtins(action)
    return {key: value for key, value in plain.items() if key not in {"content", "objects", "object"}}
