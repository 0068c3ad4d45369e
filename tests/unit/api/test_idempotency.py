"""Idempotency-Key: one effect and one answer, on every replica, for a day."""

import asyncio

import httpx
import msgspec
import pytest

from dragonfly.intent.idempotency import Kept, fingerprint
from dragonfly.store import keys
from tests.unit.api.replicas import SEAL, Replica, World, answer_of, mac, machine_document, problem_of

MACHINES = "/api/v1/machines"
KEY = {"Idempotency-Key": "order-66"}
BMC = {"host": "10.0.0.5", "username": "root", "password": "calvin"}


async def create(replica: Replica, number: int = 1, *, key: str = "order-66") -> httpx.Response:
    return await replica.http.post(
        MACHINES, json=machine_document(f"m-{number}", mac(number)), headers={"Idempotency-Key": key}
    )


def told(response: httpx.Response) -> tuple[int, bytes, str, str, str]:
    headers = response.headers
    return (
        response.status_code,
        response.content,
        headers["location"],
        headers["etag"],
        headers["dragonfly-revision"],
    )


async def test_the_same_request_gets_the_same_answer_on_another_replica(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    answer = await create(first)
    revision = world.store.revision
    await first.http.patch(
        f"{MACHINES}/m-1",
        content=b'{"spec":{"hostname":"later"}}',
        headers={"If-Match": "*", "Content-Type": "application/merge-patch+json"},
    )

    again = await create(second)

    assert answer.status_code == 201
    assert told(again) == told(answer)
    assert world.store.revision == revision + 1, "only the patch"


async def test_a_replica_that_is_behind_gives_the_same_answer(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    second.watch.hold()

    assert told(await create(first)) == told(await create(second))


async def test_a_lost_answer_is_found_by_the_retry(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    world.store.fail("lost answer")
    lost = await create(first)
    assert "Idempotency-Key" in problem_of(lost, 503, "outcome-unknown")["detail"]
    revision = world.store.revision

    again = answer_of(await create(second), 201)

    assert again["metadata"]["revision"] == revision == world.store.revision


async def test_two_retries_at_once_have_one_effect(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    await first.template()
    first.watch.hold()
    second.watch.hold()

    answers = await asyncio.gather(
        *(
            replica.http.post("/api/v1/machines/m-1/provision", json={"template": "ubuntu"}, headers=KEY)
            for replica in (first, second, first, second)
        )
    )

    assert len({told(answer) for answer in answers}) == 1
    assert answers[0].status_code == 202
    assert sum(key.startswith(keys.PROVISIONS) for key in world.store.items()) == 1


async def test_another_request_under_the_same_key_is_refused(replica: Replica) -> None:
    await create(replica)
    before = replica.store.revision

    problem_of(await create(replica, 2), 422, "idempotency-key-reused")
    locking = await replica.http.post(f"{MACHINES}/m-1/lock", json={"reason": "x"}, headers=KEY)
    problem_of(locking, 422, "idempotency-key-reused")

    assert replica.store.revision == before


async def test_a_refused_request_may_succeed_under_the_same_key_later(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    refused = await replica.http.post(f"{MACHINES}/m-1/provision", json={"template": "ubuntu"}, headers=KEY)
    problem_of(refused, 422, "unknown-template")
    await replica.template()

    answer_of(await replica.http.post(f"{MACHINES}/m-1/provision", json={"template": "ubuntu"}, headers=KEY), 202)


async def test_an_answer_is_kept_for_24_hours_and_forgotten_within_25(world: World) -> None:
    replica = world.replica()
    first = answer_of(await create(replica), 201)
    world.store.pass_time(24 * 3600)
    assert answer_of(await create(replica), 201) == first

    world.store.pass_time(3600)

    problem_of(await create(replica), 409, "already-exists")
    assert not [key for key in world.store.items() if key.startswith(keys.IDEMPOTENCY)]


async def test_answers_of_one_hour_share_a_lease(world: World) -> None:
    replica = world.replica()
    for number in range(1, 4):
        await create(replica, number, key=f"k{number}")
    replica.clock.seconds += 3600
    await create(replica, 4, key="k4")

    leases = [item.lease for key, item in sorted(world.store.items().items()) if key.startswith(keys.IDEMPOTENCY)]

    assert leases[0] == leases[1] == leases[2] != leases[3]


async def test_a_lost_lease_is_replaced(world: World) -> None:
    replica = world.replica()
    await create(replica)
    (kept,) = (item for key, item in world.store.items().items() if key.startswith(keys.IDEMPOTENCY))
    world.store.end_lease(kept.lease)

    answer_of(await create(replica, 2), 201)


@pytest.mark.parametrize("key", ["", "a/b", "a b", "x" * 129, "a\tb"])
async def test_a_key_that_cannot_be_one_is_told(replica: Replica, key: str) -> None:
    problem_of(await create(replica, key=key), 400, "malformed")
    assert replica.store.revision == 1


async def test_whoever_reads_etcd_can_not_guess_the_password_of_a_request(world: World) -> None:
    """P11: nothing kept there is a digest that anybody could make of a guess."""
    replica = world.replica()
    answer = await replica.http.post(MACHINES, json=machine_document("m-1", mac(1), bmc=BMC), headers=KEY)
    parts = (b"admin", b"POST", MACHINES.encode(), b"", answer.request.content)

    assert answer.status_code == 201
    assert kept(world) == fingerprint(*parts, sealer=SEAL)
    assert kept(world) != fingerprint(*parts, sealer=None)
    again = await world.replica("b").http.post(MACHINES, content=answer.request.content, headers=answer.request.headers)
    assert told(again) == told(answer)


async def test_without_a_secret_key_a_request_with_a_password_leaves_nothing_behind(world: World) -> None:
    replica = world.replica(sealer=None)

    refused = await replica.http.post(MACHINES, json=machine_document("m-1", mac(1), bmc=BMC), headers=KEY)
    problem_of(refused, 422, "invalid")
    assert not [key for key in world.store.items() if key.startswith(keys.IDEMPOTENCY)]

    assert told(await create(replica)) == told(await create(replica)), "others are told apart without one"


def kept(world: World) -> str:
    (found,) = (item.value for key, item in world.store.items().items() if key.startswith(keys.IDEMPOTENCY))
    return msgspec.json.decode(found, type=Kept).request
