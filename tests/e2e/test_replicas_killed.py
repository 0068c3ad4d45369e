"""Replicas die, stop or freeze while 100 machines are provisioned, and some of their actions fail: each runs once.

The machines come in waves. Each wave is asked for just when a replica was hit, so that requests, steps and results of
every kind are under way at that moment; what is hit, and which actions fail, is decided by seeds.
"""

import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from threading import Event
from typing import Any, Final, NamedTuple

import pytest

from dragonfly.sandbox.agents import Step
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.swarm import Replica
from tests.e2e.conftest import StartSite
from tests.e2e.fleet import (
    ACTIONS,
    Outcome,
    all_ended,
    ask,
    each_once,
    expected_starts,
    outcome,
    predicted,
    starts,
    two_actions,
)
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

_BEAT: Final = 2.5
"""Seconds between two blows: shorter than a lease, so that the next comes before the last is healed."""
_FROZEN: Final = 6.0
"""Seconds; twice the lease."""
_TOLD: Final = re.compile(r": (50[234] /problems/[a-z-]+|RemoteProtocolError)$")
_NOTHING: Final = re.compile(r"(?!)")


class Hits:
    """Who is hit, and how: a choice that a seed makes among the replicas that are up."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.count = 0
        self._choice = random.Random(seed)

    def killed(self) -> None:
        """One dies, and now and then all of them at once."""
        victims = self.site.swarm.replicas if self.count % 7 == 5 else [self._one()]
        for victim in victims:
            victim.service.signal(SIGKILL)
            self.count += 1
        Event().wait(_BEAT)

    def terminated(self) -> None:
        """One is told to stop, while another can take over."""
        victim = self._one()
        eventually("another replica gets requests", lambda: set(self.site.in_rotation()) - {victim}, within=60)
        victim.service.signal(SIGTERM)
        self.count += 1
        Event().wait(_BEAT)

    def frozen(self) -> None:
        """One stands still until long after its lease has ended, then goes on with what it was about to do."""
        victim = self._one()
        victim.service.signal(SIGSTOP)
        self.count += 1
        Event().wait(_FROZEN)
        victim.service.signal(SIGCONT)

    def _one(self) -> Replica:
        return self._choice.choice(eventually("a replica is ready", self._ready, within=60))

    def _ready(self) -> list[Replica]:
        return [replica for replica in self.site.swarm.replicas if is_ready(replica)]


class Disturbance(NamedTuple):
    hit: Callable[[Hits], None]
    machines: int
    waves: int
    behaviour: Behaviour
    is_felt: bool = True
    """Whether a client may be told to come again."""
    lease: int = 3
    """Seconds."""


DISTURBANCES: Final = {
    "kill -9": Disturbance(Hits.killed, 100, 12, Behaviour(seed=11, fail_rate=0.1, shortest=0.5, longest=4.0)),
    # Who stops in order gives its lease back; another that lost its own on a busy computer would be felt.
    "SIGTERM": Disturbance(
        Hits.terminated, 50, 6, Behaviour(seed=12, fail_rate=0.1, shortest=0.5, longest=3.0), is_felt=False, lease=10
    ),
    "SIGSTOP": Disturbance(Hits.frozen, 50, 4, Behaviour(seed=13, fail_rate=0.1, shortest=0.5, longest=3.0)),
}


class Story(NamedTuple):
    site: Site
    disturbance: Disturbance
    hits: int
    machines: list[Machine]
    asked: dict[str, str]
    ended: dict[str, Any]
    trace: list[Step]
    repeats: list[str]
    """Why requests had to be sent again."""


@pytest.fixture(scope="module", params=DISTURBANCES)
def story(request: pytest.FixtureRequest, start_site: StartSite) -> Iterator[Story]:
    disturbance = DISTURBANCES[request.param]
    with start_site(3, {"DRAGONFLY_LEASE_TTL": str(disturbance.lease)}) as site:
        template = site.template("ubuntu-2404", two_actions())
        machines = site.machines(disturbance.machines)
        hits = Hits(site, seed=disturbance.behaviour.seed)
        with site.agents(machines, disturbance.behaviour) as agents:
            asked = _asked_in_waves(hits, disturbance, machines, template)
            ended = all_ended(site, len(machines), within=300)
        yield Story(site, disturbance, hits.count, machines, asked, ended, agents.trace(), site.api.repeats)


def test_it_was_disturbed(story: Story) -> None:
    assert story.hits >= story.disturbance.waves
    assert Outcome("Succeeded") in predicted(story.disturbance.behaviour, story.machines).values()
    assert (
        Outcome("Failed", "ActionFailed", ACTIONS[1]) in predicted(story.disturbance.behaviour, story.machines).values()
    )


def test_exactly_those_fail_that_the_seed_says_with_their_action_named(story: Story) -> None:
    assert {item["spec"]["machine"]: outcome(item) for item in story.ended.values()} == predicted(
        story.disturbance.behaviour, story.machines
    )


def test_every_request_that_was_accepted_is_there_and_nothing_else(story: Story) -> None:
    assert {item["spec"]["machine"]: name for name, item in story.ended.items()} == story.asked
    registered = {item["metadata"]["name"] for item in story.site.api.get("machines?limit=1000")["items"]}
    assert registered == {machine.name for machine in story.machines}


def test_a_client_feels_no_more_than_it_must(story: Story) -> None:
    """Nothing of a replica that stops in order; of others a problem document or a broken connection, never silence."""
    may_be_felt = _TOLD if story.disturbance.is_felt else _NOTHING
    assert [repeat for repeat in story.repeats if not may_be_felt.search(repeat)] == []


def test_every_machine_ran_each_action_once(story: Story) -> None:
    assert starts(story.trace) == expected_starts(story.disturbance.behaviour, story.machines, story.asked)
    assert [step for step in story.trace if step.refused] == []


def test_the_api_server_saw_one_create_and_one_arming_for_each(story: Story) -> None:
    each_once(story.site.audit, story.asked.values())


def test_no_running_workflow_was_deleted(story: Story) -> None:
    assert story.site.audit().running_deleted() == []


def test_netboot_is_closed_on_every_machine(story: Story) -> None:
    eventually_equal(story.site.netboot, {machine.name: [False] for machine in story.machines}, within=60)


def test_the_swarm_is_whole_again(story: Story) -> None:
    eventually("all replicas are ready", lambda: all(map(is_ready, story.site.swarm.replicas)), within=60)
    eventually_equal(lambda: story.site.api.get("swarm")["unowned"], [], within=60)


def is_ready(replica: Replica) -> bool:
    return http_ok(f"{replica.url}/readyz")


def _asked_in_waves(hits: Hits, disturbance: Disturbance, machines: list[Machine], template: str) -> dict[str, str]:
    """Ask for a part of the machines during each hit; the names of the provisions, by machine."""
    asked: dict[str, str] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="hits") as hitting:
        for wave in range(disturbance.waves):
            hit = hitting.submit(disturbance.hit, hits)
            asked |= ask(hits.site, machines[wave :: disturbance.waves], template)
            hit.result()
    return asked
