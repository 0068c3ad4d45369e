"""P1, P2 with real parts: a cluster that comes back from a backup with old Workflows runs nothing again."""

import shutil
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, Final

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.keeper import Keepers
from dragonfly.sandbox.ports import PortLease
from tests.e2e.fleet import ACTIONS, ENDS, each_once, starts, two_actions, workflow
from tests.e2e.site import Agents, Machine, Site
from tests.e2e.test_fence import new_etcd, new_swarm, restored
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

_SLOW: Final = Behaviour(shortest=600, longest=600)
_STEADY: Final = Behaviour(shortest=4, longest=4)
_RAW: Final = """
name: raw
global_timeout: 900
tasks:
- name: install
  worker: "{{ .device_1 }}"
  actions:
  - {name: write, image: quay.io/tinkerbell/actions/image2disk:latest, timeout: 800}
"""
"""Tinkerbell's own YAML stays staged until Tinkerbell has said whom it is for, or for 10 s: time for a backup."""


def test_a_machine_that_was_being_installed_is_not_installed_again(
    second: ControlPlane, ports: PortLease, tmp_path: Path
) -> None:
    with new_etcd(ports, tmp_path) as etcd, new_swarm(second, ports, tmp_path, etcd) as site:
        site.template("raw", {"raw": _RAW, "globalTimeout": 900})
        [machine] = site.registered()
        site.settled(machine)
        second.tinkerbell.service.stop()
        provision = site.provision(machine, "raw")
        eventually("it is staged", lambda: workflow(provision) in site.workflows(), within=60)
        backup = _saved(second, tmp_path)
        assert eventually("it is armed", lambda: _spec(site, provision).get("disabled") is False, within=60)
        second.tinkerbell.service.start()
        with site.agents([machine], _SLOW) as agents:
            eventually("the machine has begun", lambda: _begun(agents, machine.mac, provision), within=60)
            eventually_equal(lambda: site.phase(provision), "Running", within=60)
            _put_back(second, backup)
            eventually("it has ended", lambda: site.phase(provision) in ENDS, within=60)

            assert site.status(provision)["error"]["reason"] == "WorkflowRewound"
            second.tinkerbell.service.start()
            eventually_equal(site.workflows, {}, within=60)
            eventually_equal(site.netboot, {machine.name: [False]}, within=60)
        assert _begun(agents, machine.mac, provision) == 1
        assert not site.api.get(f"machines/{machine.name}")["status"].get("os")
    assert len(site.audit().armings(workflow(provision))) == 1


def test_machines_that_are_installed_stay_so_whatever_the_backup_says(
    second: ControlPlane, ports: PortLease, tmp_path: Path
) -> None:
    """P2: it has one Workflow that nobody was served yet, one that runs, and netboot open for both machines."""
    with new_etcd(ports, tmp_path) as etcd, new_swarm(second, ports, tmp_path, etcd) as site:
        site.template("two-actions", two_actions())
        running, armed = machines = site.registered(2)
        for machine in machines:
            site.settled(machine)
        with site.agents([running], _STEADY) as first, ExitStack() as kept:
            # Tinkerbell ends by itself when it cannot renew its leadership for too long: while the backup is made, say.
            kept.enter_context(Keepers((second.tinkerbell.service,), restart=True, on_death=lambda _: None))
            asked = {running: site.provision(running, "two-actions")}
            eventually_equal(lambda: _state(site, asked[running]), "RUNNING", within=60)
            # The one machine stands still, and the other one is not switched on yet.
            first.service.signal(Signals.SIGSTOP)
            asked[armed] = site.provision(armed, "two-actions")
            eventually("it waits for its agent", lambda: _state(site, asked[armed]) == "PENDING", within=60)
            backup = _saved(second, tmp_path)
            assert {machine: _state(site, name) for machine, name in asked.items()} == {
                running: "RUNNING",
                armed: "PENDING",
            }
            assert site.netboot() == {machine.name: [True] for machine in machines}
            first.service.signal(Signals.SIGCONT)
            with site.agents([armed], _STEADY) as other:
                for machine, provision in asked.items():
                    eventually_equal(partial(site.phase, provision), "Succeeded", within=120)
                    eventually_equal(partial(_phase, site, machine), "Deployed", within=60)
                eventually_equal(site.netboot, {machine.name: [False] for machine in machines}, within=60)

                kept.close()
                _put_back(second, backup)
                for machine in machines:
                    eventually("it is told", partial(_old_workflow, site, machine), within=60)
                second.tinkerbell.service.start()
                eventually_equal(site.netboot, {machine.name: [False] for machine in machines}, within=60)
                staged = workflow(asked[armed])
                eventually("no agent was served it, it is gone", lambda: staged not in site.workflows(), within=60)
                eventually_equal(lambda: _state(site, asked[running]), "FAILED", within=60)
                assert not site.workflows()[workflow(asked[running])]["status"].get("agentID")
                assert {_phase(site, machine) for machine in machines} == {"Deployed"}

                # The agents poll, and are served what somebody asks for anew.
                again = {machine: site.provision(machine, "two-actions") for machine in machines}
                for provision in again.values():
                    eventually_equal(partial(site.phase, provision), "Succeeded", within=120)
        once = Counter(
            (machine.mac, provision, action)
            for given in (asked, again)
            for machine, provision in given.items()
            for action in ACTIONS
        )
        assert starts([*first.trace(), *other.trace()]) == once
        assert {site.phase(provision) for provision in asked.values()} == {"Succeeded"}
        eventually_equal(site.netboot, {machine.name: [False] for machine in machines}, within=60)
        eventually_equal(lambda: {_phase(site, machine) for machine in machines}, {"Deployed"}, within=60)
    each_once(site.audit, [*asked.values(), *again.values()])


def _spec(site: Site, provision: str) -> dict[str, Any]:
    found: dict[str, Any] = site.workflows()[workflow(provision)]["spec"]
    return found


def _begun(agents: Agents, mac: str, provision: str) -> int:
    counted: Counter[tuple[str, str, str]] = starts(agents.trace())
    return counted[mac, provision, "write"]


def _state(site: Site, provision: str) -> str:
    """What Tinkerbell says of its Workflow; empty if there is none, or nothing is said yet."""
    return str(site.workflows().get(workflow(provision), {}).get("status", {}).get("state", ""))


def _phase(site: Site, machine: Machine) -> str:
    return str(site.api.get(f"machines/{machine.name}")["status"]["phase"])


def _old_workflow(site: Site, machine: Machine) -> bool:
    """Whether people are told of a Workflow that might have run again, by the machine and in the cluster."""
    conditions = site.api.get(f"machines/{machine.name}")["status"].get("conditions", ())
    is_told = any((one["type"], one["status"]) == ("OldWorkflow", "True") for one in conditions)
    return is_told and "OldWorkflowStopped" in site.events(machine.name)


def _saved(plane: ControlPlane, directory: Path) -> Path:
    [member] = plane.etcd.members
    member.service.stop()
    backup = Path(shutil.copytree(member.data, directory / "cluster-backup"))
    member.service.start()
    # It says so when it has found its etcd again.
    plane.apiserver.service.wait_ready()
    return backup


def _put_back(plane: ControlPlane, backup: Path) -> None:
    """As docs/clusters.md says: Tinkerbell and the API server are stopped first."""
    plane.tinkerbell.service.stop()
    plane.apiserver.service.stop()
    restored(plane.etcd, backup)
    plane.apiserver.service.start()
