"""Clusters over HTTP: registered, changed, removed; what they hold of people's secrets; machines in them."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dragonfly.model.cluster import Checkup, Cluster, MissingRight
from dragonfly.model.swarm import Claim, Member
from dragonfly.sandbox.pki import Authority
from dragonfly.store import keys, records
from dragonfly.store.values import Delete, Item, Put
from tests.unit.api.replicas import ANY, MERGE, SEAL, Replica, World, answer_of, fields_of, problem_of

CLUSTERS = "/api/v1/clusters"
TOKEN = "a-token-that-nobody-may-see"


def kubeconfig(token: str = TOKEN, server: str = "https://10.0.0.1:6443") -> str:
    return json.dumps(
        {
            "current-context": "fra",
            "contexts": [{"name": "fra", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
    )


def document(name: str = "fra", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"kubeconfig": kubeconfig(), **spec}}


@pytest.fixture
async def replica(world: World) -> Replica:
    """A replica of a swarm whose `local` was agreed on by an earlier version."""
    await world.store.commit(Put(keys.cluster("local"), b'{"spec":{"shards":4}}'))
    return world.replica()


def stored(replica: Replica, name: str = "fra") -> Cluster:
    held = replica.mirror.get(keys.cluster(name))
    assert held is not None
    assert isinstance(held.object, Cluster)
    return held.object


def token_of(replica: Replica) -> str:
    opened = SEAL.open("clusters/fra/spec.kubeconfig", stored(replica).sealed_kubeconfig)
    token: str = json.loads(opened)["users"][0]["user"]["token"]
    return token


async def patched(replica: Replica, change: dict[str, Any], name: str = "fra") -> Any:
    headers = {"If-Match": "*", "Content-Type": MERGE}
    return await replica.http.patch(f"{CLUSTERS}/{name}", json=change, headers=headers)


async def test_a_kubeconfig_goes_in_and_never_comes_out(replica: Replica) -> None:
    """P11."""
    made = await replica.http.post(CLUSTERS, json=document(shards=2, sites=["fra1"]), headers={"Idempotency-Key": "k"})

    view = answer_of(made, 201)
    assert view["spec"] == {"context": "fra", "namespace": "tinkerbell", "shards": 2, "sites": ["fra1"]}
    assert view["status"]["server"] == "https://10.0.0.1:6443"
    assert token_of(replica) == TOKEN
    for held in replica.mirror.under(""):
        assert TOKEN.encode() not in records.encode(held.object)
    for path in (CLUSTERS, f"{CLUSTERS}/fra"):
        assert "kubeconfig" not in (await replica.http.get(path)).text


async def test_what_is_refused_is_told_without_what_was_sent(replica: Replica) -> None:
    sent = json.loads(kubeconfig())
    sent["users"][0]["user"]["exec"] = {"command": "sh"}
    answer = await replica.http.post(CLUSTERS, json=document(kubeconfig=json.dumps(sent)))

    assert fields_of(problem_of(answer, 422, "invalid")) == ["spec.kubeconfig"]
    assert "every replica would run the program" in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"kubeconfig": ""}, "spec.kubeconfig"),
        ({"kubeconfig": 5}, "spec.kubeconfig"),
        ({"context": "muc"}, "spec.context"),
        ({"shards": 0}, "spec.shards"),
        ({"shards": 257}, "spec.shards"),
        ({"namespace": "Not A Namespace"}, "spec.namespace"),
        ({"sites": ["ok", "not ok"]}, "spec.sites[1]"),
        ({"qps": 0}, "spec.qps"),
        ({"inFlight": 0}, "spec.inFlight"),
        ({"inFlight": 1001}, "spec.inFlight"),
        ({"inFlight": "8"}, "spec.inFlight"),
        ({"inCluster": True}, "spec.inCluster"),
        ({"inCluster": True, "kubeconfig": "", "context": "fra"}, "spec.inCluster"),
        ({"inCluster": "yes"}, "spec.inCluster"),
        ({"namespaceUid": "3cc31835"}, "spec.namespaceUid"),
    ],
)
async def test_each_rule_is_told_with_its_field(replica: Replica, spec: dict[str, Any], field: str) -> None:
    assert fields_of(problem_of(await replica.http.post(CLUSTERS, json=document(**spec)), 422, "invalid")) == [field]


async def test_a_name_is_taken_once(world: World, replica: Replica) -> None:
    other = world.replica("b")
    other.watch.hold()
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)

    problem_of(await other.http.post(CLUSTERS, json=document()), 409, "already-exists")
    problem_of(await replica.http.post(CLUSTERS, json=document("local")), 409, "already-exists")


async def test_a_new_token_replaces_the_old_one_and_the_same_changes_nothing(replica: Replica) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)

    first = answer_of(await patched(replica, {"spec": {"kubeconfig": kubeconfig("the-next-token")}}), 200)
    again = answer_of(await patched(replica, {"spec": {"kubeconfig": kubeconfig("the-next-token")}}), 200)

    assert token_of(replica) == "the-next-token"
    assert first["metadata"]["revision"] == again["metadata"]["revision"]


async def test_an_expired_client_certificate_is_refused_with_its_date_and_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def identify(name: str, *_: str) -> str:
        asked.append(name)
        return ""

    replica = world.replica(identify=identify)
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    asked.clear()
    client = Authority(tmp_path, "a-ca", datetime(2024, 1, 1, tzinfo=UTC)).client("dragonfly")
    files = {"client-certificate-data": client.certificate, "client-key-data": client.key}
    user = {field: base64.b64encode(file.read_bytes()).decode() for field, file in files.items()}
    sent = json.loads(kubeconfig())
    sent["users"][0]["user"] = user
    expired = {"spec": {"kubeconfig": json.dumps(sent)}}

    renewed = await patched(replica, expired)
    registered = await replica.http.post(CLUSTERS, json=document("muc") | expired)

    for answer in (renewed, registered):
        assert fields_of(problem_of(answer, 422, "invalid")) == ["spec.kubeconfig"]
        assert "users[fra].user.client-certificate: expired at 2024-12-31T00:00:00Z; get a new one" in answer.text
        assert user["client-key-data"] not in answer.text
    assert token_of(replica) == TOKEN
    assert asked == [], "a cluster is not asked with what is refused"


async def test_other_changes_leave_the_kubeconfig(replica: Replica) -> None:
    made = answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    made["spec"]["qps"] = 50

    answer_of(await replica.http.put(f"{CLUSTERS}/fra", json=made, headers=ANY), 200)

    assert (stored(replica).spec.qps, token_of(replica)) == (50, TOKEN)


async def test_the_specification_has_how_much_may_be_taken(replica: Replica) -> None:
    schemas = (await replica.get("/openapi.json"))["components"]["schemas"]

    for schema in ("ClusterSpecInput", "ClusterSpecView"):
        assert {"qps", "inFlight"} <= schemas[schema]["properties"].keys()


@pytest.mark.parametrize("name", ["fra", "local"])
async def test_how_much_of_a_cluster_is_taken_can_be_said_and_taken_back(replica: Replica, name: str) -> None:
    limits: dict[str, Any] = {"qps": 50, "inFlight": 8}
    if name == "fra":
        answer_of(await replica.http.post(CLUSTERS, json=document(**limits)), 201)
    else:
        answer_of(await patched(replica, {"spec": limits}, name), 200)

    assert (stored(replica, name).spec.qps, stored(replica, name).spec.in_flight) == (50, 8)
    shown = answer_of(await replica.http.get(f"{CLUSTERS}/{name}"), 200)
    assert limits.items() <= shown["spec"].items()
    shown["metadata"]["tags"] = ["kept"]
    answer_of(await replica.http.put(f"{CLUSTERS}/{name}", json=shown, headers=ANY), 200)
    assert stored(replica, name).spec.in_flight == 8
    answer_of(await patched(replica, {"spec": {"inFlight": None}}, name), 200)
    assert (stored(replica, name).spec.qps, stored(replica, name).spec.in_flight) == (50, None)


async def test_the_cluster_of_the_pods_needs_no_kubeconfig_and_there_is_one_of_them(replica: Replica) -> None:
    pods = {"kubeconfig": "", "inCluster": True, "sites": ["fra1"]}
    made = answer_of(await replica.http.post(CLUSTERS, json=document("pods", **pods)), 201)

    assert made["spec"] == {"inCluster": True, "namespace": "tinkerbell", "shards": 8, "sites": ["fra1"]}
    again = await replica.http.post(CLUSTERS, json=document("again", kubeconfig="", inCluster=True))
    assert "Cluster pods leads to" in problem_of(again, 409, "cluster-registered")["detail"]
    answer_of(await replica.http.post(CLUSTERS, json=document("b", kubeconfig="", inCluster=True, namespace="b")), 201)
    same = answer_of(await replica.http.put(f"{CLUSTERS}/pods", json=made, headers=ANY), 200)
    assert same["metadata"]["updatedAt"] == made["metadata"]["updatedAt"]
    assert same["spec"] == made["spec"]


async def test_one_way_to_a_cluster_takes_the_others_place(replica: Replica) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)

    inside = answer_of(await patched(replica, {"spec": {"inCluster": True}}), 200)
    assert inside["spec"] == {"inCluster": True, "namespace": "tinkerbell", "shards": 8, "sites": []}
    assert (stored(replica).sealed_kubeconfig, stored(replica).server) == ("", "")

    nothing = {"metadata": {"name": "fra"}, "spec": {"namespace": "tinkerbell"}}
    refused = await replica.http.put(f"{CLUSTERS}/fra", json=nothing, headers=ANY)
    assert fields_of(problem_of(refused, 422, "invalid")) == ["spec.kubeconfig"]
    outside = answer_of(await patched(replica, {"spec": {"kubeconfig": kubeconfig()}}), 200)
    assert outside["spec"]["context"] == "fra"
    assert "inCluster" not in outside["spec"]
    assert token_of(replica) == TOKEN
    refused = await patched(replica, {"spec": {"inCluster": True}}, "local")
    assert fields_of(problem_of(refused, 422, "invalid")) == ["spec.inCluster"]


async def test_shards_stay_as_they_are(replica: Replica) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)

    answer = await patched(replica, {"spec": {"shards": 16}})

    assert fields_of(problem_of(answer, 422, "invalid")) == ["spec.shards"]
    assert "must stay 8" in answer.text


async def test_local_is_what_replicas_were_started_with(replica: Replica) -> None:
    shown = answer_of(await replica.http.get(f"{CLUSTERS}/local"), 200)
    assert shown["spec"] == {"shards": 4, "sites": []}
    assert "createdAt" not in shown["metadata"]

    assert fields_of(
        problem_of(await patched(replica, {"spec": {"kubeconfig": kubeconfig()}}, "local"), 422, "invalid")
    ) == ["spec.kubeconfig"]
    problem_of(await replica.http.delete(f"{CLUSTERS}/local", headers=ANY), 409, "cluster-own")
    answer_of(await patched(replica, {"spec": {"sites": ["fra1"]}}, "local"), 200)
    assert records.encode(stored(replica, "local")).startswith(b'{"spec":{"shards":4')


async def test_a_cluster_with_machines_stays(replica: Replica) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    await replica.machine("m-1", "02:00:00:00:00:01", cluster="fra")

    answer = await replica.http.delete(f"{CLUSTERS}/fra", headers=ANY)

    problem_of(answer, 409, "cluster-in-use")
    assert "1 machine: m-1" in answer.text
    assert answer_of(await replica.http.get(f"{CLUSTERS}/fra"), 200)["status"]["machines"] == 1


async def test_a_machine_that_comes_while_a_cluster_is_removed_keeps_it(world: World, replica: Replica) -> None:
    """The replica that removes has not seen the machine yet; it does before it decides."""
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    other = world.replica("b")
    other.watch.hold()
    await replica.machine("m-1", "02:00:00:00:00:01", cluster="fra")
    world.store.watch(lambda batch: other.watch.go_on() if "removingSince" in str(batch) else None)

    problem_of(await other.http.delete(f"{CLUSTERS}/fra", headers=ANY), 409, "cluster-in-use")

    assert stored(replica).removing_since is None
    await replica.machine("m-2", "02:00:00:00:00:02", cluster="fra")


async def test_a_machine_that_has_just_left_does_not_keep_a_cluster(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica that removes shows the machine still; it asks etcd how new that is."""
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    await replica.machine("m-1", "02:00:00:00:00:01", cluster="fra")
    other = world.replica("b")
    assert answer_of(await other.http.get(f"{CLUSTERS}/fra"), 200)["status"]["machines"] == 1
    other.watch.hold()
    await world.store.commit(Delete(keys.machine("m-1")))
    read = world.store.read

    async def read_and_see(key: str) -> tuple[Item | None, int]:
        found = await read(key)
        other.watch.go_on()
        return found

    monkeypatch.setattr(world.store, "read", read_and_see)

    assert (await other.http.delete(f"{CLUSTERS}/fra", headers=ANY)).status_code == 204


async def test_no_machine_comes_into_a_cluster_that_is_gone(world: World, replica: Replica) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    other = world.replica("b")
    other.watch.hold()
    assert (await replica.http.delete(f"{CLUSTERS}/fra", headers=ANY)).status_code == 204

    body = {"metadata": {"name": "m-1"}, "spec": {"cluster": "fra", "interfaces": [{"mac": "02:00:00:00:00:01"}]}}
    answer = await other.http.post("/api/v1/machines", json=body)

    assert fields_of(problem_of(answer, 422, "invalid")) == ["spec.cluster"]
    assert "is no cluster of this swarm" in answer.text


async def test_a_machine_stays_in_its_cluster(replica: Replica) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    await replica.machine("m-1", "02:00:00:00:00:01")
    headers = {"If-Match": "*", "Content-Type": MERGE}

    answer = await replica.http.patch("/api/v1/machines/m-1", json={"spec": {"cluster": "fra"}}, headers=headers)

    assert fields_of(problem_of(answer, 422, "invalid")) == ["spec.cluster"]
    assert "must stay local" in answer.text


async def test_who_drives_it_is_shown(replica: Replica, world: World) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document(shards=2)), 201)
    await world.store.commit(Put(keys.claim("fra", 1), records.encode(Claim(owner="b"))))

    (fra, _local) = (await replica.get(CLUSTERS))["items"]

    assert fra["status"]["owners"] == {"0": "", "1": "b"}


async def test_what_a_replica_has_found_there_is_in_its_status(replica: Replica, world: World) -> None:
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    assert "checkup" not in (await replica.get(f"{CLUSTERS}/fra"))["status"]
    lacks = MissingRight(verb="patch", resource="secrets")
    found = Checkup(namespace="tinkerbell", version="v1.36.3", tinkerbell="v0.25.0", missing_rights=(lacks,))
    member = Member(id="b", version="0", address="b", started=replica.clock.now(), checkups={"fra": found})
    await world.store.commit(Put(keys.member("b"), records.encode(member)))

    assert (await replica.get(f"{CLUSTERS}/fra"))["status"]["checkup"] == {
        "namespace": "tinkerbell",
        "version": "v1.36.3",
        "tinkerbell": "v0.25.0",
        "missingRights": [{"verb": "patch", "resource": "secrets"}],
    }


async def test_what_it_lacks_is_asked_of_it(world: World) -> None:
    async def look(_cluster: str) -> Checkup:
        return Checkup(
            version="v1.36.3",
            missing_rights=(MissingRight(verb="patch", resource="secrets"),),
            missing_optional=(MissingRight(verb="get", resource="deployments.apps"),),
        )

    replica = world.replica(check_cluster=look)
    problem_of(await replica.http.post(f"{CLUSTERS}/fra/check"), 404, "not-found")
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)

    found = await replica.post(f"{CLUSTERS}/fra/check", None)

    assert (found["ok"], found["replica"]) == (False, replica.context.replica)
    assert found["missingRights"] == [{"verb": "patch", "resource": "secrets"}]
    assert found["missingOptional"] == [
        {"verb": "get", "resource": "deployments.apps", "without": "Tinkerbell's version is not told"}
    ]


async def test_one_that_cannot_ask_a_cluster_names_those_that_can(world: World) -> None:
    replica = world.replica()
    answer_of(await replica.http.post(CLUSTERS, json=document()), 201)
    born = datetime(2026, 1, 1, tzinfo=UTC)
    for name, clusters in (("a", ("fra",)), ("b", ())):
        member = Member(id=name, version="1", address=f"10.0.0.1:{name}", started=born, clusters=clusters)
        await world.store.commit(Put(keys.member(name), records.encode(member)))

    found = await replica.post(f"{CLUSTERS}/fra/check", None)

    assert found["error"] == "this replica only observes, and connects to no cluster"
    assert found["reachedBy"] == {"a": "10.0.0.1:a"}


async def test_the_feed_tells_of_a_cluster_and_of_who_drives_it(replica: Replica, world: World) -> None:
    """P8."""
    made = answer_of(await replica.http.post(CLUSTERS, json=document(shards=1)), 201)
    await world.store.commit(Put(keys.claim("fra", 0), records.encode(Claim(owner="b"))))
    assert (await replica.http.delete(f"{CLUSTERS}/fra", headers=ANY)).status_code == 204

    page = await replica.get("/api/v1/events", since=made["metadata"]["revision"] - 1, kind="Cluster")

    told = [(item["type"], item["object"]["status"]["owners"]) for item in page["items"]]
    assert told == [
        ("created", {"0": ""}),
        ("updated", {"0": "b"}),
        ("updated", {"0": "b"}),
        ("deleted", {"0": "b"}),
    ]
    assert "removingSince" in page["items"][2]["object"]["status"]


async def test_who_reaches_it_is_shown_by_site_in_answers_metrics_and_the_feed(world: World) -> None:
    replica = world.replica(clusters={"fra": 1})
    born = datetime(2026, 1, 1, tzinfo=UTC)
    made = answer_of(await replica.http.post(CLUSTERS, json=document(shards=1, sites=["fra1"])), 201)

    def told(name: str, site: str, **more: Any) -> Put:
        member = Member(id=name, site=site, version="1", address="x", started=born, **more)
        return Put(keys.member(name), records.encode(member))

    away = {"unreachable": {"fra": born}, "troubles": {"fra": "connection refused"}}
    await world.store.commit(told("a", "fra1", clusters=("fra",)))
    await world.store.commit(told("b", "ber1", **away))
    await world.store.commit(told("o", "home", observes=True))

    replicas = [
        {"replica": "b", "site": "ber1", "reachable": False, "since": "2026-01-01T00:00:00Z"}
        | {"reason": "connection refused"},
        {"replica": "a", "site": "fra1", "reachable": True},
    ]
    fra = await replica.get(f"{CLUSTERS}/fra")
    assert (fra["status"]["reachable"], fra["status"]["replicas"]) == (True, replicas)
    assert (await replica.get(CLUSTERS))["items"][0]["status"]["replicas"] == replicas
    page = await replica.get("/api/v1/events", since=made["metadata"]["revision"], kind="Cluster")
    assert [item["object"]["status"]["replicas"] for item in page["items"]] == [replicas[1:], replicas]
    metrics = (await replica.http.get("/metrics")).text
    assert 'dragonfly_cluster_reached_from{cluster="fra",site="fra1"} 1.0' in metrics
    assert 'dragonfly_cluster_reached_from{cluster="fra",site="ber1"} 0.0' in metrics
    assert 'site="home"' not in metrics
    assert ("dragonfly_swarm_members 2.0" in metrics, "dragonfly_swarm_observers 1.0" in metrics) == (True, True)


@pytest.mark.parametrize(
    ("site", "sites", "preferred"), [("fra1", ("fra1",), 1.0), ("ber1", ("fra1",), 0.0), ("", (), 1.0)]
)
async def test_whether_a_cluster_is_this_replicas_to_reach_is_measured(
    world: World, site: str, sites: tuple[str, ...], preferred: float
) -> None:
    replica = world.replica(site=site, sites_of=lambda _: sites)

    metrics = (await replica.http.get("/metrics")).text

    assert f'dragonfly_cluster_preferred{{cluster="local"}} {preferred}' in metrics
