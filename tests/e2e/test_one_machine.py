"""A machine's life: provisioned again, cancelled at every phase, refused while busy or locked, deleted."""

from collections.abc import Iterator
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest

from dragonfly.sandbox.fate import Behaviour
from tests.e2e.api import Answer, Api
from tests.e2e.conftest import StartSite
from tests.e2e.fleet import ACTIONS, ENDS, starts, two_actions, workflow, writes_of
from tests.e2e.site import Agents, Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

QUICK = Behaviour(shortest=0.1, longest=0.2)
SLOW = Behaviour(shortest=10.0, longest=10.0)
"""Time to see that an action has begun, and to cancel it, also where all are kept waiting."""
LEASE = {"DRAGONFLY_LEASE_TTL": "30"}
"""A replica that is frozen keeps its shards for so many seconds, however long it takes to ask others for something."""
TEMPLATE = "two-actions"


@pytest.fixture(scope="module")
def site(start_site: StartSite) -> Iterator[Site]:
    with start_site(3, LEASE) as site:
        site.template(TEMPLATE, two_actions())
        yield site


@pytest.fixture
def machine(site: Site) -> Machine:
    return site.registered()[0]


def test_a_second_provision_removes_the_first_ones_workflow_before_it_is_armed(site: Site, machine: Machine) -> None:
    with site.agents([machine], QUICK) as agents:
        first = _provisioned(site, machine)
        second = _provisioned(site, machine)

    audit = site.audit()
    assert writes_of(audit, [first, second]) == {first: (1, 1), second: (1, 1)}
    [removed] = audit.deletes(workflow(first))
    [armed] = audit.armings(workflow(second))
    assert removed.answered_at <= armed.asked_at
    assert audit.running_deleted() == []
    assert _started(agents, machine) == [(first, action) for action in ACTIONS] + [
        (second, action) for action in ACTIONS
    ]
    eventually_equal(lambda: _history(site, machine), {first: "Succeeded", second: "Succeeded"}, within=60)
    assert list(site.workflows()).count(workflow(first)) == 0


def test_results_and_foreign_edits_are_told_beside_the_objects_in_kubernetes(site: Site, machine: Machine) -> None:
    with site.agents([machine], QUICK):
        _provisioned(site, machine)
    eventually("netboot is closed", lambda: site.netboot()[machine.name] == [False], within=60)

    site.open_netboot(machine)

    eventually("it is closed again", lambda: site.netboot()[machine.name] == [False], within=60)
    told = {"ProvisionSucceeded", "ForeignEdit"}
    eventually("kubectl get events shows both", lambda: site.events(machine.name) == told, within=60)


def test_a_pending_provision_that_is_cancelled_never_gets_a_workflow(site: Site, machine: Machine) -> None:
    """The owner of its shard is frozen, so nobody takes the provision up until the lease has ended."""
    owner = eventually("it has an owner", lambda: _status(site, machine)["owner"], within=60)
    other = next(replica for replica in site.swarm.replicas if replica.id != owner)
    frozen = site.swarm.replica(owner).service
    frozen.signal(SIGSTOP)
    try:
        with site.api_at(other.url) as api:
            provision = _accepted(api, machine)
            cancelled = api.post(f"provisions/{provision}/cancel", {"reason": "not needed"})
    finally:
        frozen.signal(SIGCONT)

    assert cancelled["status"]["phase"] == "Cancelled"
    with site.agents([machine], QUICK) as agents:
        afterwards = _provisioned(site, machine)
    assert writes_of(site.audit(), [provision, afterwards]) == {provision: (0, 0), afterwards: (1, 1)}
    assert {name for name, _ in _started(agents, machine)} == {afterwards}
    assert site.phase(provision) == "Cancelled"


def test_an_armed_provision_of_a_silent_machine_that_is_cancelled_starts_nothing(site: Site, machine: Machine) -> None:
    provision = site.provision(machine, TEMPLATE)
    eventually("it is armed", lambda: site.audit().armings(workflow(provision)), within=60)
    assert site.phase(provision) == "Starting"

    _cancel(site, provision)

    assert site.status(provision)["error"]["reason"] == "Cancelled"
    assert workflow(provision) not in site.workflows()
    with site.agents([machine], QUICK) as agents:
        afterwards = _provisioned(site, machine)
    assert {name for name, _ in _started(agents, machine)} == {afterwards}


def test_a_lock_disarms_a_machine_that_has_not_begun(site: Site, machine: Machine) -> None:
    """P3: or it would be wiped, locked as it is, when it is switched on."""
    provision = site.provision(machine, TEMPLATE)
    eventually("it is armed", lambda: site.audit().armings(workflow(provision)), within=60)

    site.api.post(f"machines/{machine.name}/lock", {"reason": "holds the only copy"})

    eventually_equal(lambda: site.phase(provision), "Failed", within=60)
    assert site.status(provision)["error"]["reason"] == "MachineLocked"
    assert workflow(provision) not in site.workflows()
    eventually_equal(lambda: site.netboot()[machine.name], [False], within=60)
    site.api.post(f"machines/{machine.name}/unlock")
    with site.agents([machine], QUICK) as agents:
        afterwards = _provisioned(site, machine)
    assert {name for name, _ in _started(agents, machine)} == {afterwards}


def test_the_hardware_bears_witness_to_the_last_provision_through_every_later_write(
    site: Site, machine: Machine
) -> None:
    """P2: what an etcd that is put back does not know any more."""
    with site.agents([machine], QUICK):
        _provisioned(site, machine)
        last = _provisioned(site, machine)
    eventually_equal(lambda: site.netboot()[machine.name], [False], within=60)
    patch = {"spec": {"hostname": "renamed"}}
    site.api.patiently("PATCH", f"machines/{machine.name}", patch, headers={"If-Match": "*"})

    def hostname() -> str:
        return str(site.hardware()[machine.name]["spec"]["metadata"]["instance"]["hostname"])

    eventually_equal(hostname, "renamed", within=60)
    assert site.hardware()[machine.name]["metadata"]["annotations"]["dragonfly.io/provision"] == last


def test_a_running_provision_that_is_cancelled_starts_no_further_action(site: Site, machine: Machine) -> None:
    with site.agents([machine], SLOW) as agents:
        provision = site.provision(machine, TEMPLATE)
        eventually_equal(lambda: site.phase(provision), "Running", within=60)
        eventually("the first action is under way", lambda: _started(agents, machine), within=60)

        _cancel(site, provision)

        eventually_equal(lambda: site.netboot()[machine.name], [False], within=60)
        # The machine finishes what it does, and takes up only what was asked for afterwards.
        afterwards = _provisioned(site, machine)

    assert _started(agents, machine) == [
        (provision, ACTIONS[0]),
        (afterwards, ACTIONS[0]),
        (afterwards, ACTIONS[1]),
    ]
    assert [step for step in agents.trace() if step.refused] == []
    assert site.phase(provision) == "Cancelled"
    assert site.audit().running_deleted() == []


def test_what_has_ended_cannot_be_cancelled(site: Site, machine: Machine) -> None:
    with site.agents([machine], QUICK):
        provision = _provisioned(site, machine)

    answer = site.api.once("POST", f"provisions/{provision}/cancel", {})

    _refused(answer, 409, "provision-ended")
    assert site.phase(provision) == "Succeeded"


def test_a_machine_that_is_busy_is_not_provisioned_deleted_or_given_another_mac(site: Site, machine: Machine) -> None:
    provision = site.provision(machine, TEMPLATE)

    again = site.api.once("POST", f"machines/{machine.name}/provision", {"template": TEMPLATE})
    deleted = site.api.once("DELETE", f"machines/{machine.name}", headers={"If-Match": "*"})
    patch = {"spec": {"interfaces": [{"mac": site.machines(1)[0].mac, "dhcp": True}]}}
    moved = site.api.once("PATCH", f"machines/{machine.name}", patch, headers={"If-Match": "*"})

    for answer in (again, deleted, moved):
        assert provision in _refused(answer, 409, "provision-active")
    assert list(_history(site, machine)) == [provision]
    _cancel(site, provision)


def test_a_locked_machine_is_not_touched(site: Site, machine: Machine) -> None:
    site.settled(machine)
    before = site.hardware()[machine.name]
    site.api.post(f"machines/{machine.name}/lock", {"reason": "holds the only copy"})

    provision = site.api.once("POST", f"machines/{machine.name}/provision", {"template": TEMPLATE})
    deleted = site.api.once("DELETE", f"machines/{machine.name}", headers={"If-Match": "*"})
    forced = site.api.once("DELETE", f"machines/{machine.name}?force=true", headers={"If-Match": "*"})

    for answer in (provision, deleted, forced):
        assert "holds the only copy" in _refused(answer, 409, "machine-locked")
    assert _history(site, machine) == {}
    assert site.hardware()[machine.name] == before

    site.api.post(f"machines/{machine.name}/unlock")
    with site.agents([machine], QUICK):
        _provisioned(site, machine)


def test_a_deleted_machine_leaves_nothing_and_its_mac_is_free(site: Site, machine: Machine) -> None:
    with site.agents([machine], QUICK):
        provision = _provisioned(site, machine)
    document = site.api.get(f"machines/{machine.name}")
    etag = f'"{document["metadata"]["revision"]}"'

    answer = site.api.patiently("DELETE", f"machines/{machine.name}", headers={"If-Match": etag})

    assert answer.status == 202
    eventually("it is gone", lambda: site.api.once("GET", f"machines/{machine.name}").status == 404, within=60)
    assert machine.name not in site.hardware()
    assert workflow(provision) not in site.workflows()
    places = (f"machines/{machine.name}", f"observed/{machine.name}", f"active/{machine.name}")
    assert not {*places, f"unique/mac/{machine.mac}"} & site.stored().keys()
    heir = Machine(f"{machine.name}-heir", machine.mac)
    site.api.post("machines", heir.document())
    with site.agents([heir], QUICK):
        _provisioned(site, heir)


def _accepted(api: Api, machine: Machine) -> str:
    return str(api.post(f"machines/{machine.name}/provision", {"template": TEMPLATE})["metadata"]["name"])


def _provisioned(site: Site, machine: Machine) -> str:
    """Have it provisioned, and wait for that; the provision's name."""
    provision = site.provision(machine, TEMPLATE)
    eventually("it has ended", lambda: site.phase(provision) in ENDS, within=90)
    assert site.phase(provision) == "Succeeded", site.status(provision)
    return provision


def _cancel(site: Site, provision: str) -> None:
    site.api.post(f"provisions/{provision}/cancel", {"reason": "a test"})
    eventually("it has ended", lambda: site.phase(provision) in ENDS, within=90)
    assert site.phase(provision) == "Cancelled", site.status(provision)


def _started(agents: Agents, machine: Machine) -> list[tuple[str, str]]:
    """The actions that the machine's agent started, in order, each with its provision."""
    assert set(starts(agents.trace()).values()) <= {1}
    return [(provision, action) for _, provision, action in starts(agents.trace())]


def _status(site: Site, machine: Machine) -> dict[str, Any]:
    status: dict[str, Any] = site.api.get(f"machines/{machine.name}")["status"]
    return status


def _history(site: Site, machine: Machine) -> dict[str, str]:
    items = site.api.get(f"machines/{machine.name}/history")["items"]
    return {item["metadata"]["name"]: item["status"]["phase"] for item in items}


def _refused(answer: Answer, status: int, problem: str) -> str:
    """Check the problem document; its words."""
    assert (answer.status, answer.document["type"]) == (status, f"/problems/{problem}"), answer
    return str(answer.document["detail"])
