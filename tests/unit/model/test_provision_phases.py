"""Phases of a provision: one table, and nothing after an end."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.model.provision import (
    TERMINAL,
    TRANSITIONS,
    ActionProgress,
    IllegalTransition,
    Problem,
    Provision,
    ProvisionPhase,
    ProvisionSpec,
    ProvisionStatus,
    Stopping,
    advanced,
    ended,
    summary_of,
    workflow_name,
)
from dragonfly.model.values import Metadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=9)
PHASES: tuple[ProvisionPhase, ...] = get_args(ProvisionPhase)
ORDER = {"Pending": 0, "Starting": 1, "Running": 2} | dict.fromkeys(TERMINAL, 3)


def provision(phase: ProvisionPhase = "Pending", **status: Any) -> Provision:
    metadata = Metadata(name="01JD0000000000000000000001", created_at=NOW, updated_at=NOW)
    spec = ProvisionSpec(machine="m-1", template="t", template_revision=1)
    return Provision(metadata=metadata, spec=spec, status=ProvisionStatus(phase=phase, **status))


def test_the_table_knows_every_phase() -> None:
    assert set(TRANSITIONS) == set(PHASES)
    assert {phase for phase, after in TRANSITIONS.items() if not after} == TERMINAL


@pytest.mark.parametrize("before", PHASES)
@pytest.mark.parametrize("after", PHASES)
def test_a_change_of_phase_is_one_of_the_table_or_refused(before: ProvisionPhase, after: ProvisionPhase) -> None:
    if after in TRANSITIONS[before]:
        assert advanced(provision(before), NOW, phase=after).status.phase == after
        return
    with pytest.raises(IllegalTransition, match=f"{before} → {after}"):
        advanced(provision(before), NOW, phase=after)


@given(st.lists(st.sampled_from(PHASES), max_size=12))
def test_no_path_goes_back_or_leaves_an_end(path: list[ProvisionPhase]) -> None:
    held = provision()
    for phase in path:
        before = held.status.phase
        try:
            held = advanced(held, NOW, phase=phase)
        except IllegalTransition:
            assert held.status.phase == before
        assert ORDER[held.status.phase] >= ORDER[before]
        assert before not in TERMINAL or held.status.phase == before


@pytest.mark.parametrize("phase", sorted(TERMINAL))
def test_after_an_end_not_even_a_detail_changes(phase: ProvisionPhase) -> None:
    with pytest.raises(IllegalTransition):
        advanced(provision(phase), NOW, progress=7)
    with pytest.raises(IllegalTransition):
        ended(provision(phase), NOW, phase)


@pytest.mark.parametrize("phase", sorted(set(PHASES) - TERMINAL))
def test_an_end_is_an_end(phase: ProvisionPhase) -> None:
    with pytest.raises(IllegalTransition, match="is no end"):
        ended(provision("Starting"), NOW, phase)


def test_success_is_100_percent_whatever_was_seen_last() -> None:
    done = ended(provision("Running", progress=50), LATER, "Succeeded", progress=99, current_action="last")

    assert (done.status.progress, done.status.finished_at, done.status.eta) == (100, LATER, None)
    assert done.metadata.updated_at == LATER


def test_another_end_keeps_the_progress_that_was_made_and_tells_why() -> None:
    stopping = Stopping(phase="Failed", error=Problem("Rejected", "no"))
    running = advanced(provision("Running", progress=50), NOW)

    done = ended(running, LATER, "Failed", stopping.error, progress=66)

    assert (done.status.progress, done.status.error, done.stopping, done.ended) == (66, stopping.error, None, True)
    assert summary_of(done).error == stopping.error


def test_what_was_running_at_the_end_was_interrupted() -> None:
    done_before = ActionProgress(name="a", state="Succeeded", seconds=3.0)
    running = ActionProgress(name="b", state="Running", started_at=NOW)
    waiting = ActionProgress(name="c")

    done = ended(provision("Running", actions=(done_before, running, waiting), current_action="b"), LATER, "Cancelled")

    interrupted = ActionProgress(name="b", state="Interrupted", started_at=NOW, finished_at=LATER, seconds=9.0)
    assert done.status.actions == (done_before, interrupted, waiting)
    assert done.status.current_action == ""


def test_a_workflow_name_is_one_that_tink_controller_and_kubernetes_bear() -> None:
    name = workflow_name("01JD0000000000000000000ABC")

    assert name == "df-01jd0000000000000000000abc"
    assert len(name) <= 42
