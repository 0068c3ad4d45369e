"""P1, P2, P3 and P5 for one provision, in histories that hypothesis and a seeded scheduler make up."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.controllers.provision_histories import simulate
from tests.unit.controllers.provision_parts import Broken, Mutation
from tests.unit.controllers.provision_world import World

REPLICAS = st.sampled_from("ab")
LAGS = st.sampled_from([0, 0, 1, 3])
SEEDS = 3_000


class Histories(RuleBasedStateMachine):
    """Any order of what replicas, Tinkerbell, a machine and people do; a failure is shrunk to the shortest story."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(name=REPLICAS, mirror=LAGS, cache=LAGS)
    def look(self, name: str, mirror: int, cache: int) -> None:
        self.world.look(name, mirror, cache)

    @rule(name=REPLICAS)
    def decide(self, name: str) -> None:
        self.world.decide(name)

    @rule(name=REPLICAS)
    def execute(self, name: str) -> None:
        self.world.execute(name)

    @rule(name=REPLICAS)
    def work_undisturbed(self, name: str) -> None:
        self.world.look(name)
        for _ in range(12):
            if not (self.world.decide(name) and self.world.execute(name)):
                return

    @rule(name=REPLICAS)
    def move_claim(self, name: str) -> None:
        self.world.move_claim(name)

    @rule()
    def tink_controller(self) -> None:
        self.world.tink_controller()

    @rule()
    def tink_times_out(self) -> None:
        self.world.tink_times_out()

    @rule()
    def agent_asks(self) -> None:
        self.world.agent_asks()

    @rule()
    def agent_begins(self) -> None:
        self.world.agent_begins()

    @rule(well=st.booleans())
    def agent_ends(self, well: bool) -> None:
        self.world.agent_ends(well=well)

    @rule()
    def cancel(self) -> None:
        self.world.cancel()

    @rule(locked=st.booleans())
    def lock(self, locked: bool) -> None:
        self.world.lock(locked=locked)

    @rule()
    def delete_by_hand(self) -> None:
        self.world.delete_by_hand()

    @rule(disabled=st.booleans())
    def replace_by_hand(self, disabled: bool) -> None:
        self.world.replace_by_hand(disabled=disabled)

    @rule(back=st.sampled_from([1, 2, 4, 8]))
    def restore(self, back: int) -> None:
        self.world.restore(back)

    @rule(seconds=st.sampled_from([0.1, 1.0, 50.0, 250.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def at_most_one_arming(self) -> None:
        assert len(self.world.armed) <= 1

    @invariant()
    def an_end_has_a_time_and_stops_stopping(self) -> None:
        provision = self.world.provision
        assert provision.ended == (provision.status.finished_at is not None)
        assert not (provision.ended and provision.stopping)

    def teardown(self) -> None:
        self.world.run_to_the_end()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_thousands_of_histories_break_no_promise() -> None:
    ends = set()
    for seed in range(SEEDS):
        try:
            world = simulate(seed)
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}")
        error = world.provision.status.error
        ends.add((world.provision.status.phase, error.reason if error else ""))

    # Without these, the scheduler would be too tame to prove anything.
    assert ends >= {
        ("Succeeded", ""),
        ("Failed", "ActionFailed"),
        ("Failed", "MachineLocked"),
        ("Failed", "WorkflowGone"),
        ("Failed", "WorkflowRewound"),
        ("TimedOut", "GlobalTimeout"),
        ("TimedOut", "MachineSilent"),
        ("TimedOut", "NotPrepared"),
        ("Cancelled", "Cancelled"),
    }


def test_after_an_undisturbed_run_nothing_is_left_to_do() -> None:
    world = World()

    world.run_to_the_end()

    assert world.provision.status.phase == "Succeeded"
    assert world.provision.status.progress == 100
    assert [line for line in world.log if "Arm" in line] == ["a: RecordArming", "a: Arm"]


@pytest.mark.parametrize(
    ("mutation", "broken"),
    [
        ("ignore_preconditions", "armed twice"),
        ("arm_unrecorded", "armed what was not recorded"),
        ("ignore_claim", "written once"),
        ("create_after_arming", "decides to create"),
        ("ignore_lock", "locked machine"),
        ("end_without_halting", "served after"),
        ("delete_what_runs", "deletes a Workflow"),
        ("arm_the_rewound", "armed twice"),
    ],
)
def test_the_checker_finds_what_is_wrong_on_purpose(mutation: str, broken: str) -> None:
    flags: dict[str, Any] = {mutation: True}

    assert any(broken in _found(seed, Mutation(**flags)) for seed in range(4 * SEEDS))


def _found(seed: int, mutation: Mutation) -> str:
    """What the checker says; a mutation may break other promises than the one that it is there for."""
    try:
        simulate(seed, mutation)
    except Broken as found:
        return str(found)
    return ""


@pytest.mark.parametrize("overtaken_by", ["lock", "cancel"])
def test_on_an_old_record_it_would_be_armed_though_it_is_overtaken(overtaken_by: str) -> None:
    """What `vouched` is there for: a replica that comes back to its own record with a view from before the lock."""
    with pytest.raises(Broken, match="for long"):
        _armed_behind_its_back(Mutation(arm_on_an_old_record=True), overtaken_by)

    assert _armed_behind_its_back(Mutation(), overtaken_by).armed == []


def _armed_behind_its_back(mutation: Mutation, overtaken_by: str) -> World:
    world = World(mutation)
    world.look("a")
    while world.provision.arming is None:
        if not (world.decide("a") and world.execute("a")):
            world.pass_time(1)
            world.look("a")
    world.replicas["a"].record = None
    assert world.lock() if overtaken_by == "lock" else world.cancel()
    world.pass_time(50)
    # Only one who took over could have a view this old; its mirror is what it was when it claimed.
    world.replicas["a"].mirror -= 1
    world.look("a", mirror_lag=1)
    while world.decide("a") and world.execute("a"):
        pass
    return world


def test_a_report_that_comes_after_the_halt_gets_no_further_action() -> None:
    """tink-server writes RUNNING over FAILED; without its agent's id the Workflow is not found any more."""
    world = _cancelled_while_an_action_was_handed_out(Mutation())

    assert world.workflow is not None
    assert world.workflow.state == "RUNNING"
    assert not world.agent_asks()


def test_halting_by_the_state_alone_would_not_hold() -> None:
    world = _cancelled_while_an_action_was_handed_out(Mutation(halt_by_state_alone=True))

    with pytest.raises(Broken, match="served after Cancelled"):
        world.agent_asks()


def _cancelled_while_an_action_was_handed_out(mutation: Mutation) -> World:
    world = World(mutation)
    while not world.agent_asks():
        world.tink_controller()
        world.look("a")
        while world.decide("a") and world.execute("a"):
            pass
    world.cancel()
    world.look("a")
    while world.decide("a") and world.execute("a"):
        pass
    assert world.provision.status.phase == "Cancelled"

    assert world.agent_begins()
    assert world.agent_ends()
    return world
