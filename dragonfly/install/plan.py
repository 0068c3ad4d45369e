"""The plan: which steps make a host what the options want. Pure: the same options and facts give the same plan.

Order: what is only files comes first, then the one service, then the cluster; so a plan that stops half-way has changed
as little as can be, and what stands is always what the steps before say.
"""

from collections.abc import Iterator
from typing import Final

from dragonfly.install import k3s
from dragonfly.install.bundle_files import CHART, IMAGES, K3S
from dragonfly.install.detection import TINKERBELL
from dragonfly.install.etcd_mode import notice
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.manifests import ETCD_DIRECTORY, NAME, NAMESPACE, OWN_SECRET, manifests, namespaces
from dragonfly.install.options import SERVICE_PORT, Options
from dragonfly.install.preflight import ARCHITECTURES
from dragonfly.install.recorded import RECORD_STEP, ClusterWide, Seen, Server, as_object, cluster_wide
from dragonfly.install.steps import (
    ApplyChart,
    ApplyObjects,
    AwaitImage,
    AwaitNode,
    AwaitReplicas,
    ClaimAddresses,
    CopyFile,
    Download,
    FoundEtcd,
    GiveEtcd,
    ImportImages,
    JoinEtcd,
    KeepRecord,
    MakeDirectory,
    MakeSecrets,
    Plan,
    SelfTest,
    SpreadReplicas,
    StartService,
    Step,
    WriteFile,
)
from dragonfly.install.tinkerbell import HOOKOS_DIRECTORY, helm_chart

READY_SECONDS: Final = 600
_PRIVATE: Final = 0o600


def plan(
    options: Options,
    facts: HostFacts,
    *,
    images: tuple[str, ...] = (),
    ready_within: float = READY_SECONDS,
    cluster: ClusterWide | None = None,
) -> Plan:
    """Return the steps.

    Args:
        images: names of the files in the airgap directory's `images`.
        ready_within: seconds that the replicas have to get ready.
        cluster: what is to be so in the cluster; None leaves that to others on a host that joined, and has one that
            founds the cluster make it as `options` say.
    """
    if cluster is None and options.is_first:
        cluster = cluster_wide(options, Server(facts.hostname, facts.address), Seen(None))
    return Plan(
        (
            *_host(options, facts, images),
            *(_cluster(cluster) if cluster else ()),
            *_etcd(options, facts),
            *_readiness(ready_within),
        )
    )


def own_part(options: Options, facts: HostFacts, image: str, *, images: tuple[str, ...] = ()) -> Plan:
    """Return the steps that change this host alone, and have the cluster know that it has an image."""
    told = Step(
        "told",
        f"Wait until the cluster knows that this host has the image {image}",
        "it does",
        "",
        AwaitImage(facts.hostname, image),
    )
    return Plan((*_host(options, facts, images), told))


def _host(options: Options, facts: HostFacts, images: tuple[str, ...]) -> Iterator[Step]:
    yield from _files(options, facts, images)
    yield from _server(options, facts)
    yield from _imported(options, images)


def _files(options: Options, facts: HostFacts, images: tuple[str, ...]) -> Iterator[Step]:
    if options.addresses and options.is_first:
        yield Step(
            "addresses",
            f"Ask the wire for {', '.join(options.addresses)}",
            "nobody else has them",
            "",
            ClaimAddresses(facts.interface, options.addresses),
        )
    settings, data = str(k3s.SETTINGS_TREE), str(k3s.DATA_TREE)
    yield Step(
        "settings",
        f"Make {settings}",
        "it is there",
        "remove it with all that is in it",
        MakeDirectory(settings, is_tree=True),
    )
    yield Step(
        "data",
        f"Make {data}",
        "it is there",
        "leave the cluster's data there; with --delete-data, remove it",
        MakeDirectory(data, 0o755, is_tree=True, is_data=True),
    )
    yield from _notice(options, facts)
    if options.may_have_member:
        yield Step(
            "own-etcd-data",
            f"Make {ETCD_DIRECTORY}",
            "it is there, for a member of the swarm's own etcd" + ("" if options.etcd else ", if it has one"),
            "leave the swarm's data there; with --delete-data, remove it",
            MakeDirectory(ETCD_DIRECTORY, 0o700, is_tree=True, is_data=True),
        )
    yield Step(
        "hookos",
        f"Make {HOOKOS_DIRECTORY}",
        "it is there, for the files that machines boot",
        "remove it with all that is in it",
        MakeDirectory(HOOKOS_DIRECTORY, is_tree=True),
    )
    yield _binary(options, facts)
    for name in images:
        yield _image(f"{options.airgap}/{IMAGES}/{name}", name)
    if options.image_archive:
        yield _image(options.image_archive, options.image_archive.rpartition("/")[2])
    if options.token_file:
        yield Step(
            "join-token",
            f"Keep the cluster's token in {k3s.JOIN_TOKEN}",
            "only root can read it",
            "remove it",
            CopyFile(options.token_file, str(k3s.JOIN_TOKEN), _PRIVATE),
        )
    yield Step(
        "config",
        f"Write {k3s.CONFIG}",
        "k3s is told what it should be",
        "remove it, or put back what was there",
        WriteFile(str(k3s.CONFIG), k3s.config(options, facts.address), _PRIVATE),
    )
    yield Step(
        "unit",
        f"Write {k3s.UNIT}",
        "systemd knows k3s",
        "remove it, or put back what was there",
        WriteFile(str(k3s.UNIT), k3s.UNIT_TEXT),
    )


def _notice(options: Options, facts: HostFacts) -> Iterator[Step]:
    """A host that has joined tells on what it was told: others may join by it once the founder has left."""
    mode = options.etcd if options.is_first else facts.told_etcd
    if not mode:
        return
    yield Step(
        "server-data",
        f"Make {k3s.SERVER}",
        "it is there, and only root can read it",
        "remove it, unless the cluster's data is in it",
        MakeDirectory(str(k3s.SERVER), 0o700),
    )
    yield Step(
        "notice",
        f"Write {k3s.NOTICE}",
        "hosts that are to join are told whose etcd the swarm uses",
        "remove it",
        WriteFile(str(k3s.NOTICE), notice(mode)),
    )


def _binary(options: Options, facts: HostFacts) -> Step:
    path = str(k3s.BINARY)
    if options.airgap:
        action: CopyFile | Download = CopyFile(f"{options.airgap}/{K3S}", path, 0o755)
        title = f"Copy k3s from {options.airgap}"
    else:
        architecture = ARCHITECTURES.get(facts.architecture, "amd64")
        action = Download(
            k3s.download(options.k3s_version, architecture, "binary"),
            k3s.download(options.k3s_version, architecture, "sums"),
            path,
        )
        title = f"Download k3s {options.k3s_version}"
    return Step("binary", title, f"{path} is what its checksum says", "remove it, or put back what was there", action)


def _image(source: str, name: str) -> Step:
    return Step(
        f"image-{name}",
        f"Copy the images of {name}",
        "k3s imports them when it starts",
        "remove the file",
        CopyFile(source, str(k3s.IMAGES / name)),
    )


def _server(options: Options, facts: HostFacts) -> Iterator[Step]:
    yield Step(
        "k3s",
        "Start k3s",
        "it runs, and starts at boot",
        ("" if options.is_first else "take the node out of the cluster, ")
        + "stop it and its containers, and remove what it made outside of its data",
        StartService(
            k3s.SERVICE,
            files=(str(k3s.BINARY), str(k3s.CONFIG), str(k3s.UNIT)),
            trees=tuple(map(str, k3s.TREES)),
            # Here and not where the node is waited for: it is one from the start on, ready at once or never.
            leaves="" if options.is_first else facts.hostname,
        ),
    )
    yield Step(
        "node",
        "Wait until this host is a ready node",
        "the API server answers, and the node is ready",
        "",
        AwaitNode(facts.hostname),
    )


def _imported(options: Options, images: tuple[str, ...]) -> Iterator[Step]:
    """Only those of replicas: an upgrade brings them to a k3s that runs."""
    named = [options.image_archive.rpartition("/")[2]] if options.image_archive else []
    for name in (*named, *(image for image in images if image.startswith("dragonfly"))):
        yield Step(
            f"import-{name}",
            f"Import the images of {name}",
            "k3s has them",
            "",
            ImportImages(str(k3s.IMAGES / name)),
        )


def _cluster(cluster: ClusterWide) -> Iterator[Step]:
    options = cluster.options
    yield Step(
        "namespaces",
        "Make the namespaces",
        "they are there",
        "leave them, for what is in them",
        ApplyObjects(tuple(namespaces(options)), keeps=True),
    )
    yield Step(
        RECORD_STEP,
        "Record in the cluster how it is installed",
        "its servers know it, whichever of them leaves",
        "delete the record",
        KeepRecord(as_object(cluster.record), cluster.before),
    )
    archive = f"{options.airgap}/{CHART}" if options.airgap else ""
    taken_over = f", with {cluster.boots.address} for that of {cluster.gone}, which is gone" if cluster.gone else ""
    yield Step(
        "tinkerbell",
        f"Install Tinkerbell {options.tinkerbell_version}{taken_over}",
        "k3s has its chart, and keeps it installed",
        "uninstall it; its objects for machines stay with the data",
        ApplyChart(helm_chart(options, cluster.boots.address), archive),
    )
    yield Step(
        "secrets",
        "Make the admin's token, the replicas' token and the key that seals passwords",
        "they are in the cluster, and nowhere else",
        "leave them with the data; with --delete-data, delete them",
        MakeSecrets(NAMESPACE, OWN_SECRET),
    )
    yield Step(
        "manifests",
        "Put three replicas into the cluster",
        "their Deployment, Service, rights and policies are in the cluster",
        "delete them",
        ApplyObjects(tuple(obj for obj in manifests(options) if obj["kind"] != "Namespace")),
    )


def _etcd(options: Options, facts: HostFacts) -> Iterator[Step]:
    if options.etcd == "dedicated" and options.is_first:
        yield Step(
            "own-etcd",
            "Make the certificate of the swarm's own etcd, with a first member on this host",
            "its Secret is there, and this node is labelled for it",
            "take the member out while others carry the cluster; else leave all with its data",
            FoundEtcd(facts.hostname, facts.address),
        )
    elif options.may_have_member:
        yield Step(
            "own-etcd",
            "Make this host a member of the swarm's own etcd, if it has one",
            "it is a member with a vote, or the swarm has no etcd of its own",
            "take the member out while others carry the cluster",
            JoinEtcd(facts.hostname, facts.address),
        )
    # Where an external one is, the swarm knows: replicas that a host led to another would find it empty.
    external = options.external if options.is_first else None
    # Where no server gives notice of it, a host has nothing to ask the cluster with until it is a node.
    unsure = options.etcd not in {"", facts.told_etcd}
    agrees = f", if the cluster's is {options.etcd} as was said; else stop here, as a node" if unsure else ""
    yield Step(
        "etcd",
        f"Tell the replicas where etcd is{'' if options.is_first else agrees}",
        "Secret dragonfly-etcd names every member, and who may read it can join the swarm",
        "leave it with the data of the cluster",
        GiveEtcd(
            options.etcd,
            NAMESPACE,
            TINKERBELL,
            facts.address,
            joins=not options.is_first,
            endpoints=external.endpoints if external else (),
            ca_file=external.ca_file if external else "",
            username=external.username if external else "",
            password_file=external.password_file if external else "",
        ),
    )


def _readiness(seconds: float) -> Iterator[Step]:
    yield Step(
        "replicas",
        "Wait until every replica is ready",
        "all are ready",
        "",
        AwaitReplicas(NAMESPACE, NAME, seconds),
    )
    yield Step(
        "spread",
        "Spread the replicas over the hosts, where too many are on one",
        "no host that could have them has two fewer than another",
        "",
        SpreadReplicas(NAMESPACE, NAME),
    )
    yield Step(
        "self-test",
        "Ask the swarm through its load balancer",
        "it answers the admin, and is well",
        "",
        SelfTest(NAMESPACE, NAME, SERVICE_PORT),
    )
