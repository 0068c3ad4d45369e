"""What the cluster keeps of its installation, so that any of its servers can carry that on. Pure.

A ConfigMap has what is the same for all hosts, and with which host's address Tinkerbell was installed. Nothing in it
is secret, and nothing is of one host alone: each keeps its own part in its journal. The record is changed before what
follows from it, and only by somebody who has read it as it is: of two servers with different plans, one is refused.
"""

from typing import Any, Final, NamedTuple

import msgspec

from dragonfly.install.manifests import NAMESPACE
from dragonfly.install.options import TINKERBELL_VERSION, BadOptions, EtcdMode, ExternalEtcd, Options
from dragonfly.kube.resources import CONFIG_MAP, Object, Ref

VERSION: Final = 1
RECORD: Final = Ref(CONFIG_MAP, NAMESPACE, "dragonfly-installation")
RECORD_STEP: Final = "record"
_KEY: Final = "installation"
CLUSTERS: Final = (
    "floating_ip",
    "tinkerbell_ip",
    "artifacts_ip",
    "artifacts_url",
    "image",
    "tinkerbell_version",
    "site",
    "dhcp",
)
"""What options and record have under the same names."""


class UnknownRecord(Exception):
    """The record is a newer Dragonfly's, or makes no sense; the message says what to do."""


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The options that are the whole cluster's (`options.Options` says what each means), and who has Tinkerbell."""

    version: int = VERSION
    host: str
    """The node whose address Tinkerbell has wherever no address moves."""
    address: str
    etcd: EtcdMode
    endpoints: tuple[str, ...] = ()
    """Of an external etcd; user and password are in Secret dragonfly-etcd."""
    floating_ip: str = ""
    tinkerbell_ip: str = ""
    artifacts_ip: str = ""
    artifacts_url: str = ""
    airgap: bool = False
    """Whether nothing comes from the internet; in which directory it is instead, each host knows."""
    image: str = ""
    brought: bool = False
    """Whether hosts are given the image as a file, each its own; else they pull it."""
    site: str = ""
    dhcp: bool = True
    tinkerbell_version: str = TINKERBELL_VERSION


class Server(NamedTuple):
    """A host by its node's name."""

    host: str
    address: str


class Seen(NamedTuple):
    """What a cluster tells of itself."""

    text: str | None
    """Its record; empty if it keeps none, None if it does not answer."""
    nodes: tuple[str, ...] = ()


class ClusterWide(NamedTuple):
    """What is to be so in the cluster, as the plan of whoever carries out its steps has it."""

    options: Options
    boots: Server
    """Whose address Tinkerbell has where none moves."""
    brought: bool = False
    """As `Record` has it."""
    gone: str = ""
    """The host that had that before, if it has left the cluster."""
    before: str | None = None
    """The record that this was made from; empty if there was none, None if nobody could look."""

    @property
    def record(self) -> str:
        """The record that it leads to, as its text."""
        return written(record_of(self.options, self.boots, brought=self.brought))


def record_of(options: Options, boots: Server, *, brought: bool) -> Record:
    """Return what to keep.

    Raises:
        msgspec.ValidationError: the options don't say whose etcd the swarm uses, as those of a host that joined.
    """
    same = {name: getattr(options, name) for name in CLUSTERS}
    return Record(
        host=boots.host,
        address=boots.address,
        etcd=msgspec.convert(options.etcd, EtcdMode),
        endpoints=options.external.endpoints if options.external else (),
        airgap=bool(options.airgap),
        brought=brought,
        **same,
    )


def written(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def parsed(text: str) -> Record:
    """Return the record that a text is.

    Raises:
        UnknownRecord: a newer Dragonfly wrote it, or it makes no sense.
    """
    try:
        version = msgspec.json.decode(text, type=_Versioned).version
        if version > VERSION:
            raise UnknownRecord(
                f"{RECORD} has version {version}, and this Dragonfly knows {VERSION}: a newer one wrote it; use that "
                "one, or a newer one still"
            )
        return msgspec.json.decode(text, type=Record)
    except msgspec.DecodeError as error:
        raise UnknownRecord(f"{RECORD} cannot be read: {error}; put it right, or back from a backup") from error


class _Versioned(msgspec.Struct):
    version: int


def as_object(text: str) -> Object:
    """Return the ConfigMap that has a record's text."""
    return {
        "apiVersion": RECORD.resource.api_version,
        "kind": RECORD.resource.kind,
        "metadata": {"name": RECORD.name, "namespace": RECORD.namespace},
        "data": {_KEY: text},
    }


def text_of(obj: Object | None) -> str:
    """Return the record's text as a ConfigMap has it; empty if there is none."""
    return str(((obj or {}).get("data") or {}).get(_KEY, ""))


def recorded_options(own: Options, record: Record) -> Options:
    """Return the options of a host with the cluster's in their places.

    Args:
        own: of this host; where its bundle is, and an external etcd's files, it alone knows.

    Raises:
        BadOptions: the cluster has nothing from the internet, and this host has no bundle.
    """
    if record.airgap and not own.airgap:
        raise BadOptions(("--airgap: nothing in this cluster comes from the internet; say where a bundle is",))
    same: dict[str, Any] = {name: getattr(record, name) for name in CLUSTERS}
    return msgspec.structs.replace(
        own,
        etcd=record.etcd,
        external=_external(own, record) if record.etcd == "external" else None,
        airgap=own.airgap if record.airgap else "",
        **same,
    )


def _external(own: Options, record: Record) -> ExternalEtcd:
    if own.external is not None:
        return msgspec.structs.replace(own.external, endpoints=record.endpoints)
    return ExternalEtcd(endpoints=record.endpoints, ca_file="", username="", password_file="")


def cluster_wide(options: Options, here: Server, seen: Seen, *, brought: bool | None = None) -> ClusterWide:
    """Return what is to be so in the cluster.

    Args:
        options: the cluster's own among them.
        brought: how the image comes to hosts; None to tell from the options, or from the record if that has the image.

    Raises:
        UnknownRecord: as `parsed`.
    """
    if not seen.text:
        return ClusterWide(options, here, is_brought(options) if brought is None else brought, before=seen.text)
    record = parsed(seen.text)
    if brought is None:
        brought = record.brought if record.image == options.image else is_brought(options)
    wanted = ClusterWide(options, here, brought, before=seen.text)
    if record.host == here.host:
        return wanted
    if record.host in seen.nodes:
        return wanted._replace(boots=Server(record.host, record.address))
    return wanted._replace(gone=record.host)


def is_brought(options: Options) -> bool:
    """Whether these options bring the image of a replica as a file."""
    return bool(options.image_archive or options.airgap)


def gone_back(former: str, tried: str) -> str:
    """Return the record where the replicas are the former ones again, and Tinkerbell is as it was tried.

    Raises:
        UnknownRecord: as `parsed`.
    """
    stays = parsed(tried)
    return written(
        msgspec.structs.replace(
            parsed(former),
            host=stays.host,
            address=stays.address,
            airgap=stays.airgap,
            tinkerbell_version=stays.tinkerbell_version,
        )
    )
