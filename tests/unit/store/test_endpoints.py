from __future__ import annotations

import pytest

from dragonfly.store.endpoints import Endpoints


def test_the_one_that_works_is_kept() -> None:
    endpoints = Endpoints(("a", "b", "c"), quarantine=2.0)

    assert [endpoints.pick(now) for now in (0.0, 1.0, 5.0)] == ["a", "a", "a"]


def test_after_a_failure_the_next_takes_over_and_stays() -> None:
    endpoints = Endpoints(("a", "b", "c"), quarantine=2.0)
    endpoints.failed("a", 0.0)

    assert endpoints.pick(0.0) == "b"
    assert endpoints.pick(100.0) == "b", "a working endpoint is not left for a preferred one"


def test_with_all_in_quarantine_the_longest_waiting_is_asked() -> None:
    endpoints = Endpoints(("a", "b", "c"), quarantine=2.0)
    for now, name in ((0.2, "b"), (0.1, "a"), (0.3, "c")):
        endpoints.failed(name, now)

    assert endpoints.pick(0.4) == "a"
    endpoints.failed("a", 0.4)
    assert endpoints.pick(0.4) == "b"


def test_a_quarantine_ends() -> None:
    endpoints = Endpoints(("a", "b"), quarantine=2.0)
    endpoints.failed("a", 0.0)
    assert endpoints.pick(0.0) == "b"
    endpoints.failed("b", 3.0)

    assert endpoints.pick(3.0) == "a"


def test_none_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Endpoints((), quarantine=1.0)
