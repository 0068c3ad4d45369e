"""What a replica may do, in one word."""

from datetime import UTC, datetime, timedelta

import pytest

from dragonfly.swarm.standing import STATES, Facts, Fenced, Sentry, standing

BORN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        (Facts("", held=True, owned=3), "acting", "it drives 3 shards"),
        (Facts("", held=True, owned=0), "following", "the other replicas drive everything"),
        (Facts("", held=True, owned=0, idle="it is shutting down"), "following", "it is shutting down"),
        (Facts("", held=False, owned=3), "fenced", "it has no lease"),
        (Facts("etcd is full", held=True, owned=3), "read-only", "etcd is full"),
        (Facts("etcd is away", held=False, owned=3), "read-only", "etcd is away"),
        (Facts("", held=True, owned=0, observes=True), "observing", "it was told to observe"),
        (Facts("", held=False, owned=0, observes=True), "observing", "it was told to observe"),
        (Facts("etcd is away", held=False, owned=0, observes=True), "read-only", "etcd is away"),
    ],
)
def test_each_state(facts: Facts, state: str, reason: str) -> None:
    found = standing(facts)

    assert (found.state, found.state in STATES) == (state, True)
    assert found.reason.startswith(reason)
    has_stopped = not facts.held and not facts.observes
    assert ("does not work" in found.reason) is has_stopped, "whether work on machines goes on is told"


def test_the_time_without_a_lease_is_added_up_after_the_first_one() -> None:
    now = 0.0
    facts = Facts("", held=False, owned=0)
    sentry = Sentry(lambda: facts, clock=lambda: now, now=lambda: BORN + timedelta(seconds=now))
    history = [(5.0, False), (6.0, True), (8.0, True), (9.0, False), (12.0, False), (13.0, True), (20.0, False)]
    states = []

    for now, held in history:  # noqa: B007 - the closures above read it
        facts = Facts("", held=held, owned=0)
        states.append((sentry.look().state, (sentry.since - BORN).total_seconds()))

    assert states == [
        ("fenced", 0),
        ("following", 6),
        ("following", 6),
        ("fenced", 9),
        ("fenced", 9),
        ("following", 13),
        ("fenced", 20),
    ]
    assert sentry.take_fenced() == Fenced(4.0, 2)
    assert sentry.take_fenced() == Fenced(0.0, 0)


def test_one_that_observes_is_never_fenced() -> None:
    now = 0.0
    facts = Facts("", held=False, owned=0, observes=True)
    sentry = Sentry(lambda: facts, clock=lambda: now, now=lambda: BORN)

    for now, held in ((1.0, True), (2.0, False), (9.0, True)):  # noqa: B007 - the closures above read it
        facts = Facts("", held=held, owned=0, observes=True)
        assert sentry.look().state == "observing"

    assert sentry.take_fenced() == Fenced(0.0, 0)
