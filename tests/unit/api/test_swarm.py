"""The swarm as one replica tells of it."""

from datetime import UTC, datetime, timedelta

import pytest

from dragonfly.install.detection import Detection, EtcdFound, Finding
from dragonfly.model.swarm import AdmissionPolicy, Claim, DrainRequest, Member
from dragonfly.store import keys, records
from dragonfly.store.errors import Behind, Denied, NoSpace, OtherEtcd, SchemaUnknown, Unavailable
from dragonfly.store.values import Delete, MemberStatus, Put
from dragonfly.swarm.shards import ShardId
from dragonfly.swarm.standing import STATES
from tests.unit.api.replicas import Replica, World, problem_of, template_document

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


async def test_it_tells_members_claims_and_what_nobody_drives(world: World) -> None:
    replica = world.replica("a", site="fra1")
    for name in ("b", "a"):
        member = Member(id=name, version="1.0", address=f"10.0.0.1:{name}", started=STARTED, clusters=("local",))
        await world.store.commit(Put(keys.member(name), records.encode(member)))
    epoch = await world.store.commit(
        Put(keys.claim("local", 2), records.encode(Claim(owner="b"))),
        Put(keys.claim("local", 0), records.encode(Claim(owner="a", since=STARTED))),
        Put("claims/_swarm/janitor", records.encode(Claim(owner="b"))),
    )
    await world.store.commit(Put(keys.claim("local", 2), records.encode(Claim(owner="b"))))

    swarm = await replica.get("/api/v1/swarm")

    assert swarm["revision"] == world.store.revision
    assert swarm["claims"] == [
        {"cluster": "local", "shard": 0, "owner": "a", "epoch": epoch, "since": "2026-01-01T00:00:00Z"},
        {"cluster": "local", "shard": 2, "owner": "b", "epoch": epoch},
    ]
    assert [(shard["cluster"], shard["shard"]) for shard in swarm["unowned"]] == [("local", 1), ("local", 3)]
    assert [(member["id"], member["claims"]) for member in swarm["members"]] == [("a", 1), ("b", 1)]
    assert swarm["members"][0]["started"] == "2026-01-01T00:00:00Z"
    assert "stale" not in swarm
    assert {name: swarm["self"][name] for name in ("id", "site", "version", "member", "claims")} == {
        "id": "a",
        "site": "fra1",
        "version": "0.0.0",
        "member": True,
        "claims": 1,
    }


async def test_a_replica_that_the_others_do_not_see_says_so(world: World) -> None:
    assert (await world.replica("a").get("/api/v1/swarm"))["self"]["member"] is False


async def test_a_cluster_that_no_replica_reaches_is_told_with_the_time_since_when(world: World) -> None:
    replica = world.replica("a", clusters={"fra": 2, "ber": 1})
    lost = STARTED + timedelta(minutes=5)
    members = (
        Member(id="a", version="1.0", address="x", started=STARTED, clusters=("fra",), unreachable={"ber": STARTED}),
        Member(id="b", version="1.0", address="y", started=STARTED, unreachable={"fra": STARTED, "ber": lost}),
    )
    for member in members:
        await world.store.commit(Put(keys.member(member.id), records.encode(member)))
    await world.store.commit(Put(keys.claim("fra", 0), records.encode(Claim(owner="a"))))

    swarm = await replica.get("/api/v1/swarm")

    assert swarm["clusters"] == [
        {"name": "ber", "reachable": False, "since": "2026-01-01T00:05:00Z", "shards": 1, "unowned": 1},
        {"name": "fra", "reachable": True, "shards": 2, "unowned": 1},
    ]


async def test_whether_the_api_server_fences_is_told_by_who_looked_last(world: World) -> None:
    replica = world.replica("a", clusters={"fra": 1, "ber": 1})
    right = AdmissionPolicy(installed=True, reason="Installed", since=STARTED + timedelta(minutes=1))
    wrong = AdmissionPolicy(installed=False, reason="Forbidden", message="Grant it.", since=STARTED)
    for name, policy in (("a", wrong), ("b", right)):
        member = Member(id=name, version="1", address="x", started=STARTED, admission_policies={"fra": policy})
        await world.store.commit(Put(keys.member(name), records.encode(member)))

    clusters = (await replica.get("/api/v1/swarm"))["clusters"]

    assert [cluster.get("admissionPolicy") for cluster in clusters] == [
        None,
        {"installed": True, "reason": "Installed", "since": "2026-01-01T00:01:00Z"},
    ]


async def test_a_shard_without_owner_is_told_with_the_time_since_when_and_what_it_waits_for(world: World) -> None:
    """P6."""
    replica = world.replica("a", clusters={"ber": 1, "fra": 1})
    for cluster in ("ber", "fra"):
        await world.store.commit(Put(keys.claim(cluster, 0), records.encode(Claim(owner="a"))))
    assert (await replica.get("/api/v1/swarm"))["unowned"] == []

    replica.clock.seconds = 2_000
    await world.store.commit(Delete(keys.claim("ber", 0)))
    replica.clock.seconds = 2_005
    nobody = await replica.get("/api/v1/swarm")
    member = Member(id="b", version="1.0", address="x", started=STARTED, clusters=("fra",))
    await world.store.commit(Put(keys.member("b"), records.encode(member)), Delete(keys.claim("fra", 0)))
    swarm = await replica.get("/api/v1/swarm")

    since = "2026-01-01T00:33:20Z"
    assert nobody["unowned"] == [{"cluster": "ber", "shard": 0, "since": since, "reason": "no replica is registered"}]
    assert swarm["unowned"] == [
        {"cluster": "ber", "shard": 0, "since": since, "reason": "no live replica reaches cluster ber"},
        {"cluster": "fra", "shard": 0, "since": "2026-01-01T00:33:25Z", "reason": "waits for replica b to claim it"},
    ]
    metrics = (await replica.http.get("/metrics")).text
    assert 'dragonfly_swarm_unowned_shards{cluster="ber"} 1.0' in metrics
    assert 'dragonfly_swarm_unowned_seconds{cluster="ber"} 5.0' in metrics
    assert 'dragonfly_swarm_unowned_seconds{cluster="fra"} 0.0' in metrics


async def test_members_tell_what_they_do_not_reach_and_when_etcd_heard_them(world: World) -> None:
    replica = world.replica("a")
    lost = STARTED + timedelta(minutes=5)
    silent = await world.store.grant(30)
    members = (
        Member(id="a", version="1.0", address="x", started=STARTED, clusters=("local",)),
        Member(
            id="b",
            version="1.0",
            address="y",
            started=STARTED,
            unreachable={"local": lost},
            troubles={"local": "hardware: timed out"},
        ),
    )
    await world.store.commit(Put(keys.member("a"), records.encode(members[0])))
    await world.store.commit(Put(keys.member("b"), records.encode(members[1]), silent.id))
    world.store.pass_time(7)

    swarm = await replica.get("/api/v1/swarm")

    told = {member["id"]: member for member in swarm["members"]}
    assert "keepaliveAge" not in told["a"], "it has no lease"
    assert told["b"]["keepaliveAge"] == 7
    reason = {"cluster": "local", "since": "2026-01-01T00:05:00Z", "reason": "hardware: timed out"}
    assert told["b"]["unreachable"] == [reason]
    assert swarm["etcd"]["state"] == "ok"
    (endpoint,) = swarm["etcd"]["members"]
    assert (endpoint["endpoint"], endpoint["reachable"], endpoint["leader"]) == ("model", True, True)


async def test_etcd_is_asked_once_a_second_at_most_however_many_ask(world: World) -> None:
    replica = world.replica("a")
    asked = 0
    status = world.store.status

    async def counted() -> tuple[MemberStatus, ...]:
        nonlocal asked
        asked += 1
        return await status()

    world.store.status = counted  # type: ignore[method-assign] # stands in for it here
    for _ in range(5):
        await replica.get("/api/v1/swarm")
    assert asked == 1

    replica.clock.seconds += 1.5
    await replica.get("/api/v1/swarm")
    assert asked == 2


async def test_requests_to_drain_are_told(world: World) -> None:
    replica = world.replica("a")
    epoch = await world.store.commit(Put(keys.claim("local", 0), records.encode(Claim(owner="a"))))
    request = DrainRequest(asked_by="b", epoch=epoch)
    await world.store.commit(Put(keys.drain("local", 0), records.encode(request)))

    swarm = await replica.get("/api/v1/swarm")

    assert swarm["drains"] == [{"cluster": "local", "shard": 0, "owner": "a", "askedBy": "b", "epoch": epoch}]


async def _state(replica: Replica) -> tuple[str, str]:
    own = (await replica.get("/api/v1/swarm"))["self"]
    metrics = (await replica.http.get("/metrics")).text
    assert f'dragonfly_replica_state{{state="{own["state"]}"}} 1.0' in metrics
    assert metrics.count("dragonfly_replica_state{") == len(STATES)
    return own["state"], own["reason"]


async def test_a_replica_tells_what_it_may_do_and_since_when(world: World) -> None:
    replica = world.replica("a")
    assert await _state(replica) == ("following", "the other replicas drive everything")

    replica.owned = {ShardId("local", 0): 7}
    replica.clock.seconds = 3_000
    assert await _state(replica) == ("acting", "it drives 1 shard")

    replica.clock.seconds = 3_010
    replica.lease.is_held = False
    assert (await _state(replica))[0] == "fenced"
    replica.clock.seconds = 3_012
    replica.silence = Unavailable("connection refused")
    unheld = "it has no lease that it could rely on, so it does not work on clusters"
    assert await _state(replica) == ("read-only", f"connection refused; {unheld}")
    own = (await replica.get("/api/v1/swarm"))["self"]

    assert own["since"] == "2026-01-01T00:50:12Z"
    assert own["lease"] == {"held": False, "remaining": 0.0, "keepaliveAge": 0.4}
    metrics = (await replica.http.get("/metrics")).text
    assert "dragonfly_replica_fenced_seconds_total 2.0" in metrics
    assert "dragonfly_replica_fencings_total 1.0" in metrics
    assert "dragonfly_lease_held 0.0" in metrics


async def test_the_view_itself_says_that_it_may_be_out_of_date(world: World) -> None:
    replica = world.replica("a")
    replica.mirror.mark_stale(replica.clock.seconds)
    replica.clock.seconds += 12.5

    assert (await replica.get("/api/v1/swarm"))["stale"] == 12.5


async def test_a_full_etcd_is_told_in_every_place(world: World) -> None:
    replica = world.replica("a")
    world.store.fail("full")

    problem_of(await replica.http.post("/api/v1/templates", json=template_document()), 503, "store-full")
    swarm = await replica.get("/api/v1/swarm")

    assert (swarm["etcd"]["state"], swarm["self"]["state"]) == ("full", "read-only")
    assert 'dragonfly_store_state{state="full"} 1.0' in (await replica.http.get("/metrics")).text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unavailable("connection refused"), "store-unavailable"),
        (Unavailable("connection reset", maybe_written=True), "outcome-unknown"),
        (Unavailable("etcdserver: no leader"), "store-no-quorum"),
        (Behind("it is at revision 3; 7 was seen already"), "store-behind"),
        (NoSpace("mvcc: database space exceeded"), "store-full"),
        (Denied("authentication failed"), "store-denied"),
        (OtherEtcd("http://a", expected=1, found=2), "store-changed"),
        (SchemaUnknown("2", 1), "schema-unknown"),
    ],
)
async def test_each_way_in_which_etcd_can_be_away_has_its_problem(world: World, error: Exception, kind: str) -> None:
    replica = world.replica("a")
    replica.refusal = error

    for method, path in (("POST", "machines"), ("DELETE", "templates/x"), ("POST", "machines:batch")):
        answer = await replica.http.request(method, f"/api/v1/{path}", headers={"If-Match": "*"})
        problem_of(answer, 503, kind)
        assert int(answer.headers["retry-after"]) > 0


async def test_a_write_that_cannot_succeed_is_refused_before_it_is_tried(world: World) -> None:
    replica = world.replica("a")
    before = world.store.revision
    replica.refusal = Unavailable("no answer in time")

    answer = await replica.http.post("/api/v1/templates", json={})

    problem_of(answer, 503, "store-unavailable")
    assert answer.headers["retry-after"]
    assert world.store.revision == before
    assert (await replica.http.get("/api/v1/machines")).status_code == 200


async def test_a_replica_tells_in_which_mode_it_runs_though_it_knows_nothing_of_the_swarm(world: World) -> None:
    found = Detection(
        mode="remote",
        why=(Finding(looked_at="namespace tink-system", found="there", decides=True),),
        etcd=EtcdFound(source="secret", reachable=True, place="Secret a/b", endpoints=("https://a:2379",)),
    )

    async def detection() -> Detection:
        return found

    told = await world.replica("a", mode=detection).get("/api/v1/mode")

    assert told == {
        "mode": "remote",
        "why": [{"lookedAt": "namespace tink-system", "found": "there", "decides": True}],
        "etcd": {"source": "secret", "reachable": True, "place": "Secret a/b", "endpoints": ["https://a:2379"]},
    }


async def test_one_that_observes_is_a_member_and_nobody_who_might_drive(world: World) -> None:
    replica = world.replica("a", clusters={"fra": 1}, sites_of=lambda _: ("fra1",))
    observer = Member(id="o", version="1.0", address="x", started=STARTED, observes=True)
    await world.store.commit(Put(keys.member("o"), records.encode(observer)))

    swarm = await replica.get("/api/v1/swarm")

    assert [(member["id"], member.get("observes"), member["claims"]) for member in swarm["members"]] == [("o", True, 0)]
    assert swarm["clusters"] == [{"name": "fra", "reachable": False, "sites": ["fra1"], "shards": 1, "unowned": 1}]
    assert swarm["unowned"][0]["reason"] == "all registered replicas only observe"
