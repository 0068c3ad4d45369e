"""The feed's checker is no rubber stamp: what is missing, doubled or out of order shows, whatever came in one read."""

import json

import pytest

from tests.chaos.followers import Checker, Told, content

BEGIN = 'event: ping\ndata: {"revision":5,"etcd":"e","snapshot":"begins"}\n\n'
COMPLETE = 'event: ping\ndata: {"revision":5,"snapshot":"complete"}\nid: 5\n\n'


def told(kind: str, name: str, revision: int, *, event: str = "updated", ends: bool = True) -> str:
    document = {"kind": kind, "metadata": {"name": name, "revision": revision}}
    data = {"revision": revision, "type": event, "kind": kind, "name": name, "object": document}
    return f"event: {event}\ndata: {json.dumps(data)}\n" + (f"id: {revision}\n\n" if ends else "\n")


def ping(revision: int) -> str:
    return f'event: ping\ndata: {{"revision":{revision}}}\nid: {revision}\n\n'


def state(*objects: tuple[str, str, int]) -> int:
    found = 0
    for kind, name, revision in objects:
        found ^= content(kind, name, {"kind": kind, "metadata": {"name": name, "revision": revision}})
    return found


@pytest.fixture
def checker() -> Checker:
    checker = Checker(0, start=0)
    created = [told("Machine", name, 5, event="created", ends=False) for name in ("m-1", "m-2")]
    checker.follower.take("".join((BEGIN, *created, COMPLETE)).encode())
    assert not checker.broken
    return checker


def take(checker: Checker, *frames: str) -> None:
    """In one read."""
    checker.follower.take("".join(frames).encode())


def test_each_id_of_one_read_is_compared(checker: Checker) -> None:
    take(checker, told("Machine", "m-1", 6), told("Machine", "m-1", 7))

    assert checker.told[1:] == [
        Told(6, state(("Machine", "m-1", 6), ("Machine", "m-2", 5))),
        Told(7, state(("Machine", "m-1", 7), ("Machine", "m-2", 5))),
    ]
    assert not checker.broken


def test_what_a_ping_says_is_compared(checker: Checker) -> None:
    """So a change that was lost before it shows, though no change comes after it."""
    take(checker, ping(8))

    assert checker.told[1:] == [Told(8, state(("Machine", "m-1", 5), ("Machine", "m-2", 5)))]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([told("Machine", "m-1", 6, ends=False), told("Machine", "m-1", 6)], "twice"),
        ([told("Machine", "m-1", 6), told("Machine", "m-1", 6)], "between 6 and 6"),
        ([told("Machine", "m-1", 7), told("Machine", "m-2", 6)], "between 7 and 6"),
        ([told("Machine", "m-1", 6, ends=False), told("Machine", "m-2", 7)], "no id of its own"),
        ([told("Machine", "m-1", 7, ends=False), told("Machine", "m-2", 6)], "out of order"),
        ([told("Machine", "m-2", 6, ends=False), told("Machine", "m-1", 6)], "objects out of order"),
        ([told("Machine", "m-1", 6, event="created")], "which is there"),
        ([told("Machine", "m-9", 6)], "which is not there"),
    ],
)
def test_what_is_wrong_is_told(checker: Checker, frames: list[str], words: str) -> None:
    take(checker, *frames)

    assert any(words in broken for broken in checker.broken), checker.broken
