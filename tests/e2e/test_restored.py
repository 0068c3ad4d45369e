"""P1, P2 with real parts: a cluster that comes back from a backup of when a Workflow was staged runs nothing again."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.ports import PortLease
from tests.e2e.fleet import ENDS, starts, workflow
from tests.e2e.site import Agents, Site
from tests.e2e.test_fence import new_etcd, new_swarm, restored
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

_SLOW: Final = Behaviour(shortest=600, longest=600)
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
        eventually("it is staged", lambda: workflow(provision) in site.workflows(), within=30)
        backup = _saved(second, tmp_path)
        assert eventually("it is armed", lambda: _spec(site, provision).get("disabled") is False, within=60)
        second.tinkerbell.service.start()
        with site.agents([machine], _SLOW) as agents:
            eventually("the machine has begun", lambda: _begun(agents, machine.mac, provision), within=60)
            eventually_equal(lambda: site.phase(provision), "Running", within=30)
            _put_back(second, backup)
            eventually("it has ended", lambda: site.phase(provision) in ENDS, within=60)

            assert site.status(provision)["error"]["reason"] == "WorkflowRewound"
            second.tinkerbell.service.start()
            eventually_equal(site.workflows, {}, within=30)
            eventually_equal(site.netboot, {machine.name: [False]}, within=30)
        assert _begun(agents, machine.mac, provision) == 1
        assert not site.api.get(f"machines/{machine.name}")["status"].get("os")
    assert len(site.audit().armings(workflow(provision))) == 1


def _spec(site: Site, provision: str) -> dict[str, Any]:
    found: dict[str, Any] = site.workflows()[workflow(provision)]["spec"]
    return found


def _begun(agents: Agents, mac: str, provision: str) -> int:
    counted: Counter[tuple[str, str, str]] = starts(agents.trace())
    return counted[mac, provision, "write"]


def _saved(plane: ControlPlane, directory: Path) -> Path:
    [member] = plane.etcd.members
    member.service.stop()
    backup = Path(shutil.copytree(member.data, directory / "cluster-backup"))
    member.service.start()
    return backup


def _put_back(plane: ControlPlane, backup: Path) -> None:
    """As docs/clusters.md says: Tinkerbell and the API server are stopped first."""
    plane.tinkerbell.service.stop()
    plane.apiserver.service.stop()
    restored(plane.etcd, backup)
    plane.apiserver.service.start()
