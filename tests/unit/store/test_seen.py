from __future__ import annotations

import pytest

from dragonfly.store.errors import OtherEtcd
from dragonfly.store.faults import StaleFault
from dragonfly.store.seen import Floor, Seen
from dragonfly.store.wire import Header


def _header(revision: int, term: int = 2, cluster: int = 7) -> Header:
    return Header(cluster_id=cluster, member_id=1, revision=revision, raft_term=term)


def test_an_answer_older_than_what_was_known_when_it_was_asked_for_is_refused() -> None:
    seen = Seen()
    seen.admit("a", _header(10), seen.floor("a"))

    with pytest.raises(StaleFault):
        seen.admit("b", _header(9), seen.floor("b"))
    with pytest.raises(StaleFault):
        seen.admit("c", _header(11, term=1), seen.floor("c"))


def test_an_endpoint_that_was_behind_is_asked_nothing_more() -> None:
    """An etcd that was restored from a backup reaches the revisions that were seen with another history."""
    seen = Seen()
    seen.admit("a", _header(10), seen.floor("a"))
    with pytest.raises(StaleFault):
        seen.admit("b", _header(9), seen.floor("b"))
    seen.admit("a", _header(11), seen.floor("a"))

    with pytest.raises(StaleFault, match="start this replica again") as caught:
        seen.floor("b")
    assert caught.value.unsent
    assert seen.floor("a") == Floor(2, 11)


def test_a_member_that_caught_up_by_a_snapshot_is_asked_again() -> None:
    """It tells its former term until it applies an entry, though it has all that was seen."""
    seen = Seen()
    seen.admit("a", _header(10), seen.floor("a"))
    for _ in range(3):
        with pytest.raises(StaleFault):
            seen.admit("b", _header(10, term=1), seen.floor("b"))
    with pytest.raises(StaleFault):
        seen.admit("b", _header(11, term=1), seen.floor("b"))

    seen.admit("b", _header(12), seen.floor("b"))

    assert seen.floor("b") == Floor(2, 12)


def test_the_snapshots_of_a_member_are_told_apart() -> None:
    seen = Seen()
    for term, revision in ((2, 10), (3, 20)):
        seen.admit("a", _header(revision, term), seen.floor("a"))
        with pytest.raises(StaleFault):
            seen.admit("b", _header(revision, term - 1), seen.floor("b"))
        seen.admit("b", _header(revision, term), seen.floor("b"))


def test_a_member_whose_term_stays_behind_is_of_another_history() -> None:
    """An etcd may be restored with its revision raised beyond all that were seen, but not its term."""
    seen = Seen()
    seen.admit("a", _header(10), seen.floor("a"))
    for revision in (1000, 1002):
        with pytest.raises(StaleFault):
            seen.admit("a", _header(revision, term=1), seen.floor("a"))

    with pytest.raises(StaleFault, match="start this replica again"):
        seen.floor("a")


def test_answers_may_overtake_each_other() -> None:
    seen = Seen()
    early, late = seen.floor("a"), seen.floor("a")
    seen.admit("a", _header(12), late)

    seen.admit("a", _header(10), early)

    assert seen.floor("a") == Floor(2, 12), "the floor does not sink"


def test_another_etcd_is_refused_for_good() -> None:
    seen = Seen()
    seen.admit("a", _header(10), seen.floor("a"))

    with pytest.raises(OtherEtcd) as caught:
        seen.same_cluster("b", _header(99, cluster=8))
    assert (caught.value.expected, caught.value.found) == (7, 8)
    with pytest.raises(OtherEtcd):
        seen.floor("a")


def test_what_a_member_says_of_itself_raises_nothing() -> None:
    """A member cut off from the others may be in a term that the cluster never reaches."""
    seen = Seen()
    seen.same_cluster("a", _header(10, term=99))

    assert seen.floor("a") == Floor(0, 0)


def test_what_a_watch_has_brought_is_seen_too() -> None:
    """A replica that only follows asks for next to nothing."""
    seen = Seen()
    seen.admit("a", _header(10), seen.floor("a"))

    seen.saw(20)
    seen.saw(15)

    assert seen.floor("a") == Floor(2, 20)
