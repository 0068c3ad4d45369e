"""Two clusters in one swarm, registered, changed and removed while it runs; real API servers and Tinkerbells."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.keeper import Keepers
from dragonfly.sandbox.ports import PortLease
from tests.e2e.api import Answer
from tests.e2e.site import Agents, Machine, Site
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_PATIENCE: Final = 60.0
_ACTION: Final = {"name": "write", "image": "quay.io/tinkerbell/actions/image2disk:latest", "timeout": 60}
_TEMPLATE: Final = {"os": {"family": "ubuntu", "version": "24.04", "arch": "x86_64"}, "actions": [_ACTION]}
_ANY: Final = {"If-Match": "*"}
_QUICK: Final = Behaviour(seed=1, shortest=0.05, longest=0.1)


def test_a_second_cluster_comes_freezes_changes_its_token_and_goes(
    control_plane: ControlPlane, second: ControlPlane, ports: PortLease, tmp_path: Path
) -> None:
    """P6, P12: one swarm, two clusters; what befalls the one is told, and nothing of the other's."""
    with Site(control_plane, tmp_path, ports, 2).running() as site:
        site.template("ubuntu", _TEMPLATE)
        site.api.post("clusters", {"metadata": {"name": "fra"}, "spec": {"kubeconfig": second.kubeconfig.read_text()}})
        eventually("all of fra is driven", lambda: site.is_driven("fra"), within=_PATIENCE)
        asked = site.api.post("clusters/fra/check")
        assert asked["ok"]
        found: Any = eventually("what it lacks is told", lambda: _status(site).get("checkup"), within=_PATIENCE)
        assert found == {"namespace": NAMESPACE, "version": asked["version"]}
        here, there = site.machines(2)
        site.api.post("machines", here.document())
        site.api.post("machines", _in_fra(there))

        with ExitStack() as agents:
            # It ends by itself when its API server stands still for too long; a cluster starts it again.
            agents.enter_context(Keepers((second.tinkerbell.service,), restart=True, on_death=lambda _: None))
            agents.enter_context(site.agents([here], _QUICK))
            agents.enter_context(_agents(tmp_path, second, there))
            _provisioned(site, here, there)

            second.apiserver.service.signal(signal.SIGSTOP)
            told = eventually("fra is told to be out of reach", lambda: _unreached(site), within=_PATIENCE)
            assert told["reason"]
            waiting = site.provision(there, "ubuntu")
            _provisioned(site, here)
            assert site.phase(waiting) in {"Pending", "Starting"}

            second.apiserver.service.signal(signal.SIGCONT)
            eventually("fra is driven again", lambda: site.is_driven("fra"), within=_PATIENCE)
            eventually("what waited succeeded", lambda: site.phase(waiting) == "Succeeded", within=_PATIENCE)

            account = _renew(site, second, tmp_path)
            _provisioned(site, there)
            eventually("the new token is used", lambda: account in second.audit_log.read_text(), within=_PATIENCE)
            _provisioned(site, there)

            assert _delete(site, "clusters/fra").status == 409
            gone = f"machines/{there.name}"
            assert _delete(site, gone).ok
            eventually("it is gone", lambda: site.api.once("GET", gone).status == 404, within=_PATIENCE)
            # Whoever is asked may still know of it.
            eventually("fra is removed", lambda: _delete(site, "clusters/fra").ok, within=_PATIENCE)
            assert site.api.once("POST", "machines", _in_fra(there)).status == 422
            _provisioned(site, here)

        site.api.post("clusters", {"metadata": {"name": "fra"}, "spec": {"kubeconfig": second.kubeconfig.read_text()}})
        eventually("fra is driven anew", lambda: site.is_driven("fra"), within=_PATIENCE)
        kubeconfig = control_plane.kubeconfig.read_text()
        refused = site.api.once("PATCH", "clusters/fra", {"spec": {"kubeconfig": kubeconfig}}, headers=_ANY)
        assert refused.status == 409
        assert "Cluster local leads to namespace tinkerbell of the same API server" in refused.document["detail"]

        lead = {"kubeconfig": control_plane.admin_kubeconfig.read_text(), "namespace": _namespace(control_plane, site)}
        assert site.api.once("PATCH", "clusters/fra", {"spec": lead}, headers=_ANY).ok
        (elsewhere,) = site.machines(1)
        site.api.post("machines", _in_fra(elsewhere))
        path = f"/apis/tinkerbell.org/v1alpha1/namespaces/{lead['namespace']}/hardware/{elsewhere.name}"
        admin = control_plane.apiserver.admin
        eventually("it is there", lambda: admin.request("GET", path).status == 200, within=_PATIENCE)


def _namespace(plane: ControlPlane, site: Site) -> str:
    """Make a namespace beside Tinkerbell's, for this test alone."""
    name = f"{NAMESPACE}-{site.number}"
    plane.apiserver.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def _in_fra(machine: Machine) -> dict[str, Any]:
    document = machine.document()
    document["spec"]["cluster"] = "fra"
    return document


def _status(site: Site) -> dict[str, Any]:
    status: dict[str, Any] = site.api.get("clusters/fra")["status"]
    return status


def _unreached(site: Site) -> dict[str, Any]:
    """How the cluster is, if it is that nobody reaches it."""
    status = _status(site)
    return {} if status["reachable"] else status


def _provisioned(site: Site, *machines: Machine) -> None:
    provisions = [site.provision(machine, "ubuntu") for machine in machines]
    for provision in provisions:
        eventually(f"{provision} succeeded", lambda: site.phase(provision) == "Succeeded", within=_PATIENCE)  # noqa: B023 - called within its round alone


@contextmanager
def _agents(directory: Path, plane: ControlPlane, machine: Machine) -> Iterator[None]:
    """Switch a machine on that boots from another cluster's Tinkerbell."""
    agents = Agents(directory / "agents-there", plane.tink_server, [machine], _QUICK)
    agents.service.start()
    try:
        yield
    finally:
        agents.service.stop()


def _renew(site: Site, plane: ControlPlane, directory: Path) -> str:
    """Give the swarm the token of another service account; the account as the API server's audit log names it."""
    name = "dragonfly-renewed"
    metadata = {"name": name, "namespace": NAMESPACE}
    plane.apiserver.admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dragonfly"},
        "subjects": [{"kind": "ServiceAccount", **metadata}],
    }
    plane.apiserver.admin.apply(binding)
    path = plane.apiserver.kubeconfig(directory / "renewed.kubeconfig", NAMESPACE, name, token_hours=1)
    answer = site.api.once("PATCH", "clusters/fra", {"spec": {"kubeconfig": path.read_text()}}, headers=_ANY)
    assert answer.ok, answer.document
    return f"system:serviceaccount:{NAMESPACE}:{name}"


def _delete(site: Site, path: str) -> Answer:
    return site.api.once("DELETE", path, headers=_ANY)
