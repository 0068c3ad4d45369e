"""The client against a real replica of the API on a socket."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.client import ApiError, AsyncClient, Client, Event, Unreachable
from dragonfly.client.stream import Follower, Parser
from tests.unit.api.replicas import TOKEN, Replica, World, mac, machine_document, template_document
from tests.unit.api.streaming import PATIENCE, served


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
