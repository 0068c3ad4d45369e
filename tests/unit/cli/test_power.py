from typing import Any

import pytest

from tests.unit.cli.conftest import ping, told

ULID = "01JD0000000000000000000009"
POST = "/api/v1/machines/m-1/power"


def accept(swarm: Any) -> None:
    document = {"kind": "PowerAction", "metadata": {"name": ULID}, "spec": {"machine": "m-1", "action": "cycle"}}
    swarm.reply(f"POST {POST}", 202, document)


def result(succeeded: bool, name: str = ULID) -> dict[str, Any]:
    told = ("Completed", "The machine was power-cycled.") if succeeded else ("Failed", "the fuse is blown")
    return {"name": name, "action": "cycle", "succeeded": succeeded, "reason": told[0], "message": told[1]}


def test_a_power_action_is_asked_for_under_a_key(swarm: Any, at_swarm: Any) -> None:
    accept(swarm)

    assert at_swarm("power", "m-1", "cycle") == (0, "machine m-1: cycle accepted\n", "")

    assert swarm.bodies("POST", POST) == [{"action": "cycle"}]
    assert swarm.requests[0].headers["idempotency-key"]


def test_waiting_ends_with_the_result(swarm: Any, at_swarm: Any) -> None:
    accept(swarm)
    swarm.machine("m-1", lastPowerAction=result(succeeded=True))

    assert at_swarm("power", "m-1", "cycle", "--wait") == (0, "machine m-1: cycle done\n", "")


def test_a_failure_is_told_with_the_bmcs_words(swarm: Any, at_swarm: Any) -> None:
    accept(swarm)
    swarm.machine("m-1", lastPowerAction=result(succeeded=False))

    done = at_swarm("power", "m-1", "cycle", "--wait")

    assert (done.code, done.out) == (1, "machine m-1: cycle failed: Failed: the fuse is blown\n")


def test_an_earlier_result_is_not_this_ones(swarm: Any, at_swarm: Any) -> None:
    accept(swarm)
    swarm.machine("m-1", lastPowerAction=result(succeeded=True, name="01JD0000000000000000000001"))

    done = at_swarm("power", "m-1", "cycle", "--wait", "--timeout", "0.5")

    assert done.code == 6
    assert "goes on" in done.err


def test_a_result_that_a_later_action_replaced_is_lost(swarm: Any, at_swarm: Any) -> None:
    accept(swarm)
    swarm.machine("m-1", lastPowerAction=result(succeeded=True, name="01JD000000000000000000000A"))

    done = at_swarm("power", "m-1", "cycle", "--wait")

    assert done.code == 1
    assert "another power action" in done.err


def test_a_replica_that_dies_meanwhile_is_waited_out(swarm: Any, at_swarm: Any) -> None:
    accept(swarm)
    machine = swarm.machine("m-1", lastPowerAction={})
    swarm.faults.append(None)
    swarm.lose(carried_out=False)
    swarm.streams.append(ping(101) + told("updated", machine, 102))
    done = {**machine, "status": {"lastPowerAction": result(succeeded=True)}}
    swarm.streams.append(ping(102) + told("updated", done, 103))

    ended = at_swarm("power", "m-1", "cycle", "--wait")

    assert (ended.code, ended.out) == (0, "machine m-1: cycle done\n")
    assert ended.err.endswith("; still waiting\n")


def test_a_refusal_is_told(swarm: Any, at_swarm: Any) -> None:
    swarm.refuse(f"POST {POST}", 409, "machine-locked", "Machine m-1 is locked by ada.")

    done = at_swarm("power", "m-1", "off")

    assert (done.code, done.err) == (4, "dragonfly: Machine m-1 is locked by ada.\n")


@pytest.mark.parametrize("arguments", [("m-1", "explode"), ("m-1", "on", "--timeout", "3")])
def test_what_is_not_understood_asks_for_nothing(swarm: Any, at_swarm: Any, arguments: tuple[str, ...]) -> None:
    assert at_swarm("power", *arguments).code == 2
    assert swarm.requests == []
