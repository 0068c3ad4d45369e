"""Which failed requests a benchmark may put down to the replica that was hit."""

import pytest

from benchmarks.failover import Hit, is_the_hit_ones
from benchmarks.load import Failure

HITS = [
    Hit(at=10.0, names=frozenset({"a", "replica-1"}), seconds=(), under_way=3),
    Hit(at=20.0, names=frozenset({"b", "replica-2"}), seconds=(), under_way=3),
]


@pytest.mark.parametrize(
    ("began", "ended", "server", "expected"),
    [
        pytest.param(9.9, 10.1, "replica-1", True, id="HAProxy got no answer from it"),
        pytest.param(9.9, 10.1, "a", True, id="its answer broke off"),
        pytest.param(9.9, 10.1, "replica-2", False, id="under way on another"),
        pytest.param(9.9, 10.1, "<NOSRV>", False, id="on no server"),
        pytest.param(9.9, 10.1, "", False, id="nobody knows where"),
        pytest.param(10.1, 10.2, "replica-1", False, id="sent after the hit"),
        pytest.param(9.7, 9.9, "replica-1", False, id="over before the hit"),
        pytest.param(19.9, 20.1, "replica-1", False, id="when another was hit"),
        pytest.param(19.9, 20.1, "replica-2", True, id="at the second hit"),
    ],
)
def test_only_what_the_hit_replica_had_at_that_moment(began: float, ended: float, server: str, expected: bool) -> None:
    assert is_the_hit_ones(Failure(began, ended, server, "GET machines: 502"), HITS) is expected
