"""A replica without etcd's certificates joins through the load balancer, works, and outlives whom it goes through."""

import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.pki import write_private
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.swarm import Swarm
from dragonfly.store.replica_tokens import HEADER
from tests.e2e.fleet import all_ended, ask, each_once, expected_starts, starts, two_actions
from tests.e2e.site import Machine, Site, base64_of
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

REMOTE = "remote"
BEHAVIOUR = Behaviour(shortest=0.2, longest=0.5)
PATIENCE = 90.0


class Joined:
    """Two replicas that reach etcd, and one that does not."""

    def __init__(self, plane: ControlPlane, directory: Path, ports: PortLease) -> None:
        self.token = secrets.token_urlsafe(32)
        token_file = directory / "replica.token"
        write_private(token_file, f"{self.token}\n".encode())
        relay = {"DRAGONFLY_REPLICA_TOKEN_FILE": str(token_file)}
        self.site = Site(plane, directory, ports, 2, environment=relay)
        told = {
            "DRAGONFLY_REPLICA": REMOTE,
            "DRAGONFLY_ETCD_PREFIX": self.site.prefix,
            "DRAGONFLY_ETCD_ENDPOINTS": f"{self.site.balancer.url}/etcd",
            "KUBECONFIG": str(plane.kubeconfig),
            "DRAGONFLY_NAMESPACE": NAMESPACE,
            "DRAGONFLY_ADMIN_TOKEN_FILE": str(directory / "admin.token"),
            "DRAGONFLY_SECRET_KEY_FILE": str(directory / "secret.key"),
            **relay,
        }
        self.remote = Swarm(directory / "remote", ports, {}, replicas=1, own={"a": told}, restart=False)

    @contextmanager
    def running(self) -> Iterator["Joined"]:
        with self.site.running():
            try:
                self.remote.start()
                yield self
            finally:
                self.remote.stop()

    @property
    def url(self) -> str:
        return self.remote.replicas[0].url

    def etcd(self, path: str, body: dict[str, Any], token: str) -> int:
        """What the relay answers to a call, through the load balancer."""
        url = f"{self.site.balancer.url}/etcd/v3/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {HEADER: token} if token else {})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def relays(self) -> dict[str, float]:
        """How many watches go through each replica that answers."""
        return {replica.id: _relayed_watches(replica.url) for replica in self.site.swarm.replicas}

    def seen(self) -> set[str]:
        """The machines that the remote replica knows of."""
        with self.site.api_at(self.url) as api:
            return {item["metadata"]["name"] for item in api.get("machines?limit=1000")["items"]}

    def claims(self) -> int:
        """How many shards the remote replica drives."""
        view = self.site.api.get("swarm")
        return sum(claim["owner"] == REMOTE for claim in view["claims"])


def _relayed_watches(url: str) -> float:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            found = re.search(r"^dragonfly_relay_watches ([0-9.]+)", answer.read().decode(), re.MULTILINE)
    except OSError:
        return 0.0
    assert found is not None
    return float(found[1])


@pytest.fixture(scope="module")
def joined(control_plane: ControlPlane, ports: PortLease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    made = Joined(control_plane, tmp_path_factory.mktemp("relay"), ports)
    with made.running() as running:
        running.site.template("two-actions", two_actions())
        yield running


def _owned_by_remote(joined: Joined, machines: list[Machine]) -> set[str]:
    shown = {item["metadata"]["name"]: item for item in joined.site.api.get("machines?limit=1000")["items"]}
    return {machine.name for machine in machines if shown[machine.name]["status"].get("owner") == REMOTE}


def test_it_drives_its_shards_while_the_replica_that_it_goes_through_is_killed(joined: Joined) -> None:
    site = joined.site
    eventually("it drives shards", joined.claims, within=PATIENCE)
    machines = site.machines_of_each_shard(3)

    with site.agents(machines, BEHAVIOUR) as agents:
        asked = ask(site, machines[:12], "two-actions")
        through = eventually("its watch goes through one", lambda: _one_of(joined.relays()), within=PATIENCE)
        site.swarm.kill(through, SIGKILL)
        asked |= ask(site, machines[12:], "two-actions")
        ended = all_ended(site, len(machines), within=300)

    assert {item["status"]["phase"] for item in ended.values()} == {"Succeeded"}
    assert starts(agents.trace()) == expected_starts(BEHAVIOUR, machines, asked)
    each_once(site.audit, asked.values())
    eventually("it drives some still, or again", lambda: _owned_by_remote(joined, machines), within=PATIENCE)
    known = {machine.name for machine in machines}
    eventually("it knows of all machines", lambda: joined.seen() >= known, within=PATIENCE)


def _one_of(watches: dict[str, float]) -> str:
    return next((replica for replica, number in watches.items() if number), "")


def test_nobody_else_comes_through_and_nothing_else_is_reached(joined: Joined) -> None:
    prefix, end = (base64_of(text) for text in (joined.site.prefix, joined.site.prefix[:-1] + "0"))
    own = {"key": prefix, "range_end": end, "limit": 10}
    # One of them was killed by the test before.
    eventually("both relay", lambda: len(joined.site.in_rotation()) == 2, within=PATIENCE)

    assert joined.etcd("kv/range", own, joined.token) == 200
    assert joined.etcd("kv/range", own, "") == 401
    assert joined.etcd("kv/range", own, "not-the-replica-token") == 401
    assert joined.etcd("kv/range", {"key": base64_of("/registry/secrets/")}, joined.token) == 403
    assert joined.etcd("kv/range", {**own, "range_end": base64_of("\0")}, joined.token) == 403
    assert joined.etcd("watch", {"create_request": {"key": base64_of("/registry/")}}, joined.token) == 403
    assert joined.etcd("kv/compaction", {"revision": 1}, joined.token) == 404
