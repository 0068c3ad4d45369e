"""Power actions, carried out by real Rufio on a BMC that speaks its rpc protocol."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from dragonfly.sandbox.controlplane import NAMESPACE
from tests.e2e.bmc import Bmc
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


class Powered(NamedTuple):
    """A machine and its BMC."""

    machine: Machine
    bmc: Bmc


@pytest.fixture
def powered(site: Site) -> Iterator[Powered]:
    with Bmc().running() as bmc:
        [machine] = site.machines(1)
        document = machine.document()
        document["spec"]["bmc"] = {"host": "127.0.0.1", "protocol": "rpc", "options": {"consumerURL": bmc.url}}
        site.api.post("machines", document)
        eventually_equal(lambda: _status(site, machine)["power"], "off", within=60)
        yield Powered(machine, bmc)


def test_a_machine_is_switched_on_and_off_and_its_status_follows(site: Site, powered: Powered) -> None:
    machine, bmc = powered

    on = _power(site, machine, "on")

    assert (on["succeeded"], on["reason"], on["requestedBy"]) == (True, "Completed", "admin")
    assert bmc.power == "on"
    eventually_equal(lambda: _status(site, machine)["power"], "on", within=60)
    assert _power(site, machine, "off")["succeeded"]
    eventually_equal(lambda: _status(site, machine)["power"], "off", within=60)
    assert bmc.asked == ["on", "off"]
    eventually_equal(lambda: _condition(site, machine, "BmcReachable").get("status"), "True", within=60)


def test_each_action_is_carried_out_once_and_leaves_nothing_behind(site: Site, powered: Powered) -> None:
    machine, bmc = powered

    for action in ("cycle", "reset", "pxe"):
        assert _power(site, machine, action)["succeeded"]

    assert bmc.asked == ["cycle", "reset", "off", "pxe", "on"]
    eventually_equal(lambda: _condition(site, machine, "PowerAction").get("status"), "True", within=60)
    eventually("its Jobs and Tasks are gone", lambda: _left(site, machine) == [], within=60)


def test_a_bmc_that_fails_is_heard(site: Site, powered: Powered) -> None:
    machine, bmc = powered
    bmc.failure = "the fuse is blown"

    result = _power(site, machine, "on")

    assert (result["succeeded"], result["reason"]) == (False, "Failed")
    assert "the fuse is blown" in result["message"]
    condition = eventually("so says its condition", lambda: _condition(site, machine, "PowerAction"), within=60)
    assert (condition["status"], condition["reason"]) == ("False", "Failed")
    assert "the fuse is blown" in condition["message"]
    assert bmc.asked == ["on"]


def test_a_locked_machine_refuses(site: Site, powered: Powered) -> None:
    """P3."""
    machine, bmc = powered
    site.api.post(f"machines/{machine.name}/lock", {"reason": "audit"})

    refused = site.api.patiently("POST", f"machines/{machine.name}/power", {"action": "on"})

    assert (refused.status, refused.document["type"]) == (409, "/problems/machine-locked")
    site.api.post(f"machines/{machine.name}/unlock")
    assert _power(site, machine, "on")["succeeded"]
    assert bmc.asked == ["on"]


def test_a_power_action_is_carried_out_once_though_its_owner_dies(site: Site, powered: Powered) -> None:
    machine, bmc = powered
    owner = eventually("it has an owner", lambda: _status(site, machine)["owner"], within=60)
    asked = site.api.post(f"machines/{machine.name}/power", {"action": "cycle"})

    site.swarm.replica(owner).service.kill()

    assert _result(site, machine, asked)["succeeded"]
    assert bmc.asked == ["cycle"]


def test_a_batch_switches_several_machines(site: Site, powered: Powered) -> None:
    machine, bmc = powered
    operations = [
        {"op": "power", "name": machine.name, "body": {"action": "on"}},
        {"op": "power", "name": "nobody", "body": {"action": "on"}},
    ]

    answer = site.api.post("machines:batch", {"operations": operations})

    assert [result["status"] for result in answer["results"]] == [202, 404]
    assert _result(site, machine, answer["results"][0]["body"])["succeeded"]
    assert bmc.asked == ["on"]


def _power(site: Site, machine: Machine, action: str) -> dict[str, Any]:
    """Ask for it and wait for its result."""
    return _result(site, machine, site.api.post(f"machines/{machine.name}/power", {"action": action}))


def _result(site: Site, machine: Machine, asked: dict[str, Any]) -> dict[str, Any]:
    def result() -> dict[str, Any]:
        found: dict[str, Any] = _status(site, machine).get("lastPowerAction", {})
        return found if found.get("name") == asked["metadata"]["name"] else {}

    return eventually(f"{asked['spec']['action']} has its result", result, within=90)


def _status(site: Site, machine: Machine) -> dict[str, Any]:
    status: dict[str, Any] = site.api.get(f"machines/{machine.name}")["status"]
    return status


def _condition(site: Site, machine: Machine, kind: str) -> dict[str, Any]:
    conditions = _status(site, machine).get("conditions", [])
    found: dict[str, Any] = next((condition for condition in conditions if condition["type"] == kind), {})
    return found


def _left(site: Site, machine: Machine) -> list[str]:
    """The Jobs of the machine, and all Tasks of Jobs that are gone."""
    group = ("bmc.tinkerbell.org", "v1alpha1", NAMESPACE)
    jobs: Any = site.cluster.list_namespaced_custom_object(*group, "jobs")
    tasks: Any = site.cluster.list_namespaced_custom_object(*group, "tasks")
    names = [job["metadata"]["name"] for job in jobs["items"]]
    mine = [job["metadata"]["name"] for job in jobs["items"] if job["spec"]["machineRef"]["name"] == machine.name]
    return mine + [
        task["metadata"]["name"] for task in tasks["items"] if task["metadata"]["labels"]["owner-name"] not in names
    ]
