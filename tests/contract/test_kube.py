"""What every `Kube` does, a real API server and the simulator's model alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from ulid import ULID

from dragonfly.kube.errors import AlreadyExists, Conflict, FieldConflict, Gone, Invalid, NotFound
from dragonfly.kube.port import Kube, WatchEvent
from dragonfly.kube.resources import HARDWARE, Object, Ref
from tests.contract.clusters import NAMESPACE, KubeWorld, ModelCluster, RealCluster


@pytest.fixture(params=["model", pytest.param("cluster", marks=pytest.mark.cluster)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[KubeWorld]:
    """What the contract is checked against; the real control plane is only started for its own kind."""
    world = ModelCluster() if request.param == "model" else RealCluster(request.getfixturevalue("control_plane"))
    async with world:
        yield world


@pytest.fixture
def kube(cluster: KubeWorld) -> Kube:
    return cluster.kube


@pytest.fixture
def name() -> str:
    return f"contract-{ULID()}".lower()


def hardware(name: str, *, seen: Object | None = None, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    metadata: Object = {"name": name, "namespace": NAMESPACE}
    if labels:
        metadata["labels"] = labels
    if seen:
        metadata |= given(seen)
    return {
        "apiVersion": HARDWARE.api_version,
        "kind": HARDWARE.kind,
        "metadata": metadata,
        "spec": {"userData": "a"} | spec,
    }


def ref(name: str) -> Ref:
    return Ref(HARDWARE, NAMESPACE, name)


def given(obj: Object) -> dict[str, str]:
    return {key: obj["metadata"][key] for key in ("uid", "resourceVersion")}


def version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


async def test_what_was_created_is_there_once(kube: Kube, name: str) -> None:
    created = await kube.create(hardware(name) | {"status": {"state": "x"}})

    with pytest.raises(AlreadyExists):
        await kube.create(hardware(name))

    assert "status" not in created
    assert created["spec"] == {"userData": "a"}
    assert (await kube.get(ref(name)))["metadata"]["uid"] == created["metadata"]["uid"]


async def test_what_is_made_again_is_another(kube: Kube, name: str) -> None:
    former = await kube.create(hardware(name))
    await kube.delete(ref(name), uid=former["metadata"]["uid"], resource_version=former["metadata"]["resourceVersion"])
    with pytest.raises(NotFound):
        await kube.get(ref(name))
    with pytest.raises(NotFound):
        await kube.delete(ref(name))

    latter = await kube.create(hardware(name))

    assert latter["metadata"]["uid"] != former["metadata"]["uid"]
    assert version(latter) > version(former)


@pytest.mark.parametrize("how", ["create", "apply", "patch"])
async def test_an_unknown_field_is_refused(kube: Kube, name: str, how: str) -> None:
    if how == "patch":
        await kube.create(hardware(name))
    wrong = hardware(name, nonsense=1)

    with pytest.raises(Invalid, match="nonsense"):
        await (kube.patch(ref(name), {"spec": {"nonsense": 1}}) if how == "patch" else getattr(kube, how)(wrong))


async def test_an_apply_that_changes_nothing_is_no_new_version(kube: Kube, name: str) -> None:
    created = await kube.apply(hardware(name, vendorData="v"))
    again = await kube.apply(hardware(name, vendorData="v"))
    changed = await kube.apply(hardware(name, vendorData="w"))

    assert version(again) == version(created)
    assert version(changed) > version(created)


async def test_an_apply_gives_up_what_it_no_longer_says(kube: Kube, name: str) -> None:
    await kube.apply(hardware(name, vendorData="v", metadata={"state": "s", "instance": {"id": "i"}}))

    less = await kube.apply(hardware(name, metadata={"state": "s"}))

    assert less["spec"] == {"userData": "a", "metadata": {"state": "s"}}


async def test_a_field_of_another_manager_is_a_conflict_unless_forced(
    cluster: KubeWorld, kube: Kube, name: str
) -> None:
    await kube.apply(hardware(name))
    await cluster.edit(ref(name), {"spec": {"userData": "x"}})

    with pytest.raises(Conflict) as caught:
        await kube.apply(hardware(name))

    assert caught.value.fields == (FieldConflict("kubectl-edit", ".spec.userData"),)
    assert (await kube.get(ref(name)))["spec"]["userData"] == "x"
    assert (await kube.apply(hardware(name), force=True))["spec"]["userData"] == "a"


async def test_what_another_manager_added_stays(cluster: KubeWorld, kube: Kube, name: str) -> None:
    await kube.apply(hardware(name))
    await cluster.edit(ref(name), {"spec": {"vendorData": "theirs"}})

    assert (await kube.apply(hardware(name, disks=[{"device": "/dev/sda"}])))["spec"]["vendorData"] == "theirs"


@pytest.mark.parametrize("force", [True, False])
async def test_an_apply_with_the_version_of_no_object_can_only_create(kube: Kube, name: str, force: bool) -> None:
    """What `controllers.fence` leans on: a late apply to where nothing was overwrites nothing."""
    new = hardware(name)
    new["metadata"]["resourceVersion"] = "1"
    created = await kube.apply(new, force=force)

    new["spec"]["userData"] = "late"
    with pytest.raises(Conflict):
        await kube.apply(new, force=force)

    assert version(await kube.get(ref(name))) == version(created)


async def test_an_apply_to_what_is_gone_or_has_changed_is_a_conflict(kube: Kube, name: str) -> None:
    former = await kube.apply(hardware(name))
    latter = await kube.apply(hardware(name, vendorData="v"))
    with pytest.raises(Conflict):
        await kube.apply(hardware(name, seen=former, userData="late"), force=True)
    await kube.delete(ref(name))

    with pytest.raises(Conflict):
        await kube.apply(hardware(name, seen=latter, userData="late"), force=True)
    with pytest.raises(NotFound):
        await kube.get(ref(name))


async def test_a_dry_run_changes_nothing(kube: Kube, name: str) -> None:
    await kube.apply(hardware(name), dry_run=True)

    with pytest.raises(NotFound):
        await kube.get(ref(name))


async def test_a_merge_patch_goes_by_key_and_takes_lists_whole(kube: Kube, name: str) -> None:
    made = hardware(name, disks=[{"device": "a"}, {"device": "b"}], metadata={"state": "s", "instance": {"id": "i"}})
    created = await kube.create(made)

    body = {"spec": {"disks": [{"device": "c"}], "userData": None, "metadata": {"state": "t"}}}
    patched = await kube.patch(ref(name), {"metadata": given(created), **body})
    again = await kube.patch(ref(name), body)

    assert patched["spec"] == {"disks": [{"device": "c"}], "metadata": {"state": "t", "instance": {"id": "i"}}}
    assert version(again) == version(patched) > version(created)


async def test_a_patch_of_what_has_changed_or_is_another_is_a_conflict(kube: Kube, name: str) -> None:
    former = await kube.create(hardware(name))
    await kube.patch(ref(name), {"spec": {"userData": "b"}})
    with pytest.raises(Conflict):
        await kube.patch(ref(name), {"metadata": given(former), "spec": {"userData": "late"}})
    await kube.delete(ref(name))
    with pytest.raises(NotFound):
        await kube.patch(ref(name), {"metadata": given(former), "spec": {"userData": "late"}})
    await kube.create(hardware(name))

    with pytest.raises(Conflict):
        await kube.patch(ref(name), {"metadata": {"uid": former["metadata"]["uid"]}, "spec": {"userData": "late"}})

    assert (await kube.get(ref(name)))["spec"]["userData"] == "a"


async def test_the_status_is_written_through_its_subresource_and_alone(cluster: KubeWorld, name: str) -> None:
    kube = cluster.admin
    created = await kube.create(hardware(name))

    stated = await kube.patch(
        ref(name),
        {"metadata": given(created) | {"annotations": {"a": "b"}}, "spec": {"userData": "x"}, "status": {"state": "s"}},
        subresource="status",
    )
    patched = await kube.patch(ref(name), {"spec": {"userData": "b"}, "status": {"state": "t"}})
    with pytest.raises(Conflict):
        await kube.patch(ref(name), {"metadata": given(created), "status": {"state": "u"}}, subresource="status")

    assert (stated["spec"], stated["status"]) == ({"userData": "a"}, {"state": "s"})
    assert "annotations" not in stated["metadata"]
    assert (patched["spec"], patched["status"]) == ({"userData": "b"}, {"state": "s"})
    assert version(created) < version(stated) < version(patched)


@pytest.mark.parametrize("condition", ["uid", "resource_version"])
async def test_a_delete_of_something_else_is_a_conflict(kube: Kube, name: str, condition: str) -> None:
    former = await kube.create(hardware(name))
    await kube.delete(ref(name))
    await kube.create(hardware(name))
    wrong = {"uid": former["metadata"]["uid"], "resource_version": former["metadata"]["resourceVersion"]}[condition]

    with pytest.raises(Conflict):
        await kube.delete(ref(name), **{condition: wrong})

    await kube.get(ref(name))


async def test_a_watch_begins_with_a_bookmark_and_tells_everything_in_order(kube: Kube, name: str) -> None:
    label = {"test": name}
    since = (await kube.list(HARDWARE, NAMESPACE)).resource_version
    created = await kube.create(hardware(name, labels=label))
    patched = await kube.patch(ref(name), {"spec": {"userData": "b"}})
    await kube.delete(ref(name))
    anew = await kube.create(hardware(name, labels=label))

    events = await _events(kube, since, 5, f"test={name}")

    assert [event.type for event in events] == ["BOOKMARK", "ADDED", "MODIFIED", "DELETED", "ADDED"]
    versions = [version(event.object) for event in events]
    assert versions == sorted(versions)
    assert versions[0] == int(since)
    assert [versions[1], versions[2], versions[4]] == [version(created), version(patched), version(anew)]
    assert versions[3] > version(patched)
    assert events[3].object["metadata"]["uid"] == created["metadata"]["uid"]


async def test_a_watch_goes_on_after_the_version_it_is_given(kube: Kube, name: str) -> None:
    created = await kube.create(hardware(name, labels={"test": name}))
    patched = await kube.patch(ref(name), {"spec": {"userData": "b"}})

    events = await _events(kube, created["metadata"]["resourceVersion"], 2, f"test={name}")

    assert [version(event.object) for event in events] == [version(created), version(patched)]


async def test_to_a_selection_what_leaves_it_is_deleted(kube: Kube, name: str) -> None:
    since = (await kube.list(HARDWARE, NAMESPACE)).resource_version
    await kube.create(hardware(name))
    await kube.patch(ref(name), {"metadata": {"labels": {"test": name}}})
    await kube.patch(ref(name), {"metadata": {"labels": {"test": "other"}}})

    events = await _events(kube, since, 3, f"test={name}")

    assert [event.type for event in events] == ["BOOKMARK", "ADDED", "DELETED"]
    assert [item["metadata"]["name"] for item in await _listed(kube, "test=other", name)] == [name]
    assert await _listed(kube, f"test={name}", name) == []


async def test_a_version_that_is_forgotten_is_gone(cluster: KubeWorld, kube: Kube, name: str) -> None:
    await kube.create(hardware(name))
    await cluster.forget_history()

    with pytest.raises(Gone):
        await _events(kube, "1", 2, "")


async def _events(kube: Kube, since: str, count: int, selector: str) -> list[WatchEvent]:
    events: list[WatchEvent] = []
    async with aclosing(kube.watch(HARDWARE, NAMESPACE, since, label_selector=selector)) as stream:
        async for event in stream:
            if event.type != "BOOKMARK" or not events:
                events.append(event)
            if len(events) == count:
                return events
    raise AssertionError(f"the watch ended after {events}")


async def _listed(kube: Kube, selector: str, name: str) -> list[Object]:
    listing = await kube.list(HARDWARE, NAMESPACE, label_selector=selector)
    return [item for item in listing.items if item["metadata"]["name"] == name]
