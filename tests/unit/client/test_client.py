"""The client against a real replica of the API on a socket."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.client import ApiError, AsyncClient, Client, Event, Unreachable
from dragonfly.client.stream import Follower, Parser
from tests.contract.proxy import Proxy
from tests.unit.api.replicas import TOKEN, Replica, World, mac, machine_document, template_document
from tests.unit.api.streaming import PATIENCE, served, until


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = World().replica()
    yield replica
    await replica.http.aclose()


@pytest.fixture
async def url(replica: Replica) -> AsyncIterator[str]:
    async with served(replica) as address:
        yield address


async def test_it_reads_and_writes(url: str) -> None:
    async with AsyncClient(url, TOKEN) as client:
        created = await client.create("Machine", machine_document("m-1", mac(1)))
        await client.create("template", template_document())
        created["metadata"]["labels"] = {"site": "fra"}
        replaced = await client.replace("Machine", created)
        provision = await client.provision("m-1", "ubuntu", reason="because")
        names = [item["metadata"]["name"] async for item in client.list("machines", labelSelector="site=fra")]
        with pytest.raises(ApiError) as changed:
            await client.replace("Machine", created)
        cancelled = await client.cancel(provision["metadata"]["name"])
        await client.delete("Template", "ubuntu")
        with pytest.raises(ApiError) as missing:
            await client.get("Template", "ubuntu")

    assert names == ["m-1"]
    assert replaced["metadata"]["labels"] == {"site": "fra"}
    assert (changed.value.status, changed.value.type) == (412, "revision-mismatch")
    assert missing.value.status == 404
    assert cancelled["status"]["phase"] == "Cancelled"


async def test_the_synchronous_one_does_the_same(url: str) -> None:
    def work() -> list[str]:
        with Client(url, TOKEN) as client:
            client.create("Machine", machine_document("m-1", mac(1)))
            document = client.get("Machine", "m-1")
            document["metadata"]["tags"] = ["gpu"]
            client.replace("Machine", document)
            found = client.watch("Machine", tag="gpu")
            seen = [next(found), next(found)]
            client.delete("Machine", "m-1", revision=seen[1].object["metadata"]["revision"])
            return [f"{event.type} {event.name}" for event in (*seen, next(found))]

    assert await asyncio.to_thread(work) == ["reset snapshot", "created m-1", "updated m-1"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower connects anew without a pause."""
    monkeypatch.setattr(Follower, "pause", lambda _self: 0.0)


@pytest.mark.usefixtures("at_once")
async def test_it_follows_changes_over_broken_connections(replica: Replica, url: str) -> None:
    async with AsyncClient(url, TOKEN) as client, asyncio.timeout(PATIENCE):
        follower = Follower({}, since=replica.mirror.revision)
        found: list[str] = []
        revisions = client.revisions(follower)
        for number in range(5):
            await replica.machine(f"m-{number}", mac(number))
            found += [event.name for event in await anext(revisions)]
            for stream in tuple(replica.streams._open):
                stream._abort()
        await revisions.aclose()  # type: ignore[attr-defined]  # it is a generator

    assert found == [f"m-{number}" for number in range(5)]
    assert follower.position == replica.mirror.revision


@pytest.mark.usefixtures("at_once")
async def test_so_does_the_synchronous_one(replica: Replica, url: str) -> None:
    found: list[str] = []

    def follow(since: int) -> None:
        with Client(url, TOKEN) as client:
            for event in client.events(since=since):
                found.append(event.name)
                if len(found) == 5:
                    return

    following = asyncio.create_task(asyncio.to_thread(follow, replica.mirror.revision))
    for number in range(5):
        await replica.machine(f"m-{number}", mac(number))
        await until(lambda many=number: len(found) > many)  # type: ignore[misc] # mypy infers no lambda with a default
        for stream in tuple(replica.streams._open):
            stream._abort()
    await following

    assert found == [f"m-{number}" for number in range(5)]


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(int(url.rpartition(":")[2]))
    yield proxy
    proxy.close()


async def test_a_change_whose_answer_was_lost_is_found_to_be_made(replica: Replica, proxy: Proxy) -> None:
    """The second try is refused, for the first was carried out."""
    await replica.machine("m-1", mac(1))
    await replica.template()
    async with AsyncClient(proxy.url, TOKEN) as client:
        machine, template = await client.get("Machine", "m-1"), await client.get("Template", "ubuntu")
        machine["metadata"]["labels"] = {"site": "fra"}
        proxy.lose_next_answer()
        replaced = await client.replace("Machine", machine)
        assert proxy.lost.is_set()
        seen = await client.get("Machine", "m-1")
        for kind, document in (("Machine", replaced), ("Template", template)):
            proxy.lost.clear()
            proxy.lose_next_answer()
            await client.delete(kind, document["metadata"]["name"], revision=document["metadata"]["revision"])
            assert proxy.lost.is_set()
        left = await client.get("Machine", "m-1")
        with pytest.raises(ApiError) as gone:
            await client.get("Template", "ubuntu")

    assert replaced == seen
    assert replaced["metadata"]["labels"] == {"site": "fra"}
    assert left["status"]["phase"] == "Deleting"
    assert gone.value.status == 404


async def test_the_synchronous_one_finds_it_too(replica: Replica, proxy: Proxy) -> None:
    await replica.template()

    def work() -> dict[str, str]:
        with Client(proxy.url, TOKEN) as client:
            template = client.get("Template", "ubuntu")
            template["metadata"]["labels"] = {"site": "fra"}
            proxy.lose_next_answer()
            replaced = client.replace("Template", template)
            assert proxy.lost.is_set()
            proxy.lost.clear()
            proxy.lose_next_answer()
            client.delete("Template", "ubuntu", revision=replaced["metadata"]["revision"])
            assert proxy.lost.is_set()
            labels: dict[str, str] = replaced["metadata"]["labels"]
            return labels

    assert await asyncio.to_thread(work) == {"site": "fra"}


async def test_somebody_elses_change_after_a_lost_answer_is_not_taken_for_the_own(
    replica: Replica, proxy: Proxy
) -> None:
    made = await replica.machine("m-1", mac(1))
    async with AsyncClient(proxy.url, TOKEN) as client:
        stale = json.loads(json.dumps(made))
        stale["metadata"]["tags"] = ["mine"]
        made["metadata"]["tags"] = ["theirs"]
        await client.replace("Machine", made)
        proxy.lose_next_answer()
        with pytest.raises(ApiError) as changed:
            await client.replace("Machine", stale)
        proxy.lost.clear()
        proxy.lose_next_answer()
        with pytest.raises(ApiError) as kept:
            await client.delete("Machine", "m-1", revision=stale["metadata"]["revision"])

    assert proxy.lost.is_set()
    assert [changed.value.status, kept.value.status] == [412, 412]


@pytest.mark.parametrize("synchronous", [False, True])
async def test_a_snapshot_holds_what_the_client_has_written_whoever_answers(
    synchronous: bool, replica: Replica, proxy: Proxy
) -> None:
    """P9: it is written through one replica and followed through another, which is behind."""
    other = Replica("b", replica.store, itertools.repeat(""))
    other.watch.hold()

    def work(begun: Callable[[], None]) -> list[Event]:
        with Client(proxy.url, TOKEN) as client:
            client.create("Machine", machine_document("m-1", mac(1)))
            begun()
            found = client.watch("Machine")
            return [next(found), next(found)]

    async def work_async(begun: Callable[[], None]) -> list[Event]:
        async with AsyncClient(proxy.url, TOKEN) as client:
            await client.create("Machine", machine_document("m-1", mac(1)))
            begun()
            found = client.watch("Machine")
            return [await anext(found), await anext(found)]

    async with served(other) as elsewhere, asyncio.timeout(PATIENCE):
        begin = partial(proxy.lead_to, int(elsewhere.rpartition(":")[2]))
        waiting = other.mirror.wait_for
        asked = asyncio.Event()

        async def noted(revision: int, timeout: float) -> None:
            asked.set()
            await waiting(revision, timeout)

        other.mirror.wait_for = noted  # type: ignore[method-assign] # stands in for it here
        working = asyncio.create_task(asyncio.to_thread(work, begin) if synchronous else work_async(begin))
        await asked.wait()
        other.watch.go_on()
        reset, created = await working
        await other.http.aclose()

    assert reset.revision == created.revision == replica.store.revision
    assert (reset.name, created.name) == ("snapshot", "m-1")


async def test_nobody_who_answers_is_told_as_such() -> None:
    async with AsyncClient("http://127.0.0.1:9", TOKEN, patience=0.1) as client:
        with pytest.raises(Unreachable):
            await client.get("Machine", "m-1")


async def test_a_wrong_token_is_not_tried_again(url: str) -> None:
    async with AsyncClient(url, "wrong") as client:
        with pytest.raises(ApiError) as refused:
            await anext(client.events())

    assert refused.value.status == 401


def said(follower: Follower, *blocks: str) -> list[Event]:
    return follower.take("".join(block + "\n\n" for block in blocks).encode())


def change(name: str, revision: int, *, last: bool = True) -> str:
    data = f'{{"revision":{revision},"type":"created","kind":"Machine","name":"{name}","object":{{}}}}'
    return f"event: created\ndata: {data}" + (f"\nid: {revision}" if last else "")


def test_half_a_revision_is_not_told_before_the_rest_has_come() -> None:
    follower = Follower({}, since=4)
    follower.request()
    assert said(follower, change("m-1", 5, last=False)) == []

    follower.request()
    told = said(follower, change("m-1", 5, last=False), change("m-2", 5))

    assert [event.name for event in told] == ["m-1", "m-2"]
    assert follower.position == 5


def test_after_a_reset_the_state_comes_before_anything_else() -> None:
    follower = Follower({}, since=4, snapshot=True)
    follower.request()
    reset = 'event: reset\ndata: {"revision":9,"reason":"compacted"}'
    begins = 'event: ping\ndata: {"revision":9,"snapshot":"begins"}\nretry: 200'
    complete = 'event: ping\ndata: {"revision":9,"snapshot":"complete"}\nid: 9'

    told = said(follower, reset, begins, change("m-1", 9, last=False), complete)

    assert [(event.type, event.name) for event in told] == [("reset", "compacted"), ("created", "m-1")]
    assert follower.position == 9


@pytest.fixture(scope="module")
def text() -> bytes:
    return "\n\n".join((":", change("m-1", 5), "event: ping\ndata: {}", change("ü", 6), "")).encode()


@given(st.lists(st.integers(0, 400), max_size=8))
def test_a_stream_may_be_cut_into_any_pieces(text: bytes, cuts: list[int]) -> None:
    whole = list(Parser().take(text))
    places = [0, *sorted(cuts), len(text)]
    parser = Parser()
    pieces = [text[start:end] for start, end in pairwise(places)]

    assert [frame for piece in pieces for frame in parser.take(piece)] == whole
    assert len(whole) == 3
