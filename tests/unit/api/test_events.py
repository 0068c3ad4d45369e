"""The feed over HTTP (P8, P9): streams that resume anywhere, pages, and clients that behave badly."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from dragonfly.api import routes_events
from dragonfly.api.streams import EventStream
from dragonfly.store.errors import Unavailable
from tests.unit.api.replicas import Replica, World, answer_of, fields_of, mac, problem_of
from tests.unit.api.streaming import PATIENCE, Stream, served, until

EVENTS = "/api/v1/events"
ACCEPT = {"Accept": "text/event-stream"}


@pytest.fixture
async def url(replica: Replica) -> AsyncIterator[str]:
    async with served(replica) as address:
        yield address


async def test_a_stream_tells_each_change_with_its_revision(replica: Replica, url: str) -> None:
    async with Stream(url) as stream:
        greeting = await stream.next()
        first = await replica.machine("m-1", mac(1))
        second = await replica.template()
        told = await stream.take(2)

    assert stream.response.headers["content-type"].startswith("text/event-stream")
    assert (greeting.event, greeting.data["replica"]) == ("ping", "a")
    assert greeting.id == greeting.data["revision"]
    assert greeting.retry is not None
    assert [event.brief for event in told] == [
        ("created", "m-1", first["metadata"]["revision"]),
        ("created", "ubuntu", second["metadata"]["revision"]),
    ]
    assert told[0].data["object"] == await replica.get("/api/v1/machines/m-1")


async def test_an_object_is_told_as_a_get_shows_it_at_that_revision(replica: Replica, url: str) -> None:
    await replica.template()
    async with Stream(url, kind="Machine") as stream:
        await stream.next()
        await replica.machine("m-1", mac(1))
        await replica.provision("m-1")
        created, provisioning = await stream.take(2)

    assert created.data["object"]["status"]["phase"] == "Available"
    assert provisioning.event == "updated"
    assert provisioning.data["object"] == await replica.get("/api/v1/machines/m-1")


async def test_what_one_transaction_changes_has_one_id_at_its_end(replica: Replica, url: str) -> None:
    await replica.template()
    await replica.machine("m-1", mac(1))
    async with Stream(url) as stream:
        await stream.next()
        provision = await replica.provision("m-1")
        told = await stream.take(2)

    name, revision = provision["metadata"]["name"], provision["metadata"]["revision"]
    assert [event.brief for event in told] == [("updated", "m-1", None), ("created", name, revision)]


@pytest.mark.parametrize("by", ["last_event_id", "since"])
async def test_a_stream_goes_on_at_another_replica_where_it_was_cut(world: World, by: str) -> None:
    a = world.replica("a")
    first = (await a.machine("m-1", mac(1)))["metadata"]["revision"]
    await a.machine("m-2", mac(2))
    b = world.replica("b")  # came later, and has to ask etcd
    async with served(b) as url, Stream(url, **{by: first}) as stream:
        greeting, missed = await stream.take(2)
        await a.machine("m-3", mac(3))
        later = await stream.next()

    assert greeting.id == first
    assert [event.data["name"] for event in (missed, later)] == ["m-2", "m-3"]


async def test_a_stream_that_may_lack_changes_says_so(replica: Replica, url: str) -> None:
    replica.streams.heartbeat = 0.05
    async with Stream(url) as stream:
        greeting = await stream.next()
        replica.mirror.mark_stale(replica.clock.seconds)
        replica.clock.seconds += 7
        ping = await stream.next()

    assert (ping.event, ping.id, ping.data["stale"]) == ("ping", greeting.id, 7.0)


async def test_who_comes_back_learns_at_once_how_far_it_is_though_nothing_concerned_it(
    replica: Replica, url: str
) -> None:
    await replica.machine("m-1", mac(1))
    async with Stream(url, name="nobody", since=1) as stream:
        greeting, ping = await stream.take(2)

    assert (greeting.id, ping.id) == (1, replica.mirror.revision)


async def test_the_header_wins_over_the_address_that_a_browser_repeats(replica: Replica, url: str) -> None:
    await replica.machine("m-1", mac(1))
    second = await replica.machine("m-2", mac(2))
    async with Stream(url, since=1, snapshot="true", last_event_id=second["metadata"]["revision"]) as stream:
        greeting = await stream.next()

    assert greeting.id == second["metadata"]["revision"]
    assert "snapshot" not in greeting.data


async def test_a_snapshot_is_the_state_and_then_comes_what_follows(replica: Replica, url: str) -> None:
    for number in range(3):
        await replica.machine(f"m-{number}", mac(number))
    revision = replica.mirror.revision
    async with Stream(url, snapshot="true") as stream:
        begins, *objects, complete = await stream.take(5)
        await replica.machine("m-3", mac(3))
        later = await stream.next()

    assert (begins.data["snapshot"], begins.id) == ("begins", None)
    assert [event.brief for event in objects] == [("created", f"m-{number}", None) for number in range(3)]
    assert {event.data["revision"] for event in objects} == {revision}
    assert (complete.event, complete.data["snapshot"], complete.id) == ("ping", "complete", revision)
    assert later.brief == ("created", "m-3", replica.mirror.revision)


async def test_what_leaves_the_view_is_deleted_there(replica: Replica, url: str) -> None:
    await replica.template()
    await replica.machine("m-1", mac(1), metadata={"labels": {"site": "fra"}})
    async with Stream(url, phase="Available", labelSelector="site=fra") as stream:
        await stream.next()
        await replica.provision("m-1")
        told = await stream.next()

    assert told.event == "deleted"
    assert told.data["object"]["status"]["phase"] == "Available", "nothing of what it is now"


@pytest.mark.parametrize("position", ["-1", "twelve", "1.5", "9" * 20, "1 OR 1"])
@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_position_that_is_no_revision_is_refused(replica: Replica, position: str, by: str) -> None:
    headers = ACCEPT | ({"Last-Event-ID": position} if by == "header" else {})
    query = {"since": position} if by == "query" else {}

    problem = problem_of(await replica.http.get(EVENTS, headers=headers, params=query), 400, "malformed")

    assert "must be a revision" in problem["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"kind": "Replica"}, "?kind"),
        ({"labelSelector": "a=b=c"}, "?labelSelector"),
        ({"snapshot": "yes"}, "?snapshot"),
        ({"limit": "0"}, "?limit"),
        ({"limit": "1001"}, "?limit"),
        ({"limit": "000001000000"}, "?limit"),
        ({"colour": "red"}, "?colour"),
    ],
)
async def test_a_filter_that_cannot_be_is_refused(replica: Replica, query: dict[str, str], field: str) -> None:
    problem = problem_of(await replica.http.get(EVENTS, headers=ACCEPT, params=query), 422, "invalid")

    assert fields_of(problem) == [field]


async def test_a_revision_of_the_future_is_waited_for(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    b.watch.hold()
    revision = (await a.machine("m-1", mac(1)))["metadata"]["revision"]
    async with served(b) as url:
        asking = asyncio.create_task(Stream(url, since=revision).__aenter__())
        await until(lambda: bool(b.mirror._waiters))
        b.watch.go_on()
        stream = await asking
        greeting = await stream.next()
        await stream.__aexit__()

    assert (greeting.event, greeting.id) == ("ping", revision)


@pytest.mark.parametrize("snapshot", [True, False])
async def test_a_position_that_cannot_be_resumed_is_reset(
    replica: Replica, url: str, monkeypatch: pytest.MonkeyPatch, snapshot: bool
) -> None:
    monkeypatch.setattr(routes_events, "ARRIVAL", timedelta(seconds=0.05))
    await replica.machine("m-1", mac(1))
    future = replica.mirror.revision + 5
    async with Stream(url, snapshot=str(snapshot).lower(), since=future) as stream:
        reset, second = await stream.take(2)

    assert (reset.event, reset.data["reason"]) == ("reset", "future")
    assert reset.data["revision"] == replica.mirror.revision
    assert reset.id == (None if snapshot else replica.mirror.revision), "a snapshot that is cut is begun anew"
    assert second.data.get("snapshot") == ("begins" if snapshot else None)


async def test_what_etcd_has_forgotten_is_reset(world: World) -> None:
    a = world.replica("a")
    await a.machine("m-1", mac(1))
    await a.machine("m-2", mac(2))
    await world.store.compact(world.store.revision)
    b = world.replica("b")
    async with served(b) as url, Stream(url, since=1) as stream:
        reset = await stream.next()

    assert (reset.data["reason"], reset.id) == ("compacted", world.store.revision)


async def test_the_revisions_of_another_etcd_are_reset(world: World) -> None:
    replica = world.replica("a", etcd_id=lambda: "cafe")
    async with served(replica) as url:
        async with Stream(url) as stream:
            greeting = await stream.next()
        async with Stream(url, since=greeting.id, etcd="beef") as stream:
            reset = await stream.next()
        async with Stream(url, since=greeting.id, etcd=greeting.data["etcd"]) as stream:
            resumed = await stream.next()

    assert (reset.event, reset.data["reason"]) == ("reset", "other-etcd")
    assert resumed.event == "ping"


async def test_a_quiet_stream_says_now_and_then_how_far_it_is(replica: Replica, url: str) -> None:
    replica.streams.heartbeat = 0.05
    async with Stream(url, name="nobody") as stream:
        greeting = await stream.next()
        await replica.machine("m-1", mac(1))
        replica.clock.seconds += 1
        ping = await stream.next()
        assert (ping.event, ping.id) == ("ping", replica.mirror.revision)
        assert greeting.id is not None
        assert ping.id is not None
        assert ping.id > greeting.id
        replica.clock.seconds += 1
        assert await stream.line() == ":", "nothing new to tell"


async def test_a_client_that_falls_too_far_behind_is_ended_with_a_place_to_resume(world: World) -> None:
    replica = world.replica()
    replica.feed.history._most_bytes = 5_000
    async with served(replica) as url, Stream(url) as slow:
        await slow.next()
        for number in range(40):
            await replica.machine(f"m-{number}", mac(number), userData="x" * 60_000)
        told = await slow.rest()
        async with Stream(url, since=told[-1].id) as again:
            _greeting, *rest = await again.take(1 + 40 - len(told))

    assert len(told) < 40, "what was dropped was not told"
    assert [event.data["name"] for event in (*told, *rest)] == [f"m-{number}" for number in range(40)]


async def test_a_coalesced_stream_leaves_out_what_is_superseded(replica: Replica, url: str) -> None:
    await replica.machine("m-1", mac(1))
    async with Stream(url, coalesce="true") as stream:
        await stream.next()
        revision = replica.mirror.revision
        for number in range(5):
            current = await replica.get("/api/v1/machines/m-1")
            current["metadata"]["labels"] = {"number": str(number)}
            etag = {"If-Match": f'"{current["metadata"]["revision"]}"'}
            # Not a moment for anybody else between these.
            await replica.http.put("/api/v1/machines/m-1", json=current, headers=etag)
        labels: list[str] = []
        while not labels or labels[-1] != "4":
            labels.append((await stream.next()).data["object"]["metadata"]["labels"]["number"])

    assert replica.mirror.revision == revision + 5
    assert labels == sorted(labels)


async def test_a_replica_that_shuts_down_says_where_to_go_on(replica: Replica, url: str) -> None:
    async with Stream(url) as stream:
        await stream.next()
        created = await replica.machine("m-1", mac(1))
        await stream.next()
        replica.feed.close()
        *_, last = await stream.rest()

    assert (last.event, last.id) == ("ping", created["metadata"]["revision"])
    assert last.retry is not None
    refused = await replica.http.get(EVENTS, headers=ACCEPT)
    problem_of(refused, 503, "draining")
    assert int(refused.headers["retry-after"]) > 0


async def test_a_token_that_is_no_longer_good_ends_its_streams(
    replica: Replica, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.streams.heartbeat = 0.05
    async with Stream(url) as stream:
        await stream.next()
        monkeypatch.setattr(type(replica.context.access), "authenticate", lambda *_: None)
        replica.clock.seconds += 1
        assert await stream.rest() == []


@pytest.mark.parametrize("why", ["refused", "behind", "behind, then refused"])
async def test_who_reads_a_snapshot_slowly_keeps_nothing_alive_and_is_told_nothing_that_is_not_so(
    replica: Replica, url: str, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Ended in the middle, a snapshot is not said to be complete; left behind, it may be and has a place to resume."""
    replica.feed.history._most_bytes = 5_000
    for number in range(10):
        await replica.machine(f"m-{number}", mac(number), userData="x" * 60_000)
    sent, go_on, send = asyncio.Event(), asyncio.Event(), EventStream._send

    async def slowly(stream: EventStream, data: bytes) -> None:
        await send(stream, data)
        if b"event: created" in data:
            sent.set()
            await go_on.wait()

    monkeypatch.setattr(EventStream, "_send", slowly)
    async with Stream(url, snapshot="true") as stream, asyncio.timeout(PATIENCE):
        await sent.wait()
        (one,) = replica.streams._open
        turned_away = replica.clock.monotonic() + replica.streams.heartbeat
        if why == "refused":
            monkeypatch.setattr(one, "_welcome", lambda: False)
            one.look(turned_away)
        for number in range(10, 20):
            await replica.machine(f"m-{number}", mac(number), userData="x" * 60_000)
        one.look(replica.clock.monotonic())
        assert one._subscription is not None
        assert one._subscription._cursor.node is replica.feed.history.last
        if why == "behind, then refused":
            monkeypatch.setattr(one, "_welcome", lambda: False)
            one.look(turned_away)
        go_on.set()
        told = await stream.rest()

    assert one._ended == why.rpartition(" ")[2]
    names = [event.data["name"] for event in told if event.event == "created"]
    assert (len(names) == 10, told[-1].data.get("snapshot") == "complete") == (why == "behind", why == "behind")
    assert len([event for event in told if event.id is not None]) == (why == "behind")


async def test_there_are_no_more_streams_than_fit(replica: Replica, url: str) -> None:
    replica.streams.limit = 1
    async with Stream(url) as first:
        await first.next()
        refused = await replica.http.get(EVENTS, headers=ACCEPT)
        problem_of(refused, 503, "too-many-streams")
        assert int(refused.headers["retry-after"]) > 0
    await until(lambda: not replica.streams.full)
    async with Stream(url) as second:
        assert (await second.next()).event == "ping"


async def test_who_still_waits_for_its_position_has_its_place_already(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = world.replica("a"), world.replica("b")
    b.streams.limit = 1
    b.watch.hold()
    revision = (await a.machine("m-1", mac(1)))["metadata"]["revision"]
    async with served(b) as url, asyncio.timeout(PATIENCE):
        asking = asyncio.create_task(Stream(url, since=revision).__aenter__())
        await until(lambda: bool(b.mirror._waiters))
        refused = await b.http.get(EVENTS, headers=ACCEPT, params={"since": revision})
        problem_of(refused, 503, "too-many-streams")
        b.watch.go_on()
        stream = await asking
        assert (await stream.next()).id == revision
        await stream.__aexit__()
        await until(lambda: not b.streams.full)

    async def unavailable(*_: object, **__: object) -> None:
        raise Unavailable("etcd does not say")

    monkeypatch.setattr(a.feed, "resume", unavailable)
    problem_of(await a.http.get(EVENTS, headers=ACCEPT, params={"since": 1}), 503, "store-unavailable")
    assert a.streams._places == 0


async def test_a_stream_that_was_left_leaves_nothing(replica: Replica, url: str) -> None:
    async with Stream(url) as stream:
        await stream.next()
        assert replica.feed.subscriptions == 1

    await until(lambda: replica.feed.subscriptions == 0)
    metrics = (await replica.http.get("/metrics")).text
    assert "dragonfly_feed_streams 0.0" in metrics
    assert 'dragonfly_feed_streams_ended_total{reason="left"} 1.0' in metrics


async def test_pages_follow_each_other_without_gap_or_duplicate(replica: Replica) -> None:
    start = (await replica.get(EVENTS))["revision"]
    await replica.template()
    for number in range(4):
        await replica.machine(f"m-{number}", mac(number))
    await replica.provision("m-0")

    names: list[str] = []
    position, more = start, True
    while more:
        page = await replica.get(EVENTS, since=position, limit=2)
        assert page["kind"] == "EventPage"
        names += [item["name"] for item in page["items"]]
        position, more = page["revision"], page["more"]

    assert names[:6] == ["ubuntu", "m-0", "m-1", "m-2", "m-3", "m-0"]
    assert len(names) == 7
    assert position == replica.mirror.revision


async def test_a_page_after_what_is_forgotten_is_gone(world: World) -> None:
    a = world.replica("a")
    await a.machine("m-1", mac(1))
    await world.store.compact(world.store.revision)
    b = world.replica("b")

    problem = problem_of(await b.http.get(EVENTS, params={"since": 1}), 410, "position-lost")

    assert problem["currentRevision"] == world.store.revision


async def test_a_snapshot_is_no_page(replica: Replica) -> None:
    problem_of(await replica.http.get(EVENTS, params={"snapshot": "true"}), 422, "invalid")


async def test_pages_and_lists_wait_for_the_revision_that_they_must_show(world: World) -> None:
    """P9."""
    a, b = world.replica("a"), world.replica("b")
    start = a.mirror.revision
    b.watch.hold()
    revision = (await a.machine("m-1", mac(1)))["metadata"]["revision"]
    asked = [
        asyncio.create_task(b.http.get(EVENTS, params={"since": start, "minRevision": revision})),
        asyncio.create_task(b.http.get("/api/v1/machines", params={"minRevision": revision})),
    ]
    await until(lambda: len(b.mirror._waiters) == 2)
    b.watch.go_on()

    events, machines = [answer_of(await task, 200) for task in asked]

    assert [item["name"] for item in events["items"]] == ["m-1"]
    assert [item["metadata"]["name"] for item in machines["items"]] == ["m-1"]
