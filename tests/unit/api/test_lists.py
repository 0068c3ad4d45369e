"""Lists: what is on them, in which order, page by page."""

from typing import Any

import pytest

from dragonfly.model.swarm import Claim
from dragonfly.store import keys, records
from dragonfly.store.values import Put
from tests.unit.api.replicas import Replica, World, fields_of, mac, machine_document, problem_of

MACHINES = "/api/v1/machines"


@pytest.fixture
async def fleet(replica: Replica) -> Replica:
    """Twelve machines: m-00 … m-11, in two racks, of two kinds, every third locked out for maintenance."""
    for number in range(12):
        metadata = {
            "labels": {"rack": f"r{number % 2}", **({"edge": ""} if number < 4 else {})},
            "tags": ["fast", "big"] if number % 3 == 0 else ["fast"],
        }
        document = machine_document(f"m-{number:02d}", mac(number), metadata=metadata, hostname=f"Host{number}.example")
        replica.clock.seconds -= 1  # the later, the older: names and times are in opposite order
        await replica.post(MACHINES, document, 201)
    await replica.template()
    await replica.provision("m-05")
    return replica


async def names(replica: Replica, **query: Any) -> list[str]:
    return [item["metadata"]["name"] for item in (await replica.get(MACHINES, **query))["items"]]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("rack=r0", {0, 2, 4, 6, 8, 10}),
        ("rack==r0,edge", {0, 2}),
        ("rack!=r0", {1, 3, 5, 7, 9, 11}),
        ("rack in (r0, r1),!edge", set(range(4, 12))),
        ("edge notin (a,b)", set(range(12))),
        ("none!=x", set(range(12))),
        ("none", set()),
        ("edge=", {0, 1, 2, 3}),
    ],
)
async def test_label_selectors_are_those_of_kubernetes(fleet: Replica, selector: str, expected: set[int]) -> None:
    assert await names(fleet, labelSelector=selector) == [f"m-{number:02d}" for number in sorted(expected)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"tag": "big"}, {0, 3, 6, 9}),
        ({"tag": ["big", "fast"]}, {0, 3, 6, 9}),
        ({"phase": "Provisioning"}, {5}),
        ({"phase": ["Provisioning", "Failed"]}, {5}),
        ({"cluster": "local", "tag": "big", "labelSelector": "rack=r0"}, {0, 6}),
        ({"cluster": "mars"}, set()),
        ({"q": "HOST3.example"}, {3}),
        ({"q": "rack=r1 big"}, {3, 9}),
        ({"q": mac(7).upper()}, {7}),
        ({"q": "provisioning"}, {5}),
    ],
)
async def test_filters_narrow_and_combine(fleet: Replica, query: dict[str, Any], expected: set[int]) -> None:
    assert await names(fleet, **query) == [f"m-{number:02d}" for number in sorted(expected)]


async def test_a_list_is_in_the_order_asked_for(fleet: Replica) -> None:
    by_name = await names(fleet)

    assert by_name == sorted(by_name)
    assert await names(fleet, sort="-name") == by_name[::-1]
    assert await names(fleet, sort="createdAt") == by_name[::-1]
    assert (await names(fleet, sort="phase"))[-1] == "m-05"
    assert (await names(fleet, sort="-phase"))[0] == "m-05"


@pytest.mark.parametrize("sort", ["name", "-name", "phase", "-phase", "createdAt", "-updatedAt"])
@pytest.mark.parametrize("limit", [1, 5, 12])
async def test_pages_hold_each_machine_once(fleet: Replica, sort: str, limit: int) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"sort": sort, "limit": limit}
    while True:
        page = await fleet.get(MACHINES, **query)
        assert page["total"] == 12
        assert len(page["items"]) <= limit
        seen += [item["metadata"]["name"] for item in page["items"]]
        if "cursor" not in page:
            break
        query["cursor"] = page["cursor"]

    assert seen == await names(fleet, sort=sort)


async def test_what_comes_and_goes_between_pages_moves_nothing_else(fleet: Replica) -> None:
    first = await fleet.get(MACHINES, limit=4)
    for gone in ("m-02", "m-05"):
        headers = {"If-Match": "*"}
        assert (await fleet.http.delete(f"{MACHINES}/{gone}?force=true", headers=headers)).status_code == 204
    await fleet.machine("m-005", mac(99))
    await fleet.machine("m-999", mac(98))

    rest = await fleet.get(MACHINES, limit=100, cursor=first["cursor"])

    numbers = [4, 6, 7, 8, 9, 10, 11]
    assert [item["metadata"]["name"] for item in rest["items"]] == [*(f"m-{n:02d}" for n in numbers), "m-999"]


async def test_a_cursor_belongs_to_its_list(fleet: Replica) -> None:
    cursor = (await fleet.get(MACHINES, limit=4, tag="fast"))["cursor"]

    other = await fleet.http.get(MACHINES, params={"cursor": cursor, "tag": "big"})

    assert fields_of(problem_of(other, 422, "invalid")) == ["?cursor"]
    assert len(await names(fleet, cursor=cursor, tag="fast", limit=2)) == 2


async def test_a_cursor_waits_for_its_revision_on_another_replica(
    world: World, fleet: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = world.replica("b")
    behind.watch.hold()
    await fleet.machine("m-12", mac(12))
    cursor = (await fleet.get(MACHINES, limit=4))["cursor"]

    async def never(_revision: int, _timeout: float) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(behind.mirror, "wait_for", never)
        response = await behind.http.get(MACHINES, params={"cursor": cursor, "limit": 100})
        problem_of(response, 504, "revision-not-reached")
    behind.watch.go_on()

    assert (await names(behind, cursor=cursor, limit=100))[-1] == "m-12"


async def test_fields_show_what_was_asked_for(fleet: Replica) -> None:
    page = await fleet.get(MACHINES, fields="metadata.name,status.phase,metadata.labels.edge,none.at.all", limit=1)

    assert page["items"] == [{"metadata": {"name": "m-00", "labels": {"edge": ""}}, "status": {"phase": "Available"}}]


async def test_a_list_reflects_every_change_of_what_it_shows(world: World) -> None:
    owner = {"name": ""}
    replica = world.replica(owner_of=lambda _cluster, _machine: owner["name"])
    await replica.machine("m-1", mac(1))
    await replica.template()

    async def status() -> dict[str, Any]:
        found: dict[str, Any] = (await replica.get(MACHINES))["items"][0]["status"]
        return found

    assert (await status())["phase"] == "Available"
    name = (await replica.provision("m-1"))["metadata"]["name"]
    assert (await status())["activeProvision"]["name"] == name
    await replica.post(f"/api/v1/provisions/{name}/cancel", {}, 202)
    assert (await status())["phase"] == "Available"
    owner["name"] = "b"
    await world.store.commit(Put(keys.claim("local", 0), records.encode(Claim(owner="b"))))
    assert (await status())["owner"] == "b"
    await world.store.commit(Put(keys.observed("m-1"), b'{"power":"on"}'))
    assert (await status())["power"] == "on"


async def test_an_empty_list_says_so(replica: Replica) -> None:
    for kind in ("machines", "templates", "provisions"):
        page = await replica.get(f"/api/v1/{kind}")
        assert page == {"kind": f"{kind[:-1].title()}List", "revision": 1, "total": 0, "items": []}


async def test_a_list_is_in_answers_of_head_too(fleet: Replica) -> None:
    response = await fleet.http.head(MACHINES)

    assert response.status_code == 200
    assert response.headers["dragonfly-revision"] == str(fleet.store.revision)
