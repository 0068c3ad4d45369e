"""How long a client may take: pure."""

import pytest

from dragonfly.api.patience import Patience

KB = 1024


@pytest.fixture
def patience() -> Patience:
    return Patience(30, 300)


def test_one_that_takes_nothing_has_its_seconds(patience: Patience) -> None:
    patience.wait(100)

    assert (patience.is_over(130), patience.is_over(130.1)) == (False, True)


def test_what_is_taken_gives_a_second_for_each_16_kb(patience: Patience) -> None:
    patience.wait(0)
    patience.taken(29, 64 * KB)
    patience.wait(29)

    assert (patience.is_over(34), patience.is_over(34.1)) == (False, True)


def test_what_the_server_needs_itself_does_not_count(patience: Patience) -> None:
    patience.wait(0)
    patience.taken(1, 1)
    assert not patience.is_tried
    assert not patience.is_over(1_000)
    patience.wait(1_000)

    assert (patience.is_over(1_029), patience.is_over(1_029.1)) == (False, True)


def test_one_that_has_everything_begins_anew(patience: Patience) -> None:
    for at in range(0, 1_000, 29):
        patience.wait(at)
        assert not patience.is_over(at + 29)
        patience.taken(at + 29, 1)
        patience.renew()


def test_however_much_is_taken_there_is_an_end(patience: Patience) -> None:
    patience.wait(0)
    patience.taken(299, 1_000_000 * KB)
    patience.wait(299)

    assert (patience.is_over(300), patience.is_over(300.1)) == (False, True)
