"""Dragonfly moves out of pods to a VM and back, by nothing but starting the one and stopping the other.

A pod is a process with what Kubernetes gives to one: the service account's files at their place, the API server's
address in the environment, and settings as `deploy/k3s` has them. The VM is told nothing but a kubeconfig and where its
own files are; it finds etcd through the cluster.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from dragonfly.sandbox import apt
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.haproxy import LoadBalancer
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.swarm import Swarm
from tests.e2e.fleet import all_ended, each_once, expected_starts, starts, two_actions
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

VM: Final = "vm"
WAVE: Final = 6
"""Machines that are under way whenever something is stopped."""
BEHAVIOUR: Final = Behaviour(seed=3, shortest=3.0, longest=6.0)
"""Whoever is slow to look must still find some at work."""
_PATIENCE: Final = 120.0
_SECRETS: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets"


class Moving:
    """Two pods, one VM, and two pods again, behind one load balancer; `site` is the first pods and what they serve."""

    def __init__(self, plane: ControlPlane, directory: Path, ports: PortLease) -> None:
        """Nothing starts before `running`, and then the first pods alone."""
        hosts = dict.fromkeys("ab", Host(enter=as_pod(plane, directory)))
        self.site = Site(
            plane, directory, ports, 2, environment=_pod(plane), own=_named("dragonfly-6c9f-"), hosts=hosts
        )
        files = {
            "DRAGONFLY_ADMIN_TOKEN_FILE": str(directory / "admin.token"),
            "DRAGONFLY_SECRET_KEY_FILE": str(directory / "secret.key"),
            "DRAGONFLY_LOG_FORMAT": "json",
        }
        self.vm = Swarm(
            directory / "vm",
            ports,
            files | {"KUBECONFIG": str(plane.kubeconfig)},
            replicas=1,
            restart=False,
            own={"a": {"DRAGONFLY_REPLICA": VM}},
        )
        self.pods_again = Swarm(
            directory / "pods-again",
            ports,
            files | _pod(plane) | _etcd(plane, self.site.prefix),
            replicas=2,
            restart=False,
            own=_named("dragonfly-7d21-"),
            hosts=hosts,
        )
        everybody = (*self.site.swarm.replicas, *self.vm.replicas, *self.pods_again.replicas)
        self.site.balancer = LoadBalancer(
            apt.program("haproxy", SILENT),
            directory / "balancer",
            port=ports.take(),
            stats_port=ports.take(),
            replicas=[replica.url.removeprefix("http://") for replica in everybody],
        )
        self.site.api = self.site.api_at(self.site.balancer.url)

    @contextmanager
    def running(self) -> Iterator["Moving"]:
        with self.site.running():
            try:
                yield self
            finally:
                self.vm.stop()
                self.pods_again.stop()

    def mode(self, swarm: Swarm) -> dict[str, Any]:
        """How a replica says that it runs."""
        with self.site.api_at(swarm.replicas[0].url) as api:
            mode: dict[str, Any] = api.get("mode")
        return mode

    def drivers(self) -> set[str]:
        """Who drives the cluster's shards; "" for nobody."""
        return set(self.site.api.get("clusters/local")["status"]["owners"].values())

    def begin(self, machines: list[Machine], template: str) -> dict[str, str]:
        """Have machines provisioned, and return when their agents are at work; the provision of each."""
        asked = {machine.name: self.site.provision(machine, template) for machine in machines}
        eventually(
            "some of them run",
            lambda: "Running" in {self.site.phase(name) for name in asked.values()},
            within=_PATIENCE,
        )
        return asked


def _named(prefix: str) -> dict[str, dict[str, str]]:
    return {name: {"DRAGONFLY_REPLICA": f"{prefix}{name}"} for name in "ab"}


def _pod(plane: ControlPlane) -> dict[str, str]:
    """What a pod finds in its environment, beside etcd and its files."""
    url = urlsplit(plane.apiserver.url)
    return {
        "DRAGONFLY_INSTALLED": "kubernetes",
        "KUBERNETES_SERVICE_HOST": str(url.hostname),
        "KUBERNETES_SERVICE_PORT": str(url.port),
        "KUBECONFIG": "",
    }


def _etcd(plane: ControlPlane, prefix: str) -> dict[str, str]:
    return {
        "DRAGONFLY_ETCD_ENDPOINTS": ",".join(plane.etcd_endpoints),
        "DRAGONFLY_ETCD_PREFIX": prefix,
        "DRAGONFLY_ETCD_CA_FILE": str(plane.etcd_ca),
        "DRAGONFLY_ETCD_CERT_FILE": str(plane.etcd_cert),
        "DRAGONFLY_ETCD_KEY_FILE": str(plane.etcd_key),
    }


def as_pod(plane: ControlPlane, directory: Path) -> tuple[str, ...]:
    """What runs a command with the service account's files where a pod has them, seen by this command alone."""
    account = directory / "account"
    account.mkdir()
    known = yaml.safe_load(plane.kubeconfig.read_text())
    write_private(account / "token", known["users"][0]["user"]["token"].encode())
    authority = known["clusters"][0]["cluster"]["certificate-authority-data"]
    (account / "ca.crt").write_bytes(base64.b64decode(authority))
    place = "/run/secrets/kubernetes.io/serviceaccount"
    script = f'mount -t tmpfs tmpfs /run && mkdir -p {place} && cp "$0"/* {place} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(account))


@pytest.fixture
def moving(control_plane: ControlPlane, ports: PortLease, tmp_path: Path) -> Iterator[Moving]:
    made = Moving(control_plane, tmp_path, ports)
    admin = control_plane.apiserver.admin
    content = {
        "endpoints": ",".join(control_plane.etcd_endpoints),
        "prefix": made.site.prefix,
        "ca": control_plane.etcd_ca.read_text(),
        "cert": control_plane.etcd_cert.read_text(),
        "key": control_plane.etcd_key.read_text(),
    }
    data = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dragonfly-etcd"}, "data": data}
    assert admin.request("POST", _SECRETS, secret).status == 201
    try:
        with made.running() as running:
            yield running
    finally:
        admin.request("DELETE", f"{_SECRETS}/dragonfly-etcd")


def test_out_of_pods_and_back_while_machines_are_provisioned(moving: Moving) -> None:
    """P1, P5, P7: whoever is stopped has work under way, and nothing but starting and stopping is done."""
    site = moving.site
    template = site.template("two-actions", two_actions())
    machines = site.registered(2 * WAVE)
    for machine in machines:
        site.settled(machine)
    written = _intent(site)
    assert moving.mode(site.swarm)["mode"] == "pod"

    with site.agents(machines, BEHAVIOUR) as agents:
        asked = moving.begin(machines[:WAVE], template)
        moving.vm.start()
        eventually("the VM drives a share", lambda: VM in moving.drivers(), within=_PATIENCE)
        site.swarm.stop()
        eventually_equal(moving.drivers, {VM}, within=_PATIENCE)
        on_vm = moving.mode(moving.vm)
        assert (on_vm["mode"], on_vm["etcd"]["source"]) == ("remote", "secret")
        all_ended(site, WAVE, within=_PATIENCE)

        asked |= moving.begin(machines[WAVE:], template)
        moving.pods_again.start()
        eventually("a pod drives a share", lambda: moving.drivers() - {VM}, within=_PATIENCE)
        moving.vm.stop()
        eventually_equal(moving.drivers, {"dragonfly-7d21-a", "dragonfly-7d21-b"}, within=_PATIENCE)
        ended = all_ended(site, 2 * WAVE, within=_PATIENCE)

    assert {item["status"]["phase"] for item in ended.values()} == {"Succeeded"}
    assert starts(agents.trace()) == expected_starts(BEHAVIOUR, machines, asked)
    each_once(site.audit, asked.values())
    assert moving.mode(moving.pods_again)["mode"] == "pod"
    assert _intent(site) == written, "nothing was registered, changed or installed anew"


def _intent(site: Site) -> dict[str, int]:
    """Templates, clusters and MACs in etcd, with the revision at which each was written."""
    kept = ("schema", "templates/", "clusters/", "unique/")
    return {key: revision for key, revision in site.stored().items() if key.startswith(kept)}
