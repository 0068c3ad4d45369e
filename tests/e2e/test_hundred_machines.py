"""100 machines, asked for through HAProxy, are provisioned by real Tinkerbell: each once."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from dragonfly.sandbox.agents import Step
from dragonfly.sandbox.fate import Behaviour
from tests.e2e.conftest import StartSite
from tests.e2e.fleet import (
    all_ended,
    ask,
    each_once,
    expected_starts,
    outcome,
    predicted,
    starts,
    two_actions,
    workflow,
)
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

BEHAVIOUR = Behaviour(seed=1, shortest=0.1, longest=0.5)


class Story(NamedTuple):
    site: Site
    machines: list[Machine]
    asked: dict[str, str]
    ended: dict[str, Any]
    trace: list[Step]


@pytest.fixture(scope="module")
def story(start_site: StartSite) -> Iterator[Story]:
    with start_site(3) as site:
        template = site.template("ubuntu-2404", two_actions())
        machines = site.machines(100)
        with site.agents(machines, BEHAVIOUR) as agents:
            asked = ask(site, machines, template)
            ended = all_ended(site, len(machines), within=300)
        yield Story(site, machines, asked, ended, agents.trace())


def test_all_succeed(story: Story) -> None:
    assert {item["spec"]["machine"]: outcome(item) for item in story.ended.values()} == predicted(
        BEHAVIOUR, story.machines
    )
    assert {item["status"]["progress"] for item in story.ended.values()} == {100}


def test_every_request_that_was_accepted_is_there_and_nothing_else(story: Story) -> None:
    assert {item["spec"]["machine"]: name for name, item in story.ended.items()} == story.asked


def test_every_machine_ran_each_action_once(story: Story) -> None:
    assert starts(story.trace) == expected_starts(BEHAVIOUR, story.machines, story.asked)
    assert [step for step in story.trace if step.refused] == []


def test_the_api_server_saw_one_create_and_one_arming_for_each(story: Story) -> None:
    each_once(story.site.audit, story.asked.values())


def test_every_workflow_was_created_staged(story: Story) -> None:
    audit = story.site.audit()
    created = [write for name in story.asked.values() for write in audit.creates(workflow(name))]

    assert len(created) == len(story.asked)
    assert all(write.sent["spec"]["disabled"] is True for write in created)


def test_no_running_workflow_was_deleted(story: Story) -> None:
    assert story.site.audit().running_deleted() == []


def test_netboot_is_closed_on_every_machine(story: Story) -> None:
    eventually_equal(story.site.netboot, {machine.name: [False] for machine in story.machines}, within=60)


def test_every_machine_is_deployed_with_its_system_and_history(story: Story) -> None:
    items = story.site.api.get("machines?limit=1000")["items"]
    statuses = {item["metadata"]["name"]: item["status"] for item in items}

    assert {status["phase"] for status in statuses.values()} == {"Deployed"}
    installed = {name: (status["os"]["template"], status["os"]["provision"]) for name, status in statuses.items()}
    assert installed == {name: ("ubuntu-2404", provision) for name, provision in story.asked.items()}
    assert {name: _history(story.site, name) for name in story.asked} == {
        name: [provision] for name, provision in story.asked.items()
    }


def _history(site: Site, machine: str) -> list[str]:
    return [item["metadata"]["name"] for item in site.api.get(f"machines/{machine}/history")["items"]]
