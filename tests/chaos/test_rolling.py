"""All replicas are restarted, upgraded and rolled back one after the other, while 200 machines are provisioned.

Nobody notices: every provision succeeds, runs once, and no request through HAProxy fails.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import SIGTERM
from typing import NamedTuple

import msgspec
import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from tests.chaos.builds import Build, current, previous
from tests.chaos.conftest import StartWitnessed
from tests.chaos.history import Readers, Request
from tests.chaos.verdict import Evidence, summary
from tests.chaos.witnessed import WitnessedSite
from tests.e2e.api import Api
from tests.e2e.fleet import Outcome, all_ended, ask, expected_starts, starts, two_actions
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

MACHINES = 200
BEHAVIOUR = Behaviour(seed=31, shortest=0.2, longest=1.0)
LEASE = {"DRAGONFLY_LEASE_TTL": "10"}
"""A replica that loses its lease is taken out of rotation, and what it answers just then is broken off. Who is
restarted in order gives its lease back; the others must not lose theirs to a busy computer."""


class Story(NamedTuple):
    versions: list[set[str]]
    """Of the members: at the start, and after each restart."""
    wanted: list[set[str]]
    evidence: Evidence
    failed: list[Request]
    """Requests through HAProxy that had to be sent again."""
    ran_once: bool


class Turn(NamedTuple):
    """A replica is ended by SIGTERM and started from a build."""

    replica: str
    build: Build


@pytest.fixture(scope="module", params=["restarted", "upgraded and rolled back"])
def turns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[list[Turn]]:
    """Builds that all replicas are started from, and from which to which they go then, one by one."""
    new = current()
    if request.param == "restarted":
        builds = [new, new]
    else:
        old = previous(tmp_path_factory.mktemp("previous"))
        builds = [old, new, old]
    return [[Turn(replica, build) for replica in "abc"] for build in builds]


@pytest.fixture(scope="module")
def story(turns: list[list[Turn]], control_plane: ControlPlane, start_witnessed: StartWitnessed) -> Iterator[Story]:
    at_first, *later = turns
    order = [turn for round_ in later for turn in round_]
    own = {turn.replica: {**turn.build.environment, **LEASE} for turn in at_first}
    with start_witnessed(control_plane, own=own) as site:
        template = site.template("ubuntu-2404", two_actions())
        machines = site.machines(MACHINES)
        replicas = len(site.swarm.replicas)
        versions = [eventually("the swarm is whole", lambda: versions_of(site.api, replicas), within=60)]
        with site.agents(machines, BEHAVIOUR) as agents, through_balancer(site), site.client("operator") as operator:
            asked: dict[str, str] = {}
            with ThreadPoolExecutor(1, thread_name_prefix="restarts") as restarting:
                for number, turn in enumerate(order):
                    restart = restarting.submit(restarted, site, operator, turn)
                    asked |= ask(site, machines[number :: len(order)], template)
                    versions.append(restart.result())
            all_ended(site, MACHINES, within=300)
        evidence = site.verdict({name: {Outcome("Succeeded")} for name in asked.values()}, agents.trace())
        ran_once = starts(agents.trace()) == expected_starts(BEHAVIOUR, machines, asked)
        failed = [request for request in site.history.requests if not request.ok]
        yield Story(versions, wanted(at_first, order), evidence, failed, ran_once)


def test_every_promise_is_kept_and_every_provision_succeeds(story: Story) -> None:
    """`verdict` has seen to it; this is what it was passed on."""
    witnessed = summary(story.evidence)
    assert witnessed["provisions"] == MACHINES
    assert witnessed["writes"] >= MACHINES * 3


def test_every_machine_ran_each_action_once(story: Story) -> None:
    assert story.ran_once


def test_no_request_fails(story: Story) -> None:
    assert story.failed == []


def test_each_build_was_in_the_swarm_when_it_should(story: Story) -> None:
    assert story.versions == story.wanted


def restarted(site: WitnessedSite, operator: Api, turn: Turn) -> set[str]:
    """End a replica, and wait until it is back from that build; the versions in the swarm then."""
    replica = site.swarm.replica(turn.replica)
    service, pid = replica.service, replica.service.pid
    environment = {**service.program.environment, **turn.build.environment}
    service.program = msgspec.structs.replace(service.program, environment=environment)
    service.signal(SIGTERM)
    eventually(f"{replica.id} is back", lambda: service.pid != pid and replica in site.in_rotation(), within=120)
    return eventually("the swarm is whole", lambda: versions_of(operator, len(site.swarm.replicas)), within=60)


def versions_of(client: Api, replicas: int) -> set[str]:
    """The versions in the swarm, once so many replicas are in it and have all shards; none before."""
    view = client.get("swarm")
    is_whole = len(view["members"]) == replicas and not view["unowned"]
    return {member["version"] for member in view["members"]} if is_whole else set()


def wanted(at_first: list[Turn], order: list[Turn]) -> list[set[str]]:
    """The versions in the swarm at the start and after each turn."""
    running = {turn.replica: turn.build.version for turn in at_first}
    seen = [set(running.values())]
    for turn in order:
        running[turn.replica] = turn.build.version
        seen.append(set(running.values()))
    return seen


def through_balancer(site: WitnessedSite) -> Readers:
    """A client that reads all the time through HAProxy, as people do."""
    return Readers({"people": site.client("people")}, site.history, "provisions?limit=1000")
