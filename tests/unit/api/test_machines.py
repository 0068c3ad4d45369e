"""Machines over HTTP, from their creation to their end."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from dragonfly.intent.machines import MacHolder, password_place
from dragonfly.model.machine import InstalledOs, Machine, Observed
from dragonfly.model.swarm import Member
from dragonfly.store import keys, records
from dragonfly.store.values import Delete, Put
from tests.unit.api.replicas import (
    ANY,
    MERGE,
    SEAL,
    Replica,
    World,
    answer_of,
    fields_of,
    mac,
    machine_document,
    problem_of,
)

MACHINES = "/api/v1/machines"
BMC = {"host": "10.0.0.5", "username": "root", "password": "calvin-is-secret"}


async def patch(replica: Replica, name: str, change: Any, match: str = "*") -> httpx.Response:
    headers = {"If-Match": match, "Content-Type": MERGE}
    return await replica.http.patch(f"{MACHINES}/{name}", content=json.dumps(change), headers=headers)


def held_macs(replica: Replica) -> dict[str, str]:
    items = replica.store.items().values()
    macs = (item for item in items if item.key.startswith(keys.MACS))
    return {item.key.removeprefix(keys.MACS): json.loads(item.value)["machine"] for item in macs}


def stored(replica: Replica, name: str) -> Machine:
    machine = records.decode(keys.machine(name), replica.store.items()[keys.machine(name)].value)
    assert isinstance(machine, Machine)
    return machine


async def test_a_machine_is_created_read_and_listed(replica: Replica) -> None:
    document = machine_document("m-1", mac(1), metadata={"labels": {"rack": "r1"}, "tags": ["fast"]})

    response = await replica.http.post(MACHINES, json=document)

    created = answer_of(response, 201)
    revision = created["metadata"]["revision"]
    assert response.headers["location"] == f"{MACHINES}/m-1"
    assert response.headers["etag"] == f'"{revision}"'
    assert response.headers["dragonfly-revision"] == str(revision) == str(replica.store.revision)
    assert created["kind"] == "Machine"
    assert created["metadata"]["labels"] == {"rack": "r1"}
    assert created["metadata"]["createdAt"] == "2026-01-01T00:16:40Z"
    assert created["spec"] == {
        "cluster": "local",
        "arch": "x86_64",
        "firmware": "uefi",
        "boot": "none",
        "interfaces": [{"mac": mac(1)}],
    }
    unreached = {"reachable": False}  # there is no member that could reach it
    assert created["status"] == {"phase": "Available", "power": "unknown", "owner": "", "cluster": unreached}
    assert await replica.get(f"{MACHINES}/m-1") == created
    listed = await replica.get(MACHINES)
    assert listed == {"kind": "MachineList", "revision": revision, "total": 1, "items": [created]}
    assert held_macs(replica) == {mac(1): "m-1"}


async def test_a_machine_without_a_name_gets_a_memorable_one(replica: Replica) -> None:
    created = await replica.post(MACHINES, {"spec": {"interfaces": [{"mac": mac(1)}]}}, 201)

    name = created["metadata"]["name"]
    assert name.endswith("-0001")
    assert (await replica.get(f"{MACHINES}/{name}"))["metadata"]["name"] == name


async def test_what_was_read_can_be_sent_back_and_changes_nothing(replica: Replica) -> None:
    created = await replica.machine("m-1", mac(1), bmc={"host": "10.0.0.5"}, boot="netboot")
    revision = replica.store.revision

    response = await replica.http.put(f"{MACHINES}/m-1", json=created, headers=ANY)

    assert answer_of(response, 200) == created
    assert replica.store.revision == revision


async def test_a_replaced_machine_gives_up_its_old_macs_and_takes_the_new(replica: Replica) -> None:
    created = await replica.machine("m-1", mac(1))
    document = {"spec": {"interfaces": [{"mac": mac(2)}, {"mac": mac(3)}]}}

    response = await replica.http.put(
        f"{MACHINES}/m-1", json=document, headers={"If-Match": f'"{created["metadata"]["revision"]}"'}
    )

    assert answer_of(response, 200)["metadata"]["revision"] == replica.store.revision
    assert held_macs(replica) == {mac(2): "m-1", mac(3): "m-1"}
    await replica.machine("m-2", mac(1))
    other = await replica.http.put(f"{MACHINES}/m-2", json={"spec": {"interfaces": [{"mac": mac(3)}]}}, headers=ANY)
    assert fields_of(problem_of(other, 409, "mac-in-use")) == ["spec.interfaces[0].mac"]
    assert held_macs(replica) == {mac(1): "m-2", mac(2): "m-1", mac(3): "m-1"}


async def test_a_patch_merges_and_null_removes(replica: Replica) -> None:
    await replica.post(
        MACHINES, machine_document("m-1", mac(1), metadata={"labels": {"a": "1", "b": "2"}}, hostname="one"), 201
    )

    changed = answer_of(
        await patch(replica, "m-1", {"metadata": {"labels": {"a": None, "c": "3"}}, "spec": {"hostname": None}}), 200
    )

    assert changed["metadata"]["labels"] == {"b": "2", "c": "3"}
    assert "hostname" not in changed["spec"]
    assert changed["spec"]["interfaces"] == [{"mac": mac(1)}]


async def test_of_two_patches_at_any_revision_both_take_effect(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    second.watch.hold()

    await patch(first, "m-1", {"metadata": {"labels": {"a": "1"}}})
    changed = answer_of(await patch(second, "m-1", {"metadata": {"labels": {"b": "2"}}}), 200)

    assert changed["metadata"]["labels"] == {"a": "1", "b": "2"}


async def test_of_two_creates_with_one_mac_on_two_replicas_one_wins(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    first.watch.hold()
    second.watch.hold()

    answers = await asyncio.gather(
        first.http.post(MACHINES, json=machine_document("m-1", mac(1))),
        second.http.post(MACHINES, json=machine_document("m-2", mac(1))),
    )

    assert sorted(answer.status_code for answer in answers) == [201, 409]
    loser = next(answer for answer in answers if answer.status_code == 409)
    winner = next(answer for answer in answers if answer.status_code == 201).json()["metadata"]["name"]
    assert winner in problem_of(loser, 409, "mac-in-use")["detail"]
    assert held_macs(first) == {mac(1): winner}


async def test_a_replica_that_is_behind_does_not_refuse_what_etcd_has(world: World) -> None:
    ahead, behind = world.replica("a"), world.replica("b")
    behind.watch.hold()
    await ahead.machine("m-1", mac(1))

    answer_of(await patch(behind, "m-1", {"spec": {"hostname": "one"}}), 200)

    assert stored(ahead, "m-1").spec.hostname == "one"


async def test_a_freed_mac_can_be_taken_on_a_replica_that_is_behind(world: World) -> None:
    ahead, behind = world.replica("a"), world.replica("b")
    await ahead.machine("m-1", mac(1))
    behind.watch.hold()
    answer_of(await patch(ahead, "m-1", {"spec": {"interfaces": [{"mac": mac(2)}]}}), 200)

    await behind.machine("m-2", mac(1))


async def test_a_status_is_composed_of_what_the_owner_saw(world: World) -> None:
    replica = world.replica(owner_of=lambda cluster, machine: f"owner of {cluster}/{machine}")
    await replica.machine("m-1", mac(1))
    os = InstalledOs(template="ubuntu", revision=7, installed_at=replica.clock.now(), provision="01J")
    observed = Observed(os=os, power="on", observed_at=replica.clock.now())
    await replica.store.commit(Put(keys.observed("m-1"), records.encode(observed)))

    status = (await replica.get(f"{MACHINES}/m-1"))["status"]

    assert (status["phase"], status["power"], status["owner"]) == ("Deployed", "on", "owner of local/m-1")
    assert status["os"]["template"] == "ubuntu"


async def test_a_bmc_password_is_sealed_and_never_shown(replica: Replica) -> None:
    document = machine_document("m-1", mac(1), bmc=BMC)
    answers = [await replica.http.post(MACHINES, json=document, headers={"Idempotency-Key": "k"})]
    answers += [await replica.http.get(path) for path in (MACHINES, f"{MACHINES}/m-1", f"{MACHINES}?q=calvin")]
    answers += [await replica.http.put(f"{MACHINES}/m-1", json=document, headers=ANY)]
    answers += [await replica.http.post(f"{MACHINES}/m-1/lock", json={"reason": "x"})]
    answers += [await replica.http.post(MACHINES, json=machine_document("m-2", mac(2), bmc=BMC | {"colour": 1}))]
    answers += [
        await replica.http.post(MACHINES, json=machine_document("m-2", mac(2), bmc=BMC | {"password": 8190246517}))
    ]
    answers += [await replica.http.get("/metrics")]

    for answer in answers:
        assert b"calvin" not in answer.content
        assert b"8190246517" not in answer.content
        assert b"ealed" not in answer.content
    for item in replica.store.items().values():
        assert b"calvin" not in item.value
    assert SEAL.open(password_place("m-1"), stored(replica, "m-1").sealed_password) == BMC["password"]


async def test_a_password_that_is_not_sent_again_stays(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)
    read = await replica.get(f"{MACHINES}/m-1")
    assert read["spec"]["bmc"] == {"host": "10.0.0.5", "username": "root"}

    answer_of(
        await replica.http.put(f"{MACHINES}/m-1", json=read | {"spec": read["spec"] | {"hostname": "x"}}, headers=ANY),
        200,
    )

    assert SEAL.open(password_place("m-1"), stored(replica, "m-1").sealed_password) == BMC["password"]


async def test_a_password_does_not_follow_the_bmc_to_another_address(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc=BMC)

    refused = await patch(replica, "m-1", {"spec": {"bmc": {"host": "10.6.6.6"}}})
    assert fields_of(problem_of(refused, 422, "invalid")) == ["spec.bmc.password"]
    answer_of(await patch(replica, "m-1", {"spec": {"bmc": {"host": "10.6.6.6", "password": "new"}}}), 200)
    assert SEAL.open(password_place("m-1"), stored(replica, "m-1").sealed_password) == "new"

    answer_of(await patch(replica, "m-1", {"spec": {"bmc": None}}), 200)
    assert stored(replica, "m-1").sealed_password == ""


async def test_without_a_key_a_password_is_refused_with_what_to_configure(world: World) -> None:
    replica = world.replica(sealer=None)

    response = await replica.http.post(MACHINES, json=machine_document("m-1", mac(1), bmc=BMC))

    problem = problem_of(response, 422, "invalid")
    assert fields_of(problem) == ["spec.bmc.password"]
    assert "DRAGONFLY_SECRET_KEY_FILE" in problem["detail"]
    assert replica.store.revision == 1


async def test_a_locked_machine_is_touched_by_nothing_until_it_is_unlocked(replica: Replica) -> None:
    """P3."""
    await replica.machine("m-1", mac(1))
    await replica.template()
    locked = await replica.post(f"{MACHINES}/m-1/lock", {"reason": "holds the ledger"})
    assert locked["spec"]["locked"] == {"reason": "holds the ledger", "by": "admin", "at": "2026-01-01T00:16:40Z"}
    before = replica.store.revision

    for refused in (
        await replica.http.post(f"{MACHINES}/m-1/provision", json={"template": "ubuntu"}),
        await replica.http.put(
            f"{MACHINES}/m-1",
            json=machine_document("m-1", mac(2)) | {"spec": locked["spec"] | {"hostname": "x"}},
            headers=ANY,
        ),
        await patch(replica, "m-1", {"spec": {"hostname": "x"}}),
        await replica.http.delete(f"{MACHINES}/m-1", headers=ANY),
        await replica.http.delete(f"{MACHINES}/m-1?force=true", headers=ANY),
        await replica.http.post(f"{MACHINES}/m-1/lock", json={"reason": "another"}),
    ):
        detail = problem_of(refused, 409, "machine-locked")["detail"]
        assert "locked by admin since 2026-01-01T00:16:40Z: holds the ledger" in detail
    for tampering in ({"spec": {"locked": None}}, {"spec": {"locked": {"reason": "mine"}}}):
        assert fields_of(problem_of(await patch(replica, "m-1", tampering), 422, "invalid")) == ["spec.locked"]
    assert replica.store.revision == before

    await replica.post(f"{MACHINES}/m-1/lock", {"reason": "holds the ledger"})
    assert replica.store.revision == before, "locking again for the same reason changes nothing"
    labelled = answer_of(await patch(replica, "m-1", {"metadata": {"labels": {"a": "b"}}}), 200)
    assert labelled["spec"]["locked"], "labels are no touch"
    unlocked = await replica.post(f"{MACHINES}/m-1/unlock", {})
    assert "locked" not in unlocked["spec"]
    await replica.provision("m-1")


async def test_an_unlock_needs_no_body(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))

    assert (await replica.http.post(f"{MACHINES}/m-1/unlock")).status_code == 200


async def test_a_deleted_machine_is_deleting_until_its_owner_has_removed_it(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()

    deleting = answer_of(await replica.http.delete(f"{MACHINES}/m-1", headers=ANY), 202)

    assert deleting["status"]["phase"] == "Deleting"
    assert deleting["status"]["deletingSince"] == "2026-01-01T00:16:40Z"
    before = replica.store.revision
    assert answer_of(await replica.http.delete(f"{MACHINES}/m-1", headers=ANY), 202) == deleting
    problem_of(await patch(replica, "m-1", {"spec": {"hostname": "x"}}), 409, "machine-deleting")
    problem_of(await replica.http.post(f"{MACHINES}/m-1/lock", json={"reason": "x"}), 409, "machine-deleting")
    refused = await replica.http.post(f"{MACHINES}/m-1/provision", json={"template": "ubuntu"})
    problem_of(refused, 409, "machine-deleting")
    assert replica.store.revision == before


async def test_a_machine_is_not_deleted_under_a_running_provision(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()
    provision = await replica.provision("m-1")

    refused = await replica.http.delete(f"{MACHINES}/m-1", headers=ANY)

    assert provision["metadata"]["name"] in problem_of(refused, 409, "provision-active")["detail"]


async def test_macs_do_not_change_under_a_running_provision(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()
    await replica.provision("m-1")

    problem_of(await patch(replica, "m-1", {"spec": {"interfaces": [{"mac": mac(2)}]}}), 409, "provision-active")
    answer_of(await patch(replica, "m-1", {"spec": {"userData": "#cloud-config"}}), 200)


async def test_force_forgets_a_machine_with_all_that_is_of_it(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.machine("m-2", mac(2))
    await replica.template()
    for _ in range(150):
        provision = await replica.provision("m-1")
        await replica.post(f"/api/v1/provisions/{provision['metadata']['name']}/cancel", {}, 202)
    await replica.provision("m-1")
    await replica.store.commit(Put(keys.observed("m-1"), records.encode(Observed())))

    response = await replica.http.delete(f"{MACHINES}/m-1?force=true", headers=ANY)

    assert response.status_code == 204
    assert response.headers["dragonfly-revision"] == str(replica.store.revision)
    left = sorted(replica.store.items())
    assert left == ["machines/m-2", "templates/ubuntu", f"unique/mac/{mac(2)}"]
    problem_of(await replica.http.get(f"{MACHINES}/m-1"), 404, "not-found")
    assert (await replica.get("/api/v1/provisions"))["total"] == 0


async def test_force_waits_for_what_runs_in_a_cluster_that_is_reached(replica: Replica) -> None:
    """P2: nobody would look after the armed Workflow and the open netboot of a machine that is forgotten."""
    await replica.machine("m-1", mac(1))
    await replica.template()
    provision = await replica.provision("m-1")
    member = Member(id="a", version="1", address="a", started=replica.clock.now(), clusters=("local",))
    await replica.store.commit(Put(keys.member("a"), records.encode(member)))

    refused = await replica.http.delete(f"{MACHINES}/m-1?force=true", headers=ANY)
    problem_of(refused, 409, "provision-active")
    await replica.post(f"/api/v1/provisions/{provision['metadata']['name']}/cancel", {}, 202)

    assert (await replica.http.delete(f"{MACHINES}/m-1?force=true", headers=ANY)).status_code == 204


async def test_a_force_that_is_neither_true_nor_false_is_told(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))

    response = await replica.http.delete(f"{MACHINES}/m-1?force=yes", headers=ANY)

    assert fields_of(problem_of(response, 422, "invalid")) == ["?force"]


async def test_a_record_that_cannot_be_read_blinds_nobody_to_the_others(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.store.commit(Put(keys.machine("m-2"), b'{"spec": 7}'))

    assert (await replica.get(MACHINES))["total"] == 1
    problem_of(await replica.http.delete(f"{MACHINES}/m-2", headers=ANY), 500, "unreadable")
    await replica.store.commit(Delete(keys.machine("m-2")))


def test_what_holds_a_mac_is_stored_as_an_object() -> None:
    assert records.encode(MacHolder("m-1")) == b'{"machine":"m-1"}'


async def test_a_replica_that_is_too_old_for_the_data_writes_nothing(world: World) -> None:
    old, behind = world.replica("a"), world.replica("b")
    behind.watch.hold()
    await world.store.commit(Put(keys.SCHEMA, b'{"version":2}'))
    before = world.store.revision

    for replica in (old, behind):
        response = await replica.http.post(MACHINES, json=machine_document("m-1", mac(1)))
        assert "upgrade this replica" in problem_of(response, 503, "schema-unknown")["detail"]
        assert (await replica.http.get(MACHINES)).status_code == 200
    assert world.store.revision == before


@pytest.mark.parametrize("fault", ["unsent", "full", "lost answer"])
async def test_a_failing_store_is_told_apart_by_what_to_do(replica: Replica, fault: Any) -> None:
    kinds = {"unsent": "store-unavailable", "full": "store-full", "lost answer": "outcome-unknown"}
    replica.store.fail(fault)

    response = await replica.http.post(MACHINES, json=machine_document("m-1", mac(1)))

    problem = problem_of(response, 503, kinds[fault])
    assert response.headers["retry-after"]
    assert ("Nothing was changed" in problem["detail"]) == (fault != "lost answer")
    assert (keys.machine("m-1") in replica.store.items()) == (fault == "lost answer")
