"""Provisions over HTTP: accepted once, cancelled at any phase, found by their name."""

import asyncio

import msgspec

from dragonfly.feed.view import Filter, View
from dragonfly.model.provision import Active, Problem, Provision, WorkflowRef, advanced, ended
from dragonfly.model.webhook import WebhookSpec
from dragonfly.store import keys, records
from dragonfly.store.values import Delete, Put
from dragonfly.webhooks.letters import view_of
from tests.unit.api.replicas import ANY, Replica, World, answer_of, fields_of, mac, problem_of

PROVISIONS = "/api/v1/provisions"


def stored(replica: Replica, machine: str, name: str) -> Provision:
    key = keys.provision(machine, name)
    provision = records.decode(key, replica.store.items()[key].value)
    assert isinstance(provision, Provision)
    return provision


async def put(replica: Replica, provision: Provision) -> None:
    await replica.store.commit(Put(keys.provision(provision.spec.machine, provision.name), records.encode(provision)))


async def test_an_accepted_provision_is_pending_and_keeps_its_template(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    template = await replica.template(parameters={"properties": {"disk": {"default": "/dev/sda"}}})

    response = await replica.http.post(
        "/api/v1/machines/m-1/provision", json={"template": "ubuntu", "reason": "new rack"}
    )

    provision = answer_of(response, 202)
    name = provision["metadata"]["name"]
    assert response.headers["location"] == f"{PROVISIONS}/{name}"
    assert provision["status"] == {"phase": "Pending", "progress": 0}
    assert provision["spec"] == {
        "machine": "m-1",
        "template": "ubuntu",
        "templateRevision": template["metadata"]["revision"],
        "cluster": "local",
        "parameters": {"disk": "/dev/sda"},
        "reason": "new rack",
        "requestedBy": "admin",
    }
    assert provision["metadata"]["revision"] == replica.store.revision
    assert await replica.get(f"{PROVISIONS}/{name}") == provision
    machine = await replica.get("/api/v1/machines/m-1")
    assert machine["status"]["phase"] == "Provisioning"
    assert machine["status"]["activeProvision"] == {
        "name": name,
        "template": "ubuntu",
        "phase": "Pending",
        "progress": 0,
    }

    assert (await replica.http.delete("/api/v1/templates/ubuntu", headers=ANY)).status_code == 204
    active = records.decode(keys.active("m-1"), replica.store.items()[keys.active("m-1")].value)
    assert isinstance(active, Active)
    assert active.provision == name
    assert active.template.actions


async def test_of_two_provisions_of_one_machine_on_two_replicas_one_is_accepted(world: World) -> None:
    """P1."""
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    await first.template()
    first.watch.hold()
    second.watch.hold()

    answers = await asyncio.gather(
        *(one.http.post("/api/v1/machines/m-1/provision", json={"template": "ubuntu"}) for one in (first, second))
    )

    assert sorted(answer.status_code for answer in answers) == [202, 409]
    winner = next(answer for answer in answers if answer.status_code == 202).json()["metadata"]["name"]
    loser = next(answer for answer in answers if answer.status_code == 409)
    assert winner in problem_of(loser, 409, "provision-active")["detail"]
    provisions = [key for key in first.store.items() if key.startswith(keys.PROVISIONS)]
    assert provisions == [keys.provision("m-1", winner)]


async def test_a_lock_on_another_replica_stops_a_provision_that_has_not_seen_it(world: World) -> None:
    """P3."""
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    await first.template()
    second.watch.hold()
    await first.post("/api/v1/machines/m-1/lock", {"reason": "holds the ledger"})

    refused = await second.http.post("/api/v1/machines/m-1/provision", json={"template": "ubuntu"})

    problem_of(refused, 409, "machine-locked")
    assert keys.active("m-1") not in first.store.items()


async def test_a_template_changed_meanwhile_is_taken_as_it_is_now(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    template = await first.template()
    second.watch.hold()
    changed = await first.http.put(
        "/api/v1/templates/ubuntu", json=template | {"spec": template["spec"] | {"globalTimeout": 60}}, headers=ANY
    )

    provision = await second.provision("m-1")

    assert provision["spec"]["templateRevision"] == changed.json()["metadata"]["revision"]


async def test_a_machine_in_maintenance_is_not_provisioned(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), maintenance={"reason": "new fans"})
    await replica.template()

    refused = await replica.http.post("/api/v1/machines/m-1/provision", json={"template": "ubuntu"})

    assert "new fans" in problem_of(refused, 409, "machine-maintenance")["detail"]


async def test_a_template_that_boots_from_an_iso_needs_a_machine_with_one(replica: Replica) -> None:
    await replica.machine("m-1", mac(1), bmc={"host": "10.0.0.9"})
    await replica.template(boot="iso")
    before = replica.store.revision

    response = await replica.http.post("/api/v1/machines/m-1/provision", json={"template": "ubuntu"})

    assert fields_of(problem_of(response, 422, "invalid")) == ["template"]
    assert replica.store.revision == before


async def test_what_nobody_has_started_is_cancelled_at_once(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()
    name = (await replica.provision("m-1"))["metadata"]["name"]

    response = await replica.http.post(f"{PROVISIONS}/{name}/cancel", json={"reason": "wrong rack"})

    cancelled = answer_of(response, 202)
    assert response.headers["location"] == f"{PROVISIONS}/{name}"
    assert cancelled["status"]["phase"] == "Cancelled"
    assert cancelled["status"]["error"] == {"reason": "Cancelled", "message": "Cancelled by admin: wrong rack"}
    assert keys.active("m-1") not in replica.store.items()
    assert (await replica.get("/api/v1/machines/m-1"))["status"]["phase"] == "Available"
    again = await replica.http.post(f"{PROVISIONS}/{name}/cancel")
    assert "Cancelled" in problem_of(again, 409, "provision-ended")["detail"]


async def test_what_runs_is_asked_to_end_once(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()
    name = (await replica.provision("m-1"))["metadata"]["name"]
    starting = advanced(stored(replica, "m-1", name), replica.clock.now(), phase="Starting")
    await put(replica, advanced(starting, replica.clock.now(), phase="Running", progress=40))

    cancelling = await replica.post(f"{PROVISIONS}/{name}/cancel", {"reason": "wrong rack"}, 202)

    assert cancelling["status"]["phase"] == "Running"
    assert cancelling["status"]["cancel"] == {"by": "admin", "at": "2026-01-01T00:16:40Z", "reason": "wrong rack"}
    assert keys.active("m-1") in replica.store.items()
    before = replica.store.revision
    assert await replica.post(f"{PROVISIONS}/{name}/cancel", {}, 202) == cancelling
    assert replica.store.revision == before


async def test_a_cancel_that_comes_with_the_start_does_not_undo_it(world: World) -> None:
    """The controller's step to Starting wins; the cancel becomes a request."""
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    await first.template()
    name = (await first.provision("m-1"))["metadata"]["name"]
    second.watch.hold()
    await put(first, advanced(stored(first, "m-1", name), first.clock.now(), phase="Starting"))

    cancelling = await second.post(f"{PROVISIONS}/{name}/cancel", {}, 202)

    assert cancelling["status"]["phase"] == "Starting"
    assert cancelling["status"]["cancel"]["by"] == "admin"
    assert keys.active("m-1") in first.store.items()


async def test_a_provision_that_has_just_been_accepted_elsewhere_can_be_cancelled(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    await first.machine("m-1", mac(1))
    await first.template()
    second.watch.hold()
    name = (await first.provision("m-1"))["metadata"]["name"]

    cancel = asyncio.create_task(second.http.post(f"{PROVISIONS}/{name}/cancel"))
    async with asyncio.timeout(10):
        await second.store.was_read.wait()
    second.watch.go_on()

    assert answer_of(await cancel, 202)["status"]["phase"] == "Cancelled"


async def test_a_cancel_of_nothing_is_not_found(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))

    problem_of(await replica.http.post(f"{PROVISIONS}/01J00000000000000000000999/cancel"), 404, "not-found")


async def test_a_machine_shows_its_provisions_newest_first(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.machine("m-2", mac(2))
    await replica.template()
    names = []
    for machine in ("m-1", "m-2", "m-1"):
        names.append((await replica.provision(machine))["metadata"]["name"])
        provision = stored(replica, machine, names[-1])
        await put(replica, ended(provision, replica.clock.now(), "Failed"))
        await replica.store.commit(Delete(keys.active(machine)))

    history = await replica.get("/api/v1/machines/m-1/history")
    failed = await replica.get(PROVISIONS, phase="Failed", machine="m-2")

    assert [item["metadata"]["name"] for item in history["items"]] == [names[2], names[0]]
    assert [item["metadata"]["name"] for item in failed["items"]] == [names[1]]
    assert history["kind"] == failed["kind"] == "ProvisionList"
    problem_of(await replica.http.get("/api/v1/machines/none/history"), 404, "not-found")
    narrowed = await replica.http.get("/api/v1/machines/m-1/history?machine=m-2")
    assert fields_of(problem_of(narrowed, 422, "invalid")) == ["?machine"]


async def test_what_is_not_for_people_is_not_shown(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()
    name = (await replica.provision("m-1"))["metadata"]["name"]

    raw = records.encode(stored(replica, "m-1", name))
    newer = raw[:-1] + b',"stopping":{"phase":"Failed","error":{"reason":"x","message":"y"}},"fromTheFuture":1}'
    await replica.store.commit(Put(keys.provision("m-1", name), newer))

    assert (await replica.get(f"{PROVISIONS}/{name}")).keys() == {"kind", "metadata", "spec", "status"}


async def test_provisions_are_found_by_their_cluster_in_lists_in_the_feed_and_by_webhooks(replica: Replica) -> None:
    """Also one that ended before anything was done in the cluster."""
    start = replica.mirror.revision
    await replica.machine("m-1", mac(1))
    await replica.template()
    name = (await replica.provision("m-1"))["metadata"]["name"]
    await put(replica, ended(stored(replica, "m-1", name), replica.clock.now(), "Failed", Problem("why", "so")))
    wanted = view_of(WebhookSpec(url="", kinds=("Provision",), clusters=("local",), phases=("Failed",)))

    for cluster, found in (("local", [name]), ("fra", [])):
        listed = await replica.get(PROVISIONS, cluster=cluster)
        assert [item["metadata"]["name"] for item in listed["items"]] == found
        page = await replica.get("/api/v1/events", since=start, kind="Provision", cluster=cluster, phase="Failed")
        assert [item["name"] for item in page["items"]] == found
    assert [shown.ref.name for shown in replica.feed.snapshot(wanted).objects] == [name]


async def test_where_an_older_replica_accepted_a_provision_is_known_from_its_workflow(replica: Replica) -> None:
    await replica.machine("m-1", mac(1))
    await replica.template()
    name = (await replica.provision("m-1"))["metadata"]["name"]
    before = stored(replica, "m-1", name)
    old = msgspec.structs.replace(before, spec=msgspec.structs.replace(before.spec, cluster=""))
    await put(replica, old)
    assert (await replica.get(PROVISIONS, cluster="local"))["items"] == []

    workflow = WorkflowRef(cluster="local", namespace="tinkerbell", name="w")
    await put(replica, msgspec.structs.replace(old, status=msgspec.structs.replace(old.status, workflow=workflow)))

    (listed,) = (await replica.get(PROVISIONS, cluster="local"))["items"]
    (told,) = replica.feed.snapshot(View(Filter(facets=(("cluster", frozenset({"local"})),)))).objects[1:]
    assert listed["metadata"]["name"] == told.ref.name == name
