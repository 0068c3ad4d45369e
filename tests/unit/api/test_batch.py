"""Batches: many changes in one request, each with its own result."""

from typing import Any

from dragonfly.store import keys
from tests.unit.api.replicas import Replica, answer_of, mac, machine_document, problem_of

BATCH = "/api/v1/machines:batch"


async def batch(replica: Replica, *operations: Any, **headers: str) -> list[dict[str, Any]]:
    answer = answer_of(await replica.http.post(BATCH, json={"operations": operations}, headers=headers), 200)
    assert answer["kind"] == "BatchResult"
    results: list[dict[str, Any]] = answer["results"]
    return results


def create(number: int, **spec: Any) -> dict[str, Any]:
    return {"op": "create", "body": machine_document(f"m-{number}", mac(number), **spec)}


async def test_every_operation_of_a_machine_can_be_part_of_a_batch(replica: Replica) -> None:
    await replica.template()
    created = (await batch(replica, create(1, bmc={"host": "10.0.1.1"})))[0]
    assert (created["status"], created["location"]) == (201, "/api/v1/machines/m-1")
    revision = created["body"]["metadata"]["revision"]
    assert await replica.get("/api/v1/machines/m-1") == created["body"]
    document = machine_document("m-1", mac(1), bmc={"host": "10.0.1.1"})

    results = await batch(
        replica,
        {"op": "replace", "name": "m-1", "ifMatch": revision, "body": {**document, "metadata": {"tags": ["a"]}}},
        {"op": "patch", "name": "m-1", "ifMatch": "*", "body": {"metadata": {"tags": ["b"]}}},
        {"op": "provision", "name": "m-1", "body": {"template": "ubuntu"}},
        {"op": "cancel", "name": "m-1"},
        {"op": "power", "name": "m-1", "body": {"action": "on"}},
        {"op": "lock", "name": "m-1", "body": {"reason": "disk"}},
        {"op": "unlock", "name": "m-1"},
    )

    assert [result["status"] for result in results] == [200, 200, 202, 202, 202, 200, 200]
    assert [result["body"]["kind"] for result in results] == ["Machine"] * 2 + ["Provision"] * 2 + [
        "PowerAction",
        "Machine",
        "Machine",
    ]
    assert results[1]["body"]["metadata"]["tags"] == ["b"]
    assert results[3]["body"]["status"]["phase"] == "Cancelled"


async def test_what_fails_harms_nothing_else_and_results_keep_their_order(replica: Replica) -> None:
    await replica.machine("m-9", mac(9))

    results = await batch(
        replica,
        create(1),
        create(9),
        {"op": "delete", "name": "m-9", "ifMatch": 1},
        {"op": "explode"},
        {"op": "lock", "name": "m-9", "body": {}},
        {"op": "cancel", "name": "m-9"},
        {"op": "delete", "name": "No Name", "ifMatch": "*"},
        "nothing",
        {"op": "delete", "name": "m-9", "ifMatch": "*"},
        create(2),
    )

    assert [result["status"] for result in results] == [201, 409, 412, 422, 422, 409, 404, 422, 202, 201]
    kinds = [result["problem"]["type"].removeprefix("/problems/") for result in results if "problem" in result]
    assert kinds == [
        "already-exists",
        "revision-mismatch",
        "invalid",
        "invalid",
        "not-provisioning",
        "not-found",
        "invalid",
    ]
    assert results[4]["problem"]["errors"][0]["field"] == "body.reason"
    assert results[2]["problem"]["currentRevision"] > 1


async def test_what_concerns_one_machine_is_done_in_order(replica: Replica) -> None:
    await replica.template()

    results = await batch(replica, create(1), {"op": "provision", "name": "m-1", "body": {"template": "ubuntu"}})

    assert [result["status"] for result in results] == [201, 202]


async def test_a_batch_that_is_sent_again_repeats_nothing(replica: Replica) -> None:
    await replica.template()
    operations = (
        create(1),
        {"op": "patch", "name": "m-1", "ifMatch": "*", "body": {"metadata": {"tags": ["b"]}}},
        {"op": "provision", "name": "m-1", "body": {"template": "ubuntu"}},
    )
    first = await batch(replica, *operations, **{"Idempotency-Key": "k"})
    written = replica.store.revision

    again = await batch(replica, *operations, **{"Idempotency-Key": "k"})

    assert again == first
    assert replica.store.revision == written
    [other] = await batch(replica, create(2), **{"Idempotency-Key": "k"})
    assert other["problem"]["type"] == "/problems/idempotency-key-reused"
    assert keys.machine("m-2") not in replica.store.items()


async def test_a_thousand_operations_and_a_body_of_several_megabytes_pass(replica: Replica) -> None:
    results = await batch(replica, *(create(number, userData="x" * 3000) for number in range(1000)))

    assert {result["status"] for result in results} == {201}
    assert [result["body"]["metadata"]["name"] for result in results] == [f"m-{number}" for number in range(1000)]
    assert (await replica.get("/api/v1/machines", limit=1))["total"] == 1000


async def test_too_many_operations_and_too_large_a_body_change_nothing(replica: Replica) -> None:
    many = await replica.http.post(BATCH, json={"operations": [create(number) for number in range(1001)]})
    large = await replica.http.post(BATCH, json={"operations": [create(1, userData="x" * 8 * 1024**2)]})

    assert problem_of(many, 422, "invalid")["errors"][0]["field"] == "operations"
    assert "8 MiB" in problem_of(large, 413, "body-too-large")["detail"]
    assert keys.machine("m-1") not in replica.store.items()
