from typing import Any

import pytest

POST = "/api/v1/machines/m-1/move"


def there(swarm: Any, **status: Any) -> None:
    machine = swarm.machine("m-1", conditions=[{"type": "Synced", "status": "True"}], **status)
    machine["spec"]["cluster"] = "fra"
    swarm.reply(f"POST {POST}", 202, {"spec": {"cluster": "local"}, "status": {"moving": {"to": "fra"}}})


def test_a_move_is_asked_for(swarm: Any, at_swarm: Any) -> None:
    there(swarm)

    assert at_swarm("move", "m-1", "--cluster", "fra") == (0, "machine m-1: is being moved to cluster fra\n", "")

    assert swarm.bodies("POST", POST) == [{"cluster": "fra"}]


def test_waiting_ends_when_it_is_there(swarm: Any, at_swarm: Any) -> None:
    there(swarm)

    done = at_swarm("move", "m-1", "--cluster", "fra", "--wait")

    assert (done.code, done.out.splitlines()[-1]) == (0, "machine m-1: moved to cluster fra")


def test_what_holds_it_up_is_told(swarm: Any, at_swarm: Any) -> None:
    there(swarm)
    held = {"type": "Moved", "status": "False", "message": "The move to cluster fra waits: no replica reaches it"}
    swarm.machine("m-1", conditions=[held])

    done = at_swarm("move", "m-1", "--cluster", "fra", "--wait", "--timeout", "0.5")

    assert done.code == 6
    assert "no replica reaches it" in done.err


def test_a_refusal_is_told(swarm: Any, at_swarm: Any) -> None:
    swarm.refuse(f"POST {POST}", 409, "machine-locked", "Machine m-1 is locked by ada.")

    done = at_swarm("move", "m-1", "--cluster", "fra")

    assert (done.code, done.err) == (4, "dragonfly: Machine m-1 is locked by ada.\n")


@pytest.mark.parametrize("arguments", [("--timeout", "3"), ("--force",)])
def test_what_is_not_understood_asks_for_nothing(swarm: Any, at_swarm: Any, arguments: tuple[str, ...]) -> None:
    assert at_swarm("move", "m-1", "--cluster", "fra", *arguments).code == 2
    assert swarm.requests == []


def test_force_is_said_by_a_script(swarm: Any, at_swarm: Any) -> None:
    there(swarm)

    assert at_swarm("move", "m-1", "--cluster", "fra", "--force", "--yes").code == 0

    assert swarm.bodies("POST", POST) == [{"cluster": "fra", "force": True}]
