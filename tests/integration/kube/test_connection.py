"""The connection against a real API server with Tinkerbell's CRDs and Dragonfly's own rights."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ulid import ULID

from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import AlreadyExists, Conflict, FieldConflict, Forbidden, Invalid, NotFound, Unreachable
from dragonfly.kube.events import Note, Recorder, Subject
from dragonfly.kube.resources import EVENT, HARDWARE, NAMESPACE, SECRET, WORKFLOW, Object, Ref
from dragonfly.sandbox.controlplane import NAMESPACE as TINKERBELL
from dragonfly.sandbox.controlplane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with Connection(Kubeconfig((control_plane.kubeconfig,))) as connection:
        yield connection


@pytest.fixture
async def admin(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with Connection(Kubeconfig((control_plane.admin_kubeconfig,))) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    return f"kube-{ULID()}".lower()


def hardware(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": HARDWARE.api_version,
        "kind": HARDWARE.kind,
        "metadata": {"name": name, "namespace": TINKERBELL},
        "spec": {"userData": "a"} | spec,
    }


def ref(name: str) -> Ref:
    return Ref(HARDWARE, TINKERBELL, name)


def seen(obj: Object) -> dict[str, str]:
    """Preconditions: what was seen of `obj`."""
    return {key: obj["metadata"][key] for key in ("uid", "resourceVersion")}


async def test_create_get_delete(kube: Connection, name: str) -> None:
    created = await kube.create(hardware(name))
    assert await kube.get(ref(name)) == created

    await kube.delete(ref(name), uid=created["metadata"]["uid"])

    with pytest.raises(NotFound) as caught:
        await kube.get(ref(name))
    assert (caught.value.reason, caught.value.details["name"]) == ("NotFound", name)
    with pytest.raises(NotFound):
        await kube.delete(ref(name))


async def test_a_name_can_be_taken_once(kube: Connection, name: str) -> None:
    results = await asyncio.gather(*(kube.create(hardware(name)) for _ in range(8)), return_exceptions=True)

    assert sum(isinstance(result, dict) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 7


@pytest.mark.parametrize("how", ["create", "apply", "patch"])
async def test_an_unknown_field_is_refused_and_named(kube: Connection, name: str, how: str) -> None:
    if how == "patch":
        await kube.create(hardware(name))
    wrong = hardware(name, nonsense=1)
    call = kube.patch(ref(name), {"spec": {"nonsense": 1}}) if how == "patch" else getattr(kube, how)(wrong)

    with pytest.raises(Invalid, match="nonsense"):
        await call


async def test_a_value_against_the_schema_is_refused_with_its_field(kube: Connection, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        await kube.create(hardware(name, interfaces=[{"dhcp": {"mac": "02:00:00:00:00:0G"}}]))

    assert [cause["field"] for cause in caught.value.details["causes"]] == ["spec.interfaces[0].dhcp.mac"]


async def test_apply_creates_owns_and_gives_up_fields(kube: Connection, name: str) -> None:
    created = await kube.apply(hardware(name, vendorData="v"))
    again = await kube.apply(hardware(name, vendorData="v"))
    without = await kube.apply(hardware(name))

    assert again["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]
    assert "vendorData" not in without["spec"]
    assert [entry["manager"] for entry in without["metadata"]["managedFields"]] == ["dragonfly"]


async def test_a_dry_run_writes_nothing(kube: Connection, name: str) -> None:
    assert (await kube.apply(hardware(name), dry_run=True))["spec"] == {"userData": "a"}

    with pytest.raises(NotFound):
        await kube.get(ref(name))


async def test_a_field_of_another_manager_is_a_conflict_that_names_it(
    kube: Connection, control_plane: ControlPlane, name: str
) -> None:
    await kube.apply(hardware(name))
    edit = f"/apis/tinkerbell.org/v1alpha1/namespaces/{TINKERBELL}/hardware/{name}?fieldManager=kubectl-edit"
    control_plane.apiserver.admin.request("PATCH", edit, {"spec": {"userData": "x"}}, "application/merge-patch+json")

    with pytest.raises(Conflict) as caught:
        await kube.apply(hardware(name))

    assert caught.value.fields == (FieldConflict("kubectl-edit", ".spec.userData"),)
    assert (await kube.apply(hardware(name), force=True))["spec"]["userData"] == "a"


async def test_a_patch_from_an_old_state_is_a_conflict(kube: Connection, name: str) -> None:
    created = await kube.create(hardware(name))
    patched = await kube.patch(ref(name), {"metadata": seen(created), "spec": {"userData": "b"}})

    with pytest.raises(Conflict):
        await kube.patch(ref(name), {"metadata": seen(created), "spec": {"userData": "c"}})

    assert patched["spec"]["userData"] == (await kube.get(ref(name)))["spec"]["userData"] == "b"


@pytest.mark.parametrize("with_version", [True, False])
async def test_a_patch_of_an_object_that_was_made_again_is_a_conflict(
    kube: Connection, name: str, with_version: bool
) -> None:
    former = await kube.create(hardware(name))
    await kube.delete(ref(name))
    await kube.create(hardware(name))
    conditions = seen(former) if with_version else {"uid": former["metadata"]["uid"]}

    with pytest.raises(Conflict):
        await kube.patch(ref(name), {"metadata": conditions, "spec": {"userData": "b"}})

    assert (await kube.get(ref(name)))["spec"]["userData"] == "a"


@pytest.mark.parametrize("conditions", ["uid", "resource_version"])
async def test_a_delete_of_something_else_is_a_conflict(kube: Connection, name: str, conditions: str) -> None:
    former = await kube.create(hardware(name))
    await kube.delete(ref(name), uid=former["metadata"]["uid"], resource_version=former["metadata"]["resourceVersion"])
    await kube.create(hardware(name))
    wrong = {"uid": former["metadata"]["uid"], "resource_version": former["metadata"]["resourceVersion"]}[conditions]

    with pytest.raises(Conflict):
        await kube.delete(ref(name), **{conditions: wrong})

    assert (await kube.get(ref(name)))["spec"] == {"userData": "a"}


async def test_an_apply_to_an_old_state_is_a_conflict(kube: Connection, name: str) -> None:
    created = await kube.apply(hardware(name))
    await kube.apply(hardware(name, vendorData="v"))
    late = hardware(name, userData="late")
    late["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]

    with pytest.raises(Conflict):
        await kube.apply(late)


async def test_status_is_patched_through_its_subresource(admin: Connection, name: str) -> None:
    await admin.create(hardware(name))

    patched = await admin.patch(ref(name), {"status": {"state": "Ready"}}, subresource="status")

    assert patched["status"] == {"state": "Ready"}


async def test_what_is_forbidden_is_named(kube: Connection) -> None:
    with pytest.raises(Forbidden) as caught:
        await kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}})

    assert (caught.value.verb, caught.value.resource, caught.value.status) == ("create", "namespaces", 403)


async def test_it_knows_what_it_may_do(kube: Connection) -> None:
    assert await kube.can("create", WORKFLOW, TINKERBELL)
    assert not await kube.can("create", NAMESPACE, "")
    assert (await kube.version()).startswith("v")


@pytest.fixture
async def patient(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    """For calls that wait for each other: a deadline is for the waiting, too."""
    async with Connection(Kubeconfig((control_plane.admin_kubeconfig,)), Limits(deadline=120)) as connection:
        yield connection


async def test_1500_objects_are_listed_in_pages_once_each(patient: Connection) -> None:
    space = f"paging-{ULID()}".lower()
    await patient.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    names = {f"s-{index:04}" for index in range(1500)}
    metadata = {"namespace": space, "labels": {"of": "paging"}}
    await asyncio.gather(
        *(
            patient.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata | {"name": name}})
            for name in names
        )
    )

    listing = await patient.list(SECRET, space, label_selector="of=paging")

    assert len(listing.items) == 1500
    assert {item["metadata"]["name"] for item in listing.items} == names
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {("v1", "Secret")}
    newest = max(int(item["metadata"]["resourceVersion"]) for item in listing.items)
    assert int(listing.resource_version) >= newest
    assert (await patient.list(SECRET, space, label_selector="of=nothing")).items == []


async def test_events_are_shown_by_the_cluster(kube: Connection, admin: Connection, name: str) -> None:
    created = await kube.create(hardware(name))
    for _ in range(2):  # the second replica process finds the Event of the first
        recorder = Recorder(kube, "r1", may_write=lambda: True)
        for _ in range(3):
            recorder.note(Note(Subject.of(created), "Warning", "Tested", "a message"))
            await recorder.flush()
        assert recorder.dropped == 0

    events = [
        item
        for item in (await admin.list(EVENT, TINKERBELL)).items
        if item["involvedObject"]["uid"] == created["metadata"]["uid"]
    ]

    assert [(event["reason"], event["count"]) for event in events] == [("Tested", 6)]


async def test_an_api_server_with_another_authority_is_not_spoken_to(
    control_plane: ControlPlane, tmp_path: Path, stranger: str
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(control_plane.kubeconfig.read_text().replace(_authority(control_plane), stranger))

    async with Connection(Kubeconfig((kubeconfig,)), Limits(attempts=1)) as kube:
        with pytest.raises(Unreachable, match="certificate verify failed") as caught:
            await kube.create(hardware("never"))

    assert not caught.value.maybe_done


@pytest.fixture
def stranger(control_plane: ControlPlane) -> str:
    """Another certificate authority, as in a kubeconfig: etcd's."""

    return base64.b64encode(control_plane.etcd_ca.read_bytes()).decode()


def _authority(plane: ControlPlane) -> str:

    return str(yaml.safe_load(plane.kubeconfig.read_text())["clusters"][0]["cluster"]["certificate-authority-data"])
