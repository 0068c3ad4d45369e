"""Machines move between two real clusters while their agents ask for work and replicas die; nothing runs again."""

import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from kubernetes import client as kubernetes
from kubernetes import config

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.ports import PortLease
from tests.e2e.audit import read_audit
from tests.e2e.fleet import starts, two_actions, workflow
from tests.e2e.site import Agents, Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_PATIENCE: Final = 90.0
_QUICK: Final = Behaviour(seed=1, shortest=0.05, longest=0.1)
_GROUP: Final = ("tinkerbell.org", "v1alpha1", NAMESPACE)


def test_machines_move_and_nothing_is_installed_again(
    control_plane: ControlPlane, second: ControlPlane, ports: PortLease, tmp_path: Path
) -> None:
    """P1, P2, P7: moved while their agents poll both Tinkerbells and the replicas that do it are killed."""
    with Site(control_plane, tmp_path, ports, 2).running() as site:
        site.template("ubuntu", two_actions())
        site.api.post("clusters", {"metadata": {"name": "fra"}, "spec": {"kubeconfig": second.kubeconfig.read_text()}})
        eventually("all of fra is driven", lambda: site.is_driven("fra"), within=_PATIENCE)
        machines = site.registered(6)
        there = Agents(tmp_path / "agents-there", second.tink_server, machines, _QUICK)
        there.service.start()
        try:
            with site.agents(machines, _QUICK) as here:
                provisions = {machine.name: site.provision(machine, "ubuntu") for machine in machines}
                for name in provisions.values():
                    eventually(f"{name} succeeded", partial(_has_succeeded, site, name), within=_PATIENCE)
                once = starts(here.trace())

                for number, machine in enumerate(machines):
                    site.api.post(f"machines/{machine.name}/move", {"cluster": "fra"})
                    if number == 1:
                        site.swarm.kill("a", signal.SIGKILL)
                site.swarm.kill("b", signal.SIGKILL)
                for machine in machines:
                    eventually(f"{machine.name} is in fra", partial(_is_in, site, machine, "fra"), within=_PATIENCE)

                _check_moved(site, second, machines)
                for machine in machines:
                    history = site.api.get(f"machines/{machine.name}/history")["items"]
                    assert [item["metadata"]["name"] for item in history] == [provisions[machine.name]]
                    eventually_equal(partial(_phase, site, machine), "Deployed", within=_PATIENCE)
                assert starts(here.trace()) == once
                assert starts(there.trace()) == Counter()

                first = machines[0]
                again = site.provision(first, "ubuntu")
                eventually("it is installed in fra", lambda: site.phase(again) == "Succeeded", within=_PATIENCE)
                assert len(read_audit(second.audit_log).armings(workflow(again))) == 1
                assert starts(here.trace()) == once
                assert set(starts(there.trace()).values()) == {1}
        finally:
            there.service.stop()


def _has_succeeded(site: Site, provision: str) -> bool:
    return site.phase(provision) == "Succeeded"


def _phase(site: Site, machine: Machine) -> str:
    return str(site.api.get(f"machines/{machine.name}")["status"]["phase"])


def _is_in(site: Site, machine: Machine, cluster: str) -> bool:
    found = site.api.get(f"machines/{machine.name}")
    conditions = {condition["type"]: condition["status"] for condition in found["status"].get("conditions", [])}
    return bool(found["spec"]["cluster"] == cluster and conditions.get("Synced") == "True")


def _check_moved(site: Site, second: ControlPlane, machines: list[Machine]) -> None:
    eventually_equal(site.hardware, {}, within=_PATIENCE)
    eventually_equal(site.workflows, {}, within=_PATIENCE)
    with config.new_client_from_config(str(second.admin_kubeconfig)) as admin:  # type: ignore[no-untyped-call] # the library's config has no types
        api = kubernetes.CustomObjectsApi(admin)
        closed = {machine.name: False for machine in machines}
        eventually_equal(partial(_open_for, api), closed, within=_PATIENCE)
        workflows: Any = api.list_namespaced_custom_object(*_GROUP, "workflows")
    assert workflows["items"] == []


def _open_for(api: kubernetes.CustomObjectsApi) -> dict[str, bool]:
    """Whether each machine there may boot from the network."""
    hardware: Any = api.list_namespaced_custom_object(*_GROUP, "hardware")
    return {
        item["metadata"]["name"]: item["spec"]["interfaces"][0]["netboot"]["allowPXE"] for item in hardware["items"]
    }
