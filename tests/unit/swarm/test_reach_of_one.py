"""A cluster as one replica finds it, and how often it tells."""

from datetime import UTC, datetime, timedelta

from dragonfly.swarm.reach import Reach, until_next_look

BORN = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    def __init__(self) -> None:
        self.seconds = 0
        self.trouble = "it was not asked yet"
        self.reach = Reach(lambda: self.trouble, lambda: BORN + timedelta(seconds=self.seconds))

    def at(self, seconds: int, trouble: str) -> tuple[bool, int | None, str]:
        self.seconds, self.trouble = seconds, trouble
        reaches = self.reach.look()
        since = self.reach.since
        return reaches, None if since is None else int((since - BORN).total_seconds()), self.reach.reason


def test_it_is_out_of_reach_from_the_start_until_it_is_not() -> None:
    world = World()

    assert world.at(1, "it was not asked yet") == (False, 0, "it was not asked yet")
    assert world.at(2, "") == (True, None, "")
    assert world.at(60, "timed out") == (False, 60, "timed out")
    assert world.at(61, "") == (True, None, "")


def test_a_reason_that_changes_all_the_time_is_told_seldom_and_the_time_stays() -> None:
    world = World()
    world.at(2, "")

    told = {world.at(60 + second, f"refused {second}")[1:] for second in range(31)}

    assert told == {(60, "refused 0"), (60, "refused 30")}


def test_one_that_is_out_of_reach_for_good_is_not_looked_at_all_the_time() -> None:
    """Replicas of other sites never reach it, and should have nothing to do."""
    just_now, long_ago = BORN + timedelta(minutes=59, seconds=30), BORN

    now = BORN + timedelta(hours=1)
    assert until_next_look([], now) == until_next_look([long_ago], now) == 0.5
    assert until_next_look([long_ago, just_now], now) == 0.1
