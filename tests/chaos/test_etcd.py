"""etcd is broken in every way that it can be while people use the swarm: each test breaks one thing, and mends it.

Three members, each on a node of its own with a replica beside it; Kubernetes and Tinkerbell have another etcd and are
well all the time. After each test every promise is checked on all that happened so far.

What a replica does for a provision needs etcd at every step. A temptation does not: it is a machine that somebody lets
boot from the network past Dragonfly, which its owner sees in Kubernetes and sets right there. Only its lease keeps a
replica from it that is cut off from etcd.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.swarm import Replica
from tests.chaos.etcd_members import Members, SplitPlane
from tests.chaos.etcd_site import LEASE, EtcdSite
from tests.chaos.kube_writes import KubeWrite, kube_writes
from tests.chaos.netns import Network
from tests.chaos.verdict import SHARDS, summary
from tests.e2e.api import Answer
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.etcd, pytest.mark.cluster]

_ELECTION: Final = 2.0
"""Seconds, at most, in which a leader without followers still takes itself for one, and keeps leases alive."""


@pytest.fixture(scope="module")
def site(ports: PortLease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdSite]:
    directory = tmp_path_factory.mktemp("etcd-site")
    with (
        Network(directory / "network").running() as network,
        Members(directory / "etcd", network, ports).running() as members,
        SplitPlane(members, address=network.address) as plane,
        EtcdSite(plane, members, network, tmp_path_factory.mktemp("site"), ports).running() as site,
    ):
        yield site


def test_the_leader_is_killed_and_comes_back(site: EtcdSite) -> None:
    with site.used():
        site.more_ended(2)
        leader = site.members.leader()
        site.members.kill(leader)
        site.more_ended(5)
        assert site.members.leader() != leader
        site.mend()
        site.more_ended(2)
    judged(site)


def test_a_replica_cut_off_with_its_member_stops_and_the_others_go_on(site: EtcdSite) -> None:
    """P4, P10. The member is the leader, and takes itself for one for a while after it was cut off."""
    with site.used():
        node = site.members.leader()
        alone = site.swarm.replicas[node]
        site.more_ended(2)
        temptation = site.machine_of(alone)
        site.network.cut(node)
        eventually("the others own all", lambda: has_left(site, alone) and len(site.owners()) == SHARDS, within=60)
        left_at = time.time()
        site.open_netboot(temptation)
        assert_read_only(site, alone)
        site.more_ended(5)
        assert shown(site, alone) < site.members.revision((node + 1) % 3)
        healed_at = time.time()
        site.mend()
        eventually("it is current again", lambda: age(site, alone) == 0, within=60)
    judged(site)
    writes = written(site, left_at, healed_at)
    address = site.network.nodes[node].host.seen_at
    assert [write for write in writes if write.source == address] == []
    assert writes != [], "the others had something to do"


def test_without_a_quorum_nobody_writes_and_with_it_everything_goes_on(site: EtcdSite) -> None:
    """P5, P10."""
    with site.used():
        site.more_ended(2)
        temptations = [site.machine_of(replica) for replica in site.swarm.replicas]
        left = site.members.leader()
        site.members.kill(*({0, 1, 2} - {left}))
        silent_from = time.time() + LEASE + _ELECTION
        for replica in site.swarm.replicas:
            assert_read_only(site, replica)
        eventually("nobody may write any more", lambda: time.time() > silent_from, within=60)
        for machine in temptations:
            site.open_netboot(machine)
        eventually("it was long enough to give in", lambda: time.time() > silent_from + LEASE, within=60)
        silent_until = time.time()
        site.mend()
        site.more_ended(5)
    judged(site)
    assert written(site, silent_from, silent_until) == []


def test_the_past_is_compacted_while_a_replica_cannot_watch(site: EtcdSite) -> None:
    """P8, P9. Its own member is away too: when it comes back there is nobody who still knows that past."""
    with site.used():
        leader = site.members.leader()
        node = (leader + 1) % 3
        alone = site.swarm.replicas[node]
        site.network.cut(node)
        site.members.kill(node)
        eventually("it knows that it is alone", lambda: age(site, alone), within=60)
        site.more_ended(5)
        compacted = site.members.compact(leader)
        assert shown(site, alone) < compacted
        site.network.heal()
        eventually("it has what it missed", lambda: shown(site, alone) >= compacted, within=60)
        eventually("it follows again", lambda: age(site, alone) == 0, within=60)
        site.mend()
        site.more_ended(2)
    judged(site)


def test_a_full_etcd_stops_writes_until_there_is_room(site: EtcdSite) -> None:
    """P5, P10. Leases are kept alive without room, so nobody loses a shard."""
    with site.used():
        site.more_ended(2)
        before = site.claims.tenures
        site.members.fill()
        full_at = time.time()
        for replica in site.swarm.replicas:
            assert_refuses(site, replica, "store-full")
        eventually("it was long enough to lose a lease", lambda: time.time() > full_at + 2 * LEASE, within=60)
        assert site.claims.tenures == before, "every claim is the one that it was"
        # A member answers nothing while it is defragmented: then a lease may end.
        site.mend()
        site.more_ended(5)
    judged(site)


def judged(site: EtcdSite) -> None:
    """Every promise was kept, and enough happened for that to mean something."""
    seen = summary(site.judged())
    assert seen["provisions"] >= 9
    assert seen["claims"] >= 8
    assert seen["unanswered"] < seen["requests"] / 10


def assert_read_only(site: EtcdSite, replica: Replica) -> None:
    """It serves reads that say how old they are, more and more, and refuses writes."""
    first = eventually(f"replica {replica.id} says that it is behind", lambda: age(site, replica), within=60)
    eventually("and ever more so", lambda: age(site, replica) > first + 0.5, within=60)
    # A request that went out on a connection from better times may still arrive, and the client is told so.
    assert_refuses(site, replica, "store-unavailable", "store-no-quorum", "outcome-unknown")


def assert_refuses(site: EtcdSite, replica: Replica, *problems: str) -> None:
    with site.client_of(replica) as client:
        answer = client.once("POST", "machines", site.machines(1)[0].document())
    assert answer.status == 503, answer
    assert answer.headers["Retry-After"]
    assert answer.document["type"].removeprefix("/problems/") in problems


def age(site: EtcdSite, replica: Replica) -> float:
    """For how many seconds the replica has not been known to be current; 0 if it is, which is not said."""
    return float(_read(site, replica).headers.get("Dragonfly-Stale", 0))


def shown(site: EtcdSite, replica: Replica) -> int:
    """The revision that the replica has."""
    return int(_read(site, replica).headers["Dragonfly-Revision"])


def _read(site: EtcdSite, replica: Replica) -> Answer:
    with site.client_of(replica) as client:
        answer = client.once("GET", "machines?limit=1")
    assert answer.ok, answer
    return answer


def has_left(site: EtcdSite, replica: Replica) -> bool:
    return replica.id not in site.owners().values()


def written(site: EtcdSite, since: float, until: float) -> list[KubeWrite]:
    return [write for write in kube_writes(site.plane.audit_log) if since < write.asked_at < until]
