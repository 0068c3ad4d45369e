"""P4 inside the API server: which writes Dragonfly's admission policy refuses, on a real one and in the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ulid import ULID

from dragonfly.kube.errors import Forbidden
from dragonfly.kube.policy import FENCED, REPLACES, policy_name
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, HARDWARE, TEMPLATE, WORKFLOW, Object, Ref, Resource
from dragonfly.kube.tinkerbell import EPOCH, MANAGED_BY, MANAGER
from tests.contract.clusters import NAMESPACE, KubeWorld, ModelCluster, RealCluster

SPECS: dict[Resource, tuple[Object, Object]] = {
    HARDWARE: ({"userData": "a"}, {"userData": "b"}),
    WORKFLOW: ({"disabled": True}, {"disabled": False}),
    BMC_MACHINE: (
        {"connection": {"host": "127.0.0.1", "port": 623, "insecureTLS": True}},
        {"connection": {"host": "127.0.0.2", "port": 623, "insecureTLS": True}},
    ),
    BMC_JOB: (
        {"machineRef": {"name": "a", "namespace": NAMESPACE}, "tasks": [{"powerAction": "on"}]},
        {"machineRef": {"name": "b", "namespace": NAMESPACE}, "tasks": [{"powerAction": "on"}]},
    ),
    TEMPLATE: ({"data": "a"}, {"data": "b"}),
}
"""What each type is created with, and what it is changed to; nothing that Tinkerbell would act on."""

fenced = pytest.mark.parametrize("resource", FENCED, ids=lambda resource: resource.kind)


@pytest.fixture(params=["model", pytest.param("cluster", marks=pytest.mark.cluster)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[KubeWorld]:
    world = ModelCluster() if request.param == "model" else RealCluster(request.getfixturevalue("control_plane"))
    async with world:
        await world.enforce_policy()
        yield world


@pytest.fixture
def kube(cluster: KubeWorld) -> Kube:
    return cluster.kube


@pytest.fixture
def name() -> str:
    return f"policy-{ULID()}".lower()


async def stored(kube: Kube, resource: Resource, name: str, epoch: str, **more: str) -> Object:
    return await kube.create(_object(resource, name, SPECS[resource][0], {EPOCH: epoch, **more}))


async def change(kube: Kube, live: Object, epoch: str, **more: str) -> Object:
    """Patch as Dragonfly does: from what is there now, and saying under which epoch."""
    resource = next(one for one in SPECS if one.kind == live["kind"] and one.api_version == live["apiVersion"])
    seen = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
    body = {"metadata": {**seen, "annotations": {EPOCH: epoch, **more}}, "spec": SPECS[resource][1]}
    return await kube.patch(Ref(resource, NAMESPACE, live["metadata"]["name"]), body)


def _object(resource: Resource, name: str, spec: Any, annotations: dict[str, str]) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {MANAGED_BY: MANAGER}, "annotations": annotations}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}


@fenced
async def test_a_lower_epoch_is_refused_by_name_and_changes_nothing(kube: Kube, name: str, resource: Resource) -> None:
    live = await stored(kube, resource, name, "12")

    with pytest.raises(Forbidden, match="epoch 9 is over: epoch 12 has written this object") as caught:
        await change(kube, live, "9")
    with pytest.raises(Forbidden):
        await kube.apply(_object(resource, name, SPECS[resource][1], {EPOCH: "11"}), force=True)

    assert caught.value.policy == policy_name(NAMESPACE)
    assert await kube.get(Ref(resource, NAMESPACE, name)) == live


@fenced
@pytest.mark.parametrize("epoch", ["12", "13", "100"])
async def test_an_epoch_that_is_no_lower_passes(kube: Kube, name: str, resource: Resource, epoch: str) -> None:
    live = await stored(kube, resource, name, "12")

    assert (await change(kube, live, epoch))["spec"] == SPECS[resource][1]


@pytest.mark.parametrize(("was", "is_"), [("", "1"), ("x", "1"), ("9" * 40, "1"), ("-1", "1"), ("5", "x"), ("5", "")])
async def test_what_is_no_number_locks_nobody_out(kube: Kube, name: str, was: str, is_: str) -> None:
    live = await stored(kube, HARDWARE, name, was)

    assert (await change(kube, live, is_))["spec"] == SPECS[HARDWARE][1]


async def test_everybody_else_passes_without_a_word_of_epochs(cluster: KubeWorld, kube: Kube, name: str) -> None:
    """Tinkerbell's controllers, a person with kubectl, another manager's apply."""
    live = await stored(kube, WORKFLOW, name, "12")
    ref = Ref(WORKFLOW, NAMESPACE, name)

    await cluster.edit(ref, {"spec": {"hardwareRef": "x"}, "metadata": {"annotations": {"note": "y"}}})
    await cluster.admin.patch(ref, {"status": {"state": "PENDING"}}, subresource="status")
    await cluster.edit(ref, {"metadata": {"annotations": {EPOCH: None}}})

    after = await kube.get(ref)
    assert after["spec"]["hardwareRef"] == "x"
    assert after["status"]["state"] == "PENDING"
    assert EPOCH not in after["metadata"]["annotations"]
    assert after["metadata"]["uid"] == live["metadata"]["uid"]


async def test_a_status_carries_no_epoch(cluster: KubeWorld, name: str) -> None:
    """So the policy cannot fence it: what the controllers write there names uid and resourceVersion."""
    live = await stored(cluster.kube, WORKFLOW, name, "12")
    ref = Ref(WORKFLOW, NAMESPACE, name)

    written = await cluster.kube.patch(
        ref, {"metadata": {"annotations": {EPOCH: "1"}}, "status": {"agentID": ""}}, subresource="status"
    )

    assert written["metadata"]["annotations"] == live["metadata"]["annotations"]


async def test_what_is_not_dragonfly_s_is_nobody_s_business(cluster: KubeWorld, name: str) -> None:
    obj = _object(HARDWARE, name, SPECS[HARDWARE][0], {EPOCH: "12"})
    del obj["metadata"]["labels"]
    live = await cluster.kube.create(obj)

    await change(cluster.kube, live, "1")


async def test_a_late_write_does_not_slip_through_by_taking_the_label_off(cluster: KubeWorld, name: str) -> None:
    await stored(cluster.kube, HARDWARE, name, "12")
    body = {"metadata": {"labels": {MANAGED_BY: None}, "annotations": {EPOCH: "1"}}, "spec": {"userData": "late"}}

    with pytest.raises(Forbidden):
        await cluster.kube.patch(Ref(HARDWARE, NAMESPACE, name), body)


async def test_a_template_serves_all_shards_whose_epochs_say_nothing_about_each_other(kube: Kube, name: str) -> None:
    live = await stored(kube, TEMPLATE, name, "12")

    assert (await change(kube, live, "9"))["spec"] == SPECS[TEMPLATE][1]


async def test_who_names_the_epoch_that_is_replaced_passes_and_begins_anew(kube: Kube, name: str) -> None:
    live = await stored(kube, HARDWARE, name, "1000000")

    begun = await change(kube, live, "9", **{REPLACES: "1000000"})
    with pytest.raises(Forbidden, match="epoch 8 is over: epoch 9"):
        await change(kube, begun, "8")
    again = await change(kube, begun, "10")

    assert again["metadata"]["annotations"][EPOCH] == "10"


@pytest.mark.parametrize("replaces", ["999999", "1000001", "", "9"])
async def test_naming_another_epoch_is_no_help(kube: Kube, name: str, replaces: str) -> None:
    live = await stored(kube, HARDWARE, name, "1000000")

    with pytest.raises(Forbidden):
        await change(kube, live, "9", **{REPLACES: replaces})


async def test_what_was_named_once_helps_nobody_later(kube: Kube, name: str) -> None:
    """The annotation stays on the object; when the epochs have come to the same number again, it means nothing."""
    live = await stored(kube, HARDWARE, name, "50", **{REPLACES: "50"})

    with pytest.raises(Forbidden):
        await change(kube, live, "49")
    with pytest.raises(Forbidden):
        await change(kube, live, "49", **{REPLACES: "50"})
