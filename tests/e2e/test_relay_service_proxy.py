"""A kubeconfig alone is enough: a replica finds the relay by itself, through the API server's service proxy.

The API server forwards to addresses of pods only, and never to loopback. No kubelet runs here, so the test says in its
place what pods there are: their addresses are this computer's on a network of the test's own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from kubernetes import client as kubernetes

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.swarm import Replica, Swarm
from tests.chaos.netns import Network
from tests.e2e.fleet import all_ended, ask, each_once, two_actions
from tests.e2e.site import Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

REMOTE = "remote"
SERVICE = "dragonfly"
TOKEN = "a-replica-token-of-this-test"
PATIENCE = 90.0


@pytest.fixture
def site(control_plane: ControlPlane, ports: PortLease, tmp_path: Path) -> Iterator[Site]:
    """Two replicas that look like pods to the API server."""
    write_private(tmp_path / "replica.token", TOKEN.encode())
    with Network(tmp_path / "network", nodes=1).running() as network:
        host = Host(seen_at=network.address)
        site = Site(
            control_plane,
            tmp_path,
            ports,
            2,
            environment={"DRAGONFLY_REPLICA_TOKEN_FILE": str(tmp_path / "replica.token")},
            hosts={"a": host, "b": host},
        )
        with site.running():
            yield site


@pytest.fixture
def pods(site: Site) -> Iterator["Pods"]:
    with ExitStack() as stack:
        yield Pods(site, stack)


class Pods:
    """What kubelet and the endpoints controller would say of the replicas."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self._core = kubernetes.CoreV1Api(site.cluster.api_client)
        account = {"metadata": {"name": "default"}}
        self._core.create_namespaced_service_account(NAMESPACE, account)  # type: ignore[arg-type] # the library takes a dict too, its types do not
        stack.callback(self._core.delete_namespaced_service_account, "default", NAMESPACE)
        self._targets = {replica.id: self._pod(replica, stack) for replica in site.swarm.replicas}
        self._addresses = {replica.id: _address(replica) for replica in site.swarm.replicas}
        service: Any = {
            "metadata": {"name": SERVICE},
            "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 3000}]},
        }
        self._core.create_namespaced_service(NAMESPACE, service)
        stack.callback(self._core.delete_namespaced_service, SERVICE, NAMESPACE)
        self._core.create_namespaced_endpoints(NAMESPACE, self._endpoints(set(self._targets)))
        stack.callback(self._core.delete_namespaced_endpoints, SERVICE, NAMESPACE)

    def ready(self, replicas: set[str]) -> None:
        """These are; the others are not."""
        self._core.replace_namespaced_endpoints(SERVICE, NAMESPACE, self._endpoints(replicas))

    def _pod(self, replica: Replica, stack: ExitStack) -> dict[str, Any]:
        name = f"{SERVICE}-{replica.id}"
        body: Any = {
            "metadata": {"name": name},
            "spec": {"nodeName": "none", "containers": [{"name": "server", "image": "none"}]},
        }
        pod = self._core.create_namespaced_pod(NAMESPACE, body)
        stack.callback(self._core.delete_namespaced_pod, name, NAMESPACE, grace_period_seconds=0)
        address = _address(replica)[0]
        status: Any = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        self._core.patch_namespaced_pod_status(name, NAMESPACE, status)
        assert pod.metadata is not None
        return {"kind": "Pod", "name": name, "namespace": NAMESPACE, "uid": pod.metadata.uid}

    def _endpoints(self, ready: set[str]) -> Any:
        subsets = [
            {
                "addresses": [{"ip": self._addresses[replica][0], "targetRef": self._targets[replica]}],
                "ports": [{"name": "http", "port": self._addresses[replica][1]}],
            }
            for replica in sorted(ready)
        ]
        return {"metadata": {"name": SERVICE}, "subsets": subsets}


def _address(replica: Replica) -> tuple[str, int]:
    address, _, port = replica.url.removeprefix("http://").partition(":")
    return address, int(port)


@pytest.fixture
def secret(site: Site, tmp_path: Path) -> Iterator["EtcdSecret"]:
    """What leads to the relay, beside an address of etcd that nobody reaches."""
    said = {
        "endpoints": "https://127.0.0.1:1",
        "prefix": site.prefix,
        "replicaToken": TOKEN,
        "secretKey": (tmp_path / "secret.key").read_text(),
    }
    secret = EtcdSecret(site)
    secret.say(said)
    try:
        yield secret
    finally:
        secret.delete()


class EtcdSecret:
    """The Secret `dragonfly-etcd`."""

    def __init__(self, site: Site) -> None:
        self._core = kubernetes.CoreV1Api(site.cluster.api_client)
        self._said: dict[str, str] = {}

    def say(self, said: dict[str, str]) -> None:
        if self._said:
            self.delete()
        self._said = said
        body: Any = {"metadata": {"name": "dragonfly-etcd"}, "stringData": said}
        self._core.create_namespaced_secret(NAMESPACE, body)

    def say_also(self, **said: str) -> None:
        self.say(self._said | said)

    def delete(self) -> None:
        self._core.delete_namespaced_secret("dragonfly-etcd", NAMESPACE)


def environment(site: Site, directory: Path) -> dict[str, str]:
    """Of a laptop: a kubeconfig, and a token for the replica's own API."""
    return {
        "KUBECONFIG": str(site.plane.admin_kubeconfig),
        "DRAGONFLY_NAMESPACE": NAMESPACE,
        "DRAGONFLY_ADMIN_TOKEN_FILE": str(directory / "admin.token"),
    }


@pytest.fixture
def rights(site: Site) -> Iterator[None]:
    """What Dragonfly's own account needs besides, to go through the API server."""
    rbac = kubernetes.RbacAuthorizationV1Api(site.cluster.api_client)
    rule = {"apiGroups": [""], "resources": ["services/proxy"], "resourceNames": [f"http:{SERVICE}:http"]}
    role: Any = {"metadata": {"name": REMOTE}, "rules": [rule | {"verbs": ["create"]}]}
    binding: Any = {
        "metadata": {"name": REMOTE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": REMOTE},
        "subjects": [{"kind": "ServiceAccount", "name": "dragonfly", "namespace": NAMESPACE}],
    }
    rbac.create_namespaced_role(NAMESPACE, role)
    rbac.create_namespaced_role_binding(NAMESPACE, binding)
    yield
    rbac.delete_namespaced_role_binding(REMOTE, NAMESPACE)
    rbac.delete_namespaced_role(REMOTE, NAMESPACE)


@pytest.fixture
def remote(site: Site, pods: Pods, rights: None, secret: EtcdSecret, ports: PortLease, tmp_path: Path) -> Iterator[str]:
    """The URL of a replica that has nothing but a kubeconfig."""
    told = environment(site, tmp_path) | {"DRAGONFLY_REPLICA": REMOTE, "KUBECONFIG": str(site.plane.kubeconfig)}
    swarm = Swarm(tmp_path / "remote", ports, {}, replicas=1, own={"a": told}, restart=False)
    try:
        swarm.start()
        yield swarm.replicas[0].url
    finally:
        swarm.stop()


def test_it_drives_shards_and_outlives_the_pod_that_it_goes_through(site: Site, pods: Pods, remote: str) -> None:
    eventually("it drives shards", lambda: _claims(site), within=PATIENCE)
    with site.api_at(remote) as api:
        etcd = api.get("mode")["etcd"]
    assert (etcd["source"], etcd["reachable"]) == ("relay", True)
    assert [finding.get("decides", False) for finding in etcd["why"]] == [False, False, True]
    site.template("two-actions", two_actions())
    machines = site.machines(12)

    with site.agents(machines, Behaviour(shortest=0.2, longest=0.5)):
        asked = ask(site, machines[:6], "two-actions")
        site.swarm.kill("a", SIGKILL)
        pods.ready({"b"})
        asked |= ask(site, machines[6:], "two-actions")
        ended = all_ended(site, len(machines), within=300)

    assert {item["status"]["phase"] for item in ended.values()} == {"Succeeded"}
    each_once(site.audit, asked.values())
    eventually("it drives shards still, or again", lambda: _claims(site), within=PATIENCE)
    eventually_equal(lambda: _seen(site, remote), {machine.name for machine in machines}, within=PATIENCE)


def test_why_there_is_no_way_through_is_told(site: Site, secret: EtcdSecret, tmp_path: Path) -> None:
    """Each mistake in turn, from the missing Service to a token that is not the swarm's."""
    _tells(site, tmp_path, f'services "{SERVICE}" not found')
    with ExitStack() as stack:
        pods = Pods(site, stack)
        pods.ready(set())
        _tells(site, tmp_path, "no endpoints available for service")
        pods.ready({"a", "b"})
        through = _tells(site, tmp_path, "through the API server: answers (decides)")
        _tells(site, tmp_path, 'cannot create resource "services/proxy"', KUBECONFIG=str(site.plane.kubeconfig))
        secret.say_also(prefix="/another-swarm/")
        other_swarm = _tells(site, tmp_path, "permission denied")
        secret.say_also(prefix=site.prefix, replicaToken="a-token-of-nobody-here")
        _tells(site, tmp_path, "the replica token is not valid here")

    assert "/another-swarm/ here" in other_swarm
    assert TOKEN not in through


def _seen(site: Site, url: str) -> set[str]:
    """The machines that a replica knows of."""
    with site.api_at(url) as api:
        return {item["metadata"]["name"] for item in api.get("machines?limit=1000")["items"]}


def _tells(site: Site, directory: Path, words: str, **more: str) -> str:
    """What is told once it has these words: whoever was too slow to answer the first time is asked again."""
    told = [""]

    def has_them() -> bool:
        told.append(_told(site, directory, **more))
        return words in told[-1]

    eventually(f"it tells {words!r}", has_them, within=PATIENCE)
    return told[-1]


def _told(site: Site, directory: Path, **more: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY_", "KUBE"))}
    command = (sys.executable, "-m", "dragonfly", "status", "--local")
    env = kept | {"HOME": str(directory)} | environment(site, directory) | more
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120).stdout


def _claims(site: Site) -> int:
    return sum(claim["owner"] == REMOTE for claim in site.api.get("swarm")["claims"])
