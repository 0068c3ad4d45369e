"""What a client may see is decided by who it is: the feed tells it of nothing else, whatever it asks for."""

from typing import Any, NamedTuple

import pytest

from dragonfly.api.access import Identity
from dragonfly.feed.shown import Shown
from dragonfly.feed.view import everything
from tests.unit.api.replicas import TOKEN, Replica, World, mac
from tests.unit.api.streaming import Stream, served


class OfSite(NamedTuple):
    """Sees the objects of one site; equal for the same site."""

    site: str

    def __call__(self, shown: Shown) -> bool:
        return shown.labels.get("site") == self.site


class Team:
    """The one token is an administrator's until somebody says otherwise."""

    def __init__(self) -> None:
        self.may_see: Any = everything

    def authenticate(self, token: str) -> Identity | None:
        return Identity("team", self.may_see) if token == TOKEN else None


@pytest.fixture
def team() -> Team:
    return Team()


@pytest.fixture
async def replica(world: World, team: Team) -> Replica:
    replica = world.replica("a", access=team)
    for number, site in enumerate(("fra", "ams")):
        await replica.machine(f"m-{number}", mac(number))
        await labelled(replica, f"m-{number}", site)
    return replica


async def labelled(replica: Replica, name: str, site: str) -> None:
    machine = await replica.get(f"/api/v1/machines/{name}")
    machine["metadata"]["labels"] = {"site": site}
    headers = {"If-Match": f'"{machine["metadata"]["revision"]}"'}
    assert (await replica.http.put(f"/api/v1/machines/{name}", json=machine, headers=headers)).status_code == 200


async def test_an_object_that_leaves_the_sight_of_a_client_is_deleted_as_it_was_last_seen(
    replica: Replica, team: Team
) -> None:
    team.may_see = OfSite("fra")
    async with served(replica) as url, Stream(url, snapshot="true", kind="Machine") as stream:
        told = await stream.take(3)
        await labelled(replica, "m-1", "lon")
        await labelled(replica, "m-0", "ams")
        await labelled(replica, "m-1", "fra")
        told += await stream.take(2)

    assert [(event.event, event.data.get("name")) for event in told] == [
        ("ping", None),
        ("created", "m-0"),
        ("ping", None),
        ("deleted", "m-0"),
        ("created", "m-1"),
    ]
    assert told[3].data["object"]["metadata"]["labels"] == {"site": "fra"}


async def test_a_page_tells_no_more_than_a_stream(replica: Replica, team: Team) -> None:
    team.may_see = OfSite("fra")
    await labelled(replica, "m-1", "lon")
    page = await replica.get("/api/v1/events", since=1)

    assert {item["name"] for item in page["items"]} == {"m-0"}


async def test_who_may_see_the_same_shares_the_work(replica: Replica, team: Team) -> None:
    async with served(replica) as url, Stream(url) as everyone:
        await everyone.next()
        team.may_see = OfSite("fra")
        async with Stream(url) as first:
            await first.next()
            team.may_see = OfSite("fra")
            async with Stream(url) as second:
                await second.next()
                assert (replica.feed.subscriptions, len(replica.feed._channels)) == (3, 2)


async def test_who_may_see_something_else_from_now_on_connects_anew(replica: Replica, team: Team) -> None:
    replica.streams.heartbeat = 0.05
    async with served(replica) as url, Stream(url) as stream:
        await stream.next()
        team.may_see = OfSite("fra")
        replica.clock.seconds += 1
        assert await stream.rest() == []
