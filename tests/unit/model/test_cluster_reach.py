"""Whether a cluster is reached, put together from what each replica says."""

from datetime import UTC, datetime, timedelta
from typing import Any

from dragonfly.model.swarm import ClusterReach, Member, ReplicaReach, reach_of, reaches_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def member(name: str, *, started: int = 0, lost: int | None = None) -> Member:
    """A replica that started at a minute, and lost the cluster at another, if it did."""
    return Member(
        id=name,
        version="1",
        address="",
        started=at(started),
        clusters=("local",) if lost is None else (),
        unreachable={} if lost is None else {"local": at(lost)},
    )


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def test_one_replica_that_reaches_it_is_enough() -> None:
    assert reach_of("local", [member("a", lost=5), member("b")]) == ClusterReach(reachable=True)


def test_it_is_away_since_the_last_replica_lost_it() -> None:
    assert reach_of("local", [member("a", lost=5), member("b", lost=7)]) == ClusterReach(reachable=False, since=at(7))


def test_a_replica_that_never_reached_it_shortens_no_outage() -> None:
    members = [member("a", lost=5), member("new", started=9, lost=9)]

    assert reach_of("local", members).since == at(5)


def test_where_nobody_ever_reached_it_the_oldest_replica_tells() -> None:
    members = [member("a", started=3, lost=3), member("b", started=9, lost=9)]

    assert reach_of("local", members).since == at(3)


def test_without_replicas_nobody_knows() -> None:
    assert reach_of("local", []) == ClusterReach(reachable=False)


def test_each_replica_tells_for_itself_by_site_and_those_that_observe_tell_nothing() -> None:
    def told(name: str, site: str, **more: Any) -> Member:
        return Member(id=name, site=site, version="1", address="", started=START, **more)

    members = [
        told("c", "fra1", clusters=("local",)),
        told("b", "ber1"),
        told("a", "fra1", unreachable={"local": at(3)}, troubles={"local": "refused"}),
        told("o", "ber1", observes=True),
    ]

    assert reaches_of("local", members) == (
        ReplicaReach(replica="b", site="ber1", reachable=False),
        ReplicaReach(replica="a", site="fra1", reachable=False, since=at(3), reason="refused"),
        ReplicaReach(replica="c", site="fra1", reachable=True),
    )
