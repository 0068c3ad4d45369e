"""The plan: which steps, in which order, with which content."""

from typing import Any

import msgspec
import pytest
import yaml

from dragonfly.install.etcd_mode import notice
from dragonfly.install.host_facts import HostFacts
from dragonfly.install.k3s import POD_NETWORK
from dragonfly.install.options import EtcdMode, ExternalEtcd, JoinedMode, Options
from dragonfly.install.plan import own_part, plan
from dragonfly.install.recorded import ClusterWide, Record, Seen, Server, as_object, cluster_wide, parsed, written
from dragonfly.install.steps import (
    ApplyChart,
    ApplyObjects,
    AwaitImage,
    Download,
    GiveEtcd,
    JoinEtcd,
    KeepRecord,
    MakeDirectory,
    Plan,
    StartService,
    Step,
    WriteFile,
)

FACTS = HostFacts(address="10.0.0.1", network="10.0.0.0/24", interface="eth0", hostname="node-1")
EXTERNAL = ExternalEtcd(endpoints=("https://10.0.0.9:2379",), ca_file="/ca", username="dragonfly", password_file="/pw")
FIRST = [
    "settings",
    "data",
    "server-data",
    "notice",
    "hookos",
    "binary",
    "config",
    "unit",
    "k3s",
    "node",
    "namespaces",
    "record",
    "tinkerbell",
    "secrets",
    "manifests",
    "etcd",
    "replicas",
    "spread",
    "self-test",
]


def names(made: Plan) -> list[str]:
    return [step.name for step in made.steps]


def step(made: Plan, name: str) -> Step:
    (found,) = [step for step in made.steps if step.name == name]
    return found


def config(made: Plan) -> dict[str, Any]:
    action = step(made, "config").action
    assert isinstance(action, WriteFile)
    said: dict[str, Any] = yaml.safe_load(action.content)
    return said


def objects(made: Plan) -> dict[tuple[str, str], Any]:
    action = step(made, "manifests").action
    assert isinstance(action, ApplyObjects)
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in action.objects}


def values(made: Plan) -> Any:
    action = step(made, "tinkerbell").action
    assert isinstance(action, ApplyChart)
    return yaml.safe_load(action.object["spec"]["valuesContent"])


def test_the_first_host() -> None:
    made = plan(Options(), FACTS)

    assert names(made) == FIRST
    assert plan(Options(), FACTS) == made


def test_k3s_serves_the_gateway_of_its_etcd_to_pods_and_encrypts_secrets() -> None:
    said = config(plan(Options(floating_ip="10.0.0.50"), FACTS))

    assert said["cluster-init"] is True
    assert said["tls-san"] == ["10.0.0.50"]
    assert said["secrets-encryption"] is True
    assert "listen-client-http-urls=https://127.0.0.1:2382,https://10.0.0.1:2382" in said["etcd-arg"]
    assert "enable-grpc-gateway=true" in said["etcd-arg"]


def test_a_host_that_joins_tells_the_replicas_of_its_member_and_waits_until_they_are_well() -> None:
    made = plan(Options(join="10.0.0.50", token_file="/token", floating_ip="10.0.0.50"), FACTS)

    assert names(made) == [
        *("settings", "data", "hookos", "binary", "join-token", "config", "unit", "k3s", "node"),
        *("etcd", "replicas", "spread", "self-test"),
    ]
    said = config(made)
    assert said["server"] == "https://10.0.0.50:6443"
    assert said["token-file"] == "/etc/rancher/k3s/join-token"
    (start,) = [step.action for step in made.steps if isinstance(step.action, StartService)]
    assert start.leaves == FACTS.hostname
    assert "cluster-init" not in said


def test_who_joins_and_says_whose_etcd_it_is_sees_when_that_may_end_it() -> None:
    joining = Options(etcd="dedicated", join="10.0.0.2", token_file="/token")

    assert step(plan(joining, FACTS), "etcd").title == (
        "Tell the replicas where etcd is, if the cluster's is dedicated as was said; else stop here, as a node"
    )
    unsaid = msgspec.structs.replace(joining, etcd="")
    told = msgspec.structs.replace(FACTS, told_etcd="dedicated")
    for options, facts in ((unsaid, FACTS), (Options(etcd="dedicated"), FACTS), (joining, told)):
        assert step(plan(options, facts), "etcd").title == "Tell the replicas where etcd is"


@pytest.mark.parametrize("mode", ["shared", "dedicated", "external"])
def test_every_server_tells_those_that_are_to_join_whose_etcd_the_swarm_uses(mode: EtcdMode) -> None:
    """The founder what it was told, one that joins what a server told it."""
    founding = Options(etcd=mode, external=EXTERNAL if mode == "external" else None)
    joining = Options(join="10.0.0.2", token_file="/token", etcd="")
    notices = [
        step(made, "notice").action
        for made in (plan(founding, FACTS), plan(joining, msgspec.structs.replace(FACTS, told_etcd=mode)))
    ]

    assert notices == [WriteFile("/var/lib/rancher/k3s/server/static/dragonfly/swarm.json", notice(mode))] * 2
    assert step(plan(founding, FACTS), "server-data").action == MakeDirectory("/var/lib/rancher/k3s/server", 0o700)
    assert "notice" not in names(plan(joining, FACTS)), "nobody told it"


def test_the_cluster_keeps_what_its_founder_was_told() -> None:
    action = step(plan(Options(floating_ip="10.0.0.50", site="fra1"), FACTS), "record").action

    kept = Record(host="node-1", address="10.0.0.1", etcd="shared", floating_ip="10.0.0.50", site="fra1")
    assert action == KeepRecord(as_object(written(kept)))


def test_a_host_that_joined_carries_out_the_clusters_steps_if_it_is_told_what_they_are() -> None:
    joined = Options(join="10.0.0.1", token_file="/token", etcd="")
    record = Record(host="node-0", address="10.0.0.9", etcd="shared", image="x/y:2", floating_ip="10.0.0.50")
    recorded = Options(etcd="shared", image="x/y:2", floating_ip="10.0.0.50")
    seen = Seen(written(record), ("node-0", "node-1"))

    made = plan(joined, FACTS, cluster=cluster_wide(recorded, Server("node-1", "10.0.0.1"), seen))

    there = [name for name in names(made) if name != "own-etcd"]
    assert there[there.index("node") :] == FIRST[FIRST.index("node") :]
    assert objects(made)["Service", "dragonfly"]["spec"]["loadBalancerIP"] == "10.0.0.50"
    assert values(made)["publicIP"] == "10.0.0.9"
    assert step(made, "tinkerbell").title == "Install Tinkerbell v0.25.0"
    keep = step(made, "record").action
    assert isinstance(keep, KeepRecord)
    assert keep.before == written(record)
    assert "tls-san" not in config(made), "its own k3s stays as it is"


def test_who_takes_tinkerbell_over_tells_so() -> None:
    cluster = ClusterWide(Options(image="x/y:2"), Server("node-1", "10.0.0.1"), gone="node-0")

    made = plan(Options(join="10.0.0.9", token_file="/token"), FACTS, cluster=cluster)

    title = "Install Tinkerbell v0.25.0, with 10.0.0.1 for that of node-0, which is gone"
    assert step(made, "tinkerbell").title == title
    assert values(made)["publicIP"] == "10.0.0.1"
    assert parsed(cluster.record).host == "node-1"


@pytest.mark.parametrize("options", [Options(image="x/y:2"), Options(join="10.0.0.9", token_file="/token")])
def test_the_own_part_of_an_upgrade_changes_nothing_in_the_cluster(options: Options) -> None:
    made = own_part(msgspec.structs.replace(options, image_archive="/new.tar"), FACTS, "x/y:2")

    assert names(made)[-3:] == ["node", "import-new.tar", "told"]
    assert made.steps[-1].action == AwaitImage("node-1", "x/y:2")
    assert not {"record", "manifests", "etcd", "replicas", "spread"} & set(names(made))


def test_a_host_that_joins_has_a_member_of_an_etcd_that_the_swarm_may_have_of_its_own() -> None:
    modes: tuple[tuple[JoinedMode, bool], ...] = (
        ("", True),
        ("dedicated", True),
        ("shared", False),
        ("external", False),
    )
    for mode, has_member in modes:
        made = plan(Options(join="10.0.0.50", token_file="/token", etcd=mode), FACTS)
        assert [name for name in names(made) if "own-etcd" in name] == ["own-etcd-data", "own-etcd"] * has_member
    joined = plan(Options(join="10.0.0.50", token_file="/token", etcd=""), FACTS)
    assert step(joined, "own-etcd").action == JoinEtcd(FACTS.hostname, FACTS.address)
    # Before replicas hear of it, and after there is a node for its pod.
    assert names(joined)[-7:] == ["k3s", "node", "own-etcd", "etcd", "replicas", "spread", "self-test"]


@pytest.mark.parametrize(
    ("join", "server"),
    [
        ("10.0.0.2", "https://10.0.0.2:6443"),
        ("10.0.0.2:7443", "https://10.0.0.2:7443"),
        ("server-1.example.com", "https://server-1.example.com:6443"),
        ("fd00::1", "https://[fd00::1]:6443"),
        ("[fd00::1]", "https://[fd00::1]:6443"),
        ("[fd00::1]:7443", "https://[fd00::1]:7443"),
    ],
)
def test_the_server_to_join_is_named_with_its_port(join: str, server: str) -> None:
    assert config(plan(Options(join=join, token_file="/token"), FACTS))["server"] == server


def test_a_host_that_joins_leads_no_replica_to_another_etcd() -> None:
    founding = Options(etcd="external", external=EXTERNAL)
    joining = msgspec.structs.replace(founding, join="10.0.0.50", token_file="/token")

    told = [step(plan(options, FACTS), "etcd").action for options in (founding, joining)]

    assert [action.endpoints for action in told if isinstance(action, GiveEtcd)] == [EXTERNAL.endpoints, ()]


def test_airgapped_nothing_is_downloaded() -> None:
    made = plan(Options(airgap="/bundle"), FACTS, images=("dragonfly.tar", "k3s.tar.zst"))

    assert not [step for step in made.steps if isinstance(step.action, Download)]
    assert {"image-dragonfly.tar", "image-k3s.tar.zst", "import-dragonfly.tar"} <= set(names(made))
    assert "import-k3s.tar.zst" not in names(made)
    chart = step(made, "tinkerbell").action
    assert isinstance(chart, ApplyChart)
    assert chart.archive == "/bundle/tinkerbell.tgz"
    assert values(made)["optional"]["hookos"]["enabled"] is False


def test_the_architecture_decides_what_is_downloaded() -> None:
    action = step(plan(Options(), msgspec.structs.replace(FACTS, architecture="aarch64")), "binary").action

    assert isinstance(action, Download)
    assert action.url == "https://github.com/k3s-io/k3s/releases/download/v1.36.3%2Bk3s1/k3s-arm64"
    assert action.sums.endswith("/sha256sum-arm64.txt")


def test_without_floating_addresses_k3s_serves_all_on_the_hosts_own() -> None:
    made = plan(Options(), FACTS)

    assert "loadBalancerClass" not in objects(made)["Service", "dragonfly"]["spec"]
    assert values(made)["publicIP"] == "10.0.0.1"
    assert values(made)["artifactsFileServer"] == "http://10.0.0.1:7173"
    assert values(made)["service"]["lbClass"] == values(made)["optional"]["osie"]["service"]["lbClass"] == ""
    assert values(made)["optional"]["kubevip"]["enabled"] is False
    assert values(made)["trustedProxies"] == [POD_NETWORK]


def test_floating_addresses_are_asked_for_first_and_held_by_kube_vip() -> None:
    made = plan(Options(floating_ip="10.0.0.50", tinkerbell_ip="10.0.0.51", artifacts_ip="10.0.0.52"), FACTS)

    assert names(made) == ["addresses", *FIRST]
    service = objects(made)["Service", "dragonfly"]
    assert service["spec"]["loadBalancerClass"] == "kube-vip.io/kube-vip-class"
    assert service["metadata"]["annotations"]["kube-vip.io/loadbalancerIPs"] == "10.0.0.50"
    assert values(made)["publicIP"] == "10.0.0.51"
    assert values(made)["artifactsFileServer"] == "http://10.0.0.52:7173"
    assert values(made)["service"]["lbClass"] == "kube-vip.io/kube-vip-class"
    assert values(made)["optional"]["kubevip"]["enabled"] is True


@pytest.mark.parametrize(
    ("mode", "external", "credentials"),
    [
        ("shared", None, "DRAGONFLY_ETCD_CERT_FILE"),
        ("dedicated", None, "DRAGONFLY_ETCD_CERT_FILE"),
        ("external", EXTERNAL, "DRAGONFLY_ETCD_USERNAME"),
    ],
)
def test_each_etcd_has_its_manifests(mode: EtcdMode, external: ExternalEtcd | None, credentials: str) -> None:
    made = plan(Options(etcd=mode, external=external, site="fra1", image="x/y:1"), FACTS)
    found = objects(made)
    (container,) = found["Deployment", "dragonfly"]["spec"]["template"]["spec"]["containers"]

    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert credentials in told
    assert told["DRAGONFLY_SITE"] == "fra1"
    assert container["image"] == "x/y:1"
    assert (("DaemonSet", "etcd") in found) == (mode == "dedicated") == ("own-etcd" in names(made))
    assert all("PersistentVolume" not in yaml.safe_dump(obj) for obj in found.values())
    assert not [kind for kind, _ in found if kind == "StatefulSet"]


def test_the_data_of_an_etcd_of_its_own_is_where_its_pods_keep_it_and_stays_until_it_is_to_be_deleted() -> None:
    made = plan(Options(etcd="dedicated"), FACTS)

    action = step(made, "own-etcd-data").action
    volumes = objects(made)["DaemonSet", "etcd"]["spec"]["template"]["spec"]["volumes"]
    assert isinstance(action, MakeDirectory)
    assert [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume] == [action.path]
    assert (action.is_tree, action.is_data) == (True, True)


def test_no_two_steps_share_a_name_and_each_says_what_it_does() -> None:
    options = Options(airgap="/b", floating_ip="10.0.0.50", etcd="dedicated")
    made = plan(options, FACTS, images=("a.tar", "b.tar"))

    assert len(set(names(made))) == len(made.steps)
    assert all(step.title and step.done for step in made.steps)
