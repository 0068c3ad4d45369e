"""Pods come and go, by updates and drains, and nobody who uses the Service notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.e2e.api import Api
from tests.e2e.waiting import eventually, eventually_equal
from tests.node.deployed import NAMESPACE, REPLICAS, ROLLOUT, Deployed
from tests.node.load import Load

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CREATED = 201
TOO_MANY_REQUESTS = 429


def test_an_update_rolls_through_without_a_failed_request(deployed: Deployed) -> None:
    before = set(deployed.pods())
    with Load(deployed.url, deployed.token).running() as load:
        eventually("all replicas serve", lambda: before <= set(load.answered), within=120)
        deployed.set_template({"metadata": {"annotations": {"dragonfly.io/rolled": "once"}}})
        deployed.rolled_out()
        after = set(deployed.pods())
        eventually("all new replicas serve", lambda: after <= set(load.answered), within=120)

    assert not before & after
    assert load.failures == []
    assert lost(deployed, load) == []


def test_drains_take_every_pod_without_a_failed_request(deployed: Deployed) -> None:
    before = sorted(deployed.pods())
    with Load(deployed.url, deployed.token).running() as load:
        eventually("all replicas serve", lambda: set(before) <= set(load.answered), within=120)
        for pod in before:
            # As `kubectl drain` does: again and again, until the budget allows it.
            eventually(f"{pod} may go", partial(is_evicted, deployed, pod), within=ROLLOUT, every=0.5)
        eventually("all are gone", lambda: not set(before) & set(deployed.pods()), within=ROLLOUT, every=0.5)
        deployed.rolled_out()
        eventually("all new replicas serve", lambda: set(deployed.pods()) <= set(load.answered), within=120)

    assert load.failures == []
    assert lost(deployed, load) == []


def test_a_second_eviction_at_once_is_refused(deployed: Deployed) -> None:
    eventually_equal(lambda: budget(deployed), 1, within=ROLLOUT)
    first, second, _ = sorted(deployed.pods())

    assert deployed.evict(first) == CREATED
    assert deployed.evict(second) == TOO_MANY_REQUESTS

    eventually("the first is gone", lambda: first not in deployed.pods(), within=ROLLOUT, every=0.5)
    deployed.rolled_out()
    assert second in deployed.pods()


def test_a_pod_that_does_not_reach_etcd_gets_no_requests(deployed: Deployed) -> None:
    pods = deployed.pods()
    cut = min(pods)
    others = set(pods) - {cut}
    with without_etcd(deployed, pods[cut]["status"]["podIP"]):
        eventually_equal(deployed.ready, others, within=120)
        # The node's rules follow the endpoints a moment later.
        eventually("the node leads to the others alone", lambda: reached(deployed) == others, within=120)
        with Load(deployed.url, deployed.token).running() as load:
            eventually("the others serve", lambda: load.answered.total() >= 100, within=120)
        assert load.failures == []
        assert set(load.answered) == others
    eventually_equal(deployed.ready, set(pods), within=120)

    (status,) = deployed.pods()[cut]["status"]["containerStatuses"]
    assert status["restartCount"] == 0, "a restart mends no etcd"


def reached(deployed: Deployed) -> set[str]:
    """The replicas that the Service leads to, by many connections; each is chosen by chance."""
    found = set()
    for _ in range(40):
        with Api(deployed.url, deployed.token) as client:
            found.add(client.once("GET", "machines?limit=1").headers["Dragonfly-Replica"])
    return found


def is_evicted(deployed: Deployed, pod: str) -> bool:
    return deployed.evict(pod) == CREATED


def lost(deployed: Deployed, load: Load) -> list[str]:
    """The machines whose registration was answered and that are not there."""
    return [name for name in load.written if deployed.api.patiently("GET", f"machines/{name}").status != 200]


def budget(deployed: Deployed) -> int:
    """How many pods may go now."""
    found = deployed.node.get("--namespace", NAMESPACE, "poddisruptionbudget", "dragonfly")["status"]
    return int(found["disruptionsAllowed"]) if found["currentHealthy"] == REPLICAS else 0


@contextmanager
def without_etcd(deployed: Deployed, pod: str) -> Iterator[None]:
    """Let nothing of a pod's get to etcd; in the node's network alone."""
    ports = ",".join(url.rpartition(":")[2] for url in deployed.node.etcd.endpoints)
    rule = ("INPUT", "--source", pod, "--protocol", "tcp", "--match", "multiport", "--dports", ports, "--jump", "DROP")
    deployed.node.place.run("iptables", "--wait", "--insert", *rule)
    try:
        yield
    finally:
        deployed.node.place.run("iptables", "--wait", "--delete", *rule)
