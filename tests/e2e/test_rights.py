"""The shipped roles grant nothing that is never used: what Dragonfly did, by the API server's own audit log.

The other half, that each right is needed and that the check names it, is `tests/integration/kube/test_rights.py`.
"""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from dragonfly.sandbox.controlplane import NAMESPACE
from dragonfly.sandbox.fate import Behaviour
from tests.e2e.audit import OURS
from tests.e2e.bmc import Bmc
from tests.e2e.fleet import two_actions
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually, eventually_equal
from tests.rights import FENCE, ROLE, Right, rights

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

_PATIENCE: Final = 60.0
_ANY: Final = {"If-Match": "*"}


GRANTED: Final = {*rights(ROLE), *rights(FENCE)}


def used(site: Site) -> set[Right]:
    """What Dragonfly did, and the API server carried out or had nothing to say against."""
    complete, _, _ = site.plane.audit_log.read_bytes().rpartition(b"\n")
    return {right for line in complete.splitlines() for right in _used(json.loads(line))}


def _used(line: dict[str, Any]) -> list[Right]:
    code = line.get("responseStatus", {}).get("code", 0)
    asked = line.get("objectRef", {})
    # A request that was refused for its credentials is nobody's.
    if line["user"].get("username") != OURS or not asked or code in {401, 403}:
        return []
    resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
    verbs = [line["verb"]]
    if line["verb"] == "patch" and code == 201:  # server-side apply of what was not there: the server asks for both
        verbs.append("create")
    return [Right(asked.get("apiGroup", ""), resource, verb) for verb in verbs]


def test_each_right_that_is_granted_is_used(site: Site) -> None:
    with Bmc().running() as bmc:
        [machine] = site.machines(1)
        _switched_on(site, machine, bmc)
        _provisioned(site, machine)
        _meddled_with(site, machine)
        _edited_and_deleted(site, machine)

    eventually_equal(lambda: GRANTED - used(site), set(), within=_PATIENCE)


def _switched_on(site: Site, machine: Machine, bmc: Bmc) -> None:
    document = machine.document()
    document["spec"]["bmc"] = {
        "host": "127.0.0.1",
        "protocol": "rpc",
        "username": "admin",
        "password": "first",
        "options": {"consumerURL": bmc.url},
    }
    site.api.post("machines", document)
    eventually_equal(lambda: _power(site, machine), "off", within=_PATIENCE)
    site.api.post(f"machines/{machine.name}/power", {"action": "on"})
    eventually_equal(lambda: _power(site, machine), "on", within=_PATIENCE)


def _provisioned(site: Site, machine: Machine) -> None:
    """Twice, then once more after somebody has edited what it takes, then cancelled while it runs."""
    template = site.template("ubuntu-2404", two_actions())
    with site.agents([machine], Behaviour(seed=1)):
        for _ in range(2):
            _reaches(site, site.provision(machine, template), "Succeeded")
        _edit_templates(site)
        _reaches(site, site.provision(machine, template), "Succeeded")
    with site.agents([machine], Behaviour(seed=2, shortest=30.0, longest=30.0)):
        cancelled = site.provision(machine, template)
        _reaches(site, cancelled, "Running")
        site.api.post(f"provisions/{cancelled}/cancel", {"reason": "no more"})
        _reaches(site, cancelled, "Cancelled")
        eventually_equal(lambda: site.netboot()[machine.name], [False], within=_PATIENCE)


def _meddled_with(site: Site, machine: Machine) -> None:
    """The same thing twice: the second time, what is told of it is counted."""
    for _ in range(2):
        site.open_netboot(machine)
        eventually_equal(lambda: site.netboot()[machine.name], [False], within=_PATIENCE)


def _edited_and_deleted(site: Site, machine: Machine) -> None:
    path = f"machines/{machine.name}"
    edited = {"spec": {"bmc": {**site.api.get(path)["spec"]["bmc"], "password": "second", "insecureTLS": True}}}
    assert site.api.patiently("PATCH", path, edited, headers=_ANY).ok
    eventually_equal(lambda: _bmc(site, machine)["spec"]["connection"]["insecureTLS"], True, within=_PATIENCE)
    assert site.api.patiently("DELETE", path, headers=_ANY).ok
    eventually("its objects are gone", lambda: machine.name not in site.hardware(), within=_PATIENCE)


def _power(site: Site, machine: Machine) -> str:
    return str(site.api.get(f"machines/{machine.name}")["status"].get("power"))


def _reaches(site: Site, provision: str, phase: str) -> None:
    eventually_equal(lambda: site.phase(provision), phase, within=_PATIENCE)


def _edit_templates(site: Site) -> None:
    """As nobody should: they are Dragonfly's."""
    place = ("tinkerbell.org", "v1alpha1", NAMESPACE, "templates")
    listed: Any = site.cluster.list_namespaced_custom_object(*place)
    for item in listed["items"]:
        site.cluster.patch_namespaced_custom_object(*place, item["metadata"]["name"], {"spec": {"data": "edited"}})


def _bmc(site: Site, machine: Machine) -> Any:
    return site.cluster.get_namespaced_custom_object(
        "bmc.tinkerbell.org", "v1alpha1", NAMESPACE, "machines", machine.name
    )
