import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.kube.pacing import Backoff, TokenBucket


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0)

    assert [bucket.take(0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])


def test_an_idle_bucket_fills_up_to_its_burst_and_no_further() -> None:
    bucket = TokenBucket(rate=10, burst=2, now=0)
    for _ in range(2):
        bucket.take(0)

    assert [bucket.take(1000) for _ in range(3)] == pytest.approx([0, 0, 0.1])


def test_looking_ahead_reserves_nothing() -> None:
    bucket = TokenBucket(rate=10, burst=1, now=0)
    bucket.take(0)

    assert [bucket.ahead(0), bucket.ahead(0), bucket.take(0)] == pytest.approx([0.1, 0.1, 0.1])


def test_no_turn_begins_while_the_server_rests() -> None:
    bucket = TokenBucket(rate=10, burst=5, now=0)
    bucket.hold(until=3)
    bucket.hold(until=2)

    assert bucket.take(1) == 2
    assert bucket.ahead(4) == 0


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    bucket, now, starts = TokenBucket(rate, burst, 0), 0.0, []
    for gap in gaps:
        now += gap
        starts.append(now + bucket.take(now))

    for index, start in enumerate(starts):
        in_window = [other for other in starts[: index + 1] if other >= start - 1]
        assert len(in_window) <= burst + rate + 1e-6 * len(starts) + 1
    assert starts == sorted(starts), "first come, first served"


def test_backoff_doubles_up_to_its_most_and_is_jittered() -> None:
    backoff = Backoff(first=1, most=5)

    delays = []
    for _ in range(4):
        delays.append(backoff.delay(1.0))
        backoff = backoff.worse()

    assert delays == [1, 2, 4, 5]
    assert backoff.delay(0.5) == 2.5
    assert backoff.delay(0) == 0


def test_one_success_takes_one_step_back_only() -> None:
    backoff = Backoff(first=1, most=100)
    for _ in range(5):
        backoff = backoff.worse()

    assert backoff.better().delay(1.0) == 16
    assert backoff.calm().delay(1.0) == 1
    assert backoff.calm().better().delay(1.0) == 1


def test_backoff_never_overflows() -> None:
    backoff = Backoff()
    for _ in range(5000):
        backoff = backoff.worse()

    assert backoff.delay(1.0) == 30
