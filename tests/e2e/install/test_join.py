"""`dragonfly install --join`: three hosts, three members of etcd, and a swarm that outlives its founder."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.install.etcd_keys import control_planes
from tests.e2e.install.installed import FLOATING, finished, hosts
from tests.e2e.install.joined import Site, placed, states, told
from tests.e2e.install.provisioned import provisioned
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with hosts(tmp_path, 3) as found:
        yield Site(found, tmp_path)


def test_hosts_join_one_leaves_and_all_goes_on_without_the_founder(site: Site, tmp_path: Path) -> None:
    first, second, third = site.first, site.second, site.third
    site.join(second, first.address)
    site.join(third, FLOATING)

    everywhere = [f"https://{host.address}:2382" for host in (first, second, third)]
    assert told(third) == everywhere
    for host in (first, third):
        eventually_equal(control_planes(host).members, {"host-1", "host-2", "host-3"}, within=60)
    for host in (second, third):
        # What only waits has something to wait for while a replica has a moment without an answer.
        eventually_equal(partial(states, host), {"unchanged"}, within=300)
    eventually("there are three", lambda: len(site.replicas(first)) == 3, within=120)
    replicas_that_came_together_while_hosts_were_away_are_spread_again(site)

    leaving = third.dragonfly("uninstall", "--yes", "--delete-data")
    assert leaving.code == 0, leaving.err
    eventually_equal(control_planes(first).members, {"host-1", "host-2"}, within=60)
    eventually_equal(third.state, site.before["host-3"], within=60)
    assert finished(first.dragonfly("install", "--yes", "-o", "json"))
    assert told(second) == everywhere[:2]

    site.join(third, first.address)
    assert told(first) == everywhere
    eventually_equal(lambda: set(placed(first).values()), {host.name for host in (first, second, third)}, within=120)
    site.register(first, "kept")
    lost = {pod for pod, host in placed(first).items() if host == first.name}

    first.fail()

    eventually("its replica is replaced", lambda: is_whole(site.replicas(second), lost), within=300)
    site.knows(second, "kept")
    swarm = {"address": f"http://{FLOATING}:3000", "token": site.token}
    assert provisioned(second, swarm, tmp_path).code == 0, "Tinkerbell has come back on another host"


def replicas_that_came_together_while_hosts_were_away_are_spread_again(site: Site) -> None:
    """Said again on any server, once the hosts are back."""
    first, others = site.first, (site.second, site.third)
    everywhere = {first.name, *(host.name for host in others)}
    for host in others:
        assert first.kubectl("cordon", host.name).code == 0
    assert first.kubectl("rollout", "restart", "deployment/dragonfly").code == 0
    assert first.kubectl("rollout", "status", "deployment/dragonfly", "--timeout=300s").code == 0
    eventually_equal(lambda: set(placed(first).values()), {first.name}, within=120)
    for host in others:
        assert first.kubectl("uncordon", host.name).code == 0

    again = site.second.dragonfly("install", "--yes", "-o", "json")

    assert again.code == 0, again.err
    assert again.states()["spread"] == "done"
    assert "starts again elsewhere" in again.out
    eventually_equal(lambda: set(placed(first).values()), everywhere, within=120)
    eventually_equal(partial(states, site.third), {"unchanged"}, within=300)


def is_whole(replicas: set[str], lost: set[str]) -> bool:
    return len(replicas) == 3 and not replicas & lost
