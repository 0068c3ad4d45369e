"""How etcd is, told in one word, from what this replica has met."""

from datetime import UTC, datetime, timedelta

import pytest

from dragonfly.store.errors import Behind, Denied, NoSpace, OtherEtcd, Unavailable
from dragonfly.store.faults import Fault
from dragonfly.store.health import STATES, Facts, Health, judge
from dragonfly.store.values import MemberStatus

GOOD = MemberStatus("http://a", reachable=True, member_id=1, revision=100, leader=True, leader_id=1)
LEADERLESS = GOOD._replace(leader=False, leader_id=0, error="etcdserver: no leader")
GONE = MemberStatus("http://b", reachable=False, error="connection refused")
OTHER = OtherEtcd("http://a", expected=1, found=2)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (Facts(heard=False), "unknown"),
        (Facts(heard=False, watch=Fault("connection refused")), "unreachable"),
        (Facts(heard=True), "ok"),
        (Facts(heard=True, members=(GOOD, GOOD)), "ok"),
        (Facts(heard=True, watch=Fault("the stream ended")), "ok"),
        (Facts(heard=True, members=(GOOD, GONE)), "degraded"),
        (Facts(heard=True, members=(GOOD, LEADERLESS)), "degraded"),
        (Facts(heard=True, members=(GOOD, GOOD._replace(revision=100_000))), "degraded"),
        (Facts(heard=True, silence=Unavailable("no answer in time")), "unreachable"),
        (Facts(heard=True, write=Unavailable("no answer in time", maybe_written=True)), "unreachable"),
        (Facts(heard=True, silence=Unavailable("no leader")), "no-quorum"),
        (Facts(heard=True, silence=Unavailable("no answer in time"), members=(LEADERLESS, GONE)), "no-quorum"),
        (Facts(heard=True, silence=Unavailable("no answer in time"), members=(GONE,)), "unreachable"),
        (Facts(heard=True, silence=Behind("term 2")), "behind"),
        (Facts(heard=True, write=NoSpace("full")), "full"),
        (Facts(heard=True, members=(GOOD._replace(error="memberID:1 alarm:NOSPACE"), GOOD)), "full"),
        (Facts(heard=True, silence=Denied("wrong password")), "denied"),
        (Facts(heard=True, write=Denied("permission denied"), silence=Unavailable("slow")), "denied"),
        (Facts(heard=True, watch=OTHER), "changed"),
        (Facts(heard=True, silence=Denied("wrong password"), write=OTHER), "changed"),
    ],
)
def test_each_state_and_what_outranks_what(facts: Facts, state: str) -> None:
    verdict = judge(facts)

    assert verdict.state == state
    assert verdict.state in STATES
    assert bool(verdict.reason) == (state != "ok")
    assert verdict.writable == (state in {"ok", "degraded"})


def test_a_bad_member_is_named() -> None:
    behind = GOOD._replace(endpoint="http://c", revision=1, error="")
    reason = judge(Facts(heard=True, members=(GOOD._replace(revision=100_000), GONE, behind))).reason

    assert reason == "http://b: connection refused; http://c: it is 99999 revisions behind"


class World:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.silence: Exception | None = None
        self.health = Health(
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds),
            silence=lambda: self.silence,
            watch=lambda: None,
        )

    def at(self, seconds: float) -> tuple[str, float]:
        """The state at that time, and since how many seconds."""
        self.seconds = seconds
        state = self.health.look().state
        return state, self.seconds - (self.health.since - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds()


def test_it_remembers_since_when_and_recovers_by_itself() -> None:
    world = World()
    assert world.at(1) == ("unknown", 1)

    world.health.answered(wrote=False)
    assert world.at(2) == ("ok", 0)
    world.silence = Unavailable("no answer in time")
    assert world.at(5) == ("unreachable", 0)
    world.silence = Unavailable("connection refused")
    assert world.at(9) == ("unreachable", 4)
    world.silence = None

    assert world.at(10) == ("ok", 0)


def test_only_a_put_shows_that_there_is_room_again() -> None:
    world = World()
    world.health.failed(NoSpace("full"), wrote=True)
    world.health.asked((GOOD._replace(error="memberID:1 alarm:NOSPACE"),))

    world.health.answered(wrote=False)
    assert world.at(1)[0] == "full"
    assert world.health.refuses_writes
    world.health.answered(wrote=True)

    assert world.at(2)[0] == "ok"
    assert not world.health.refuses_writes


def test_a_read_that_failed_says_nothing_of_writes() -> None:
    world = World()
    world.health.answered(wrote=True)
    world.health.failed(Unavailable("no answer in time"), wrote=False)

    assert world.at(1)[0] == "ok"
