"""The API server killed, frozen, and killed together with all replicas, while 60 machines are provisioned.

The machines come in waves, one during each blow, so that requests, steps and results of every kind are under way. What
is broken here is this module's own control plane.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGKILL, SIGSTOP
from threading import Event
from typing import Final, NamedTuple

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.keeper import Keepers
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.swarm import Replica
from tests.chaos.conftest import StartWitnessed
from tests.chaos.verdict import Evidence, summary
from tests.chaos.witnessed import WitnessedSite
from tests.e2e.fleet import all_ended, ask, expected_starts, predicted, starts, two_actions
from tests.e2e.site import Machine
from tests.e2e.waiting import eventually

# The story is told in a fixture; its deadlines add up to more than the usual limit.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

MACHINES: Final = 60
BEHAVIOUR: Final = Behaviour(seed=41, fail_rate=0.1, shortest=0.5, longest=3.0)
_FROZEN: Final = 15.0
"""Seconds; longer than a call to the cluster may take, and than it takes to tell that it is away."""
_AWAY: Final = 2.0
"""Seconds from a death to the next start."""


class Blows:
    """What is done, one after the other."""

    def __init__(self, site: WitnessedSite, witness: Machine) -> None:
        self._site = site
        self._witness = witness
        self.frozen: list[tuple[float, float]] = []

    def all(self) -> tuple[Callable[[], None], ...]:
        return (self.api_server_killed, self.api_server_frozen, self.replicas_killed, self.everything_killed)

    def api_server_killed(self) -> None:
        self._site.plane.apiserver.service.kill()
        Event().wait(_AWAY)
        self._start()

    def api_server_frozen(self) -> None:
        """Until the swarm says that its cluster is out of reach, and for some time at least."""
        apiserver, began, at = self._site.plane.apiserver.service, time.monotonic(), time.time()
        apiserver.signal(SIGSTOP)
        eventually("the cluster is told to be out of reach", lambda: not self._is_reached(), within=60)
        Event().wait(max(0.0, began + _FROZEN - time.monotonic()))
        apiserver.signal(SIGCONT)
        # Once it answers, it has read what came while it stood still.
        self._start()
        self.frozen.append((at, time.time()))
        eventually("the cluster is told to be reached again", self._is_reached, within=60)

    def replicas_killed(self) -> None:
        """All at the same moment; their keepers start them again."""
        replicas = self._site.swarm.replicas
        killed = {replica.id: replica.service.pid for replica in replicas}
        for replica in replicas:
            replica.service.signal(SIGKILL)
        eventually(
            "all are ready again, as other processes",
            lambda: all(replica.service.pid != killed[replica.id] and _is_ready(replica) for replica in replicas),
            within=120,
        )

    def everything_killed(self) -> None:
        self._site.plane.apiserver.service.kill()
        self.replicas_killed()
        self._start()

    def _start(self) -> None:
        self._site.plane.apiserver.service.start()

    def _is_reached(self) -> bool:
        with self._site.client("blows") as client:
            return bool(client.get(f"machines/{self._witness.name}")["status"]["cluster"]["reachable"])


class Story(NamedTuple):
    evidence: Evidence
    ran_once: bool


@pytest.fixture(scope="module")
def story(start_witnessed: StartWitnessed) -> Iterator[Story]:
    with ControlPlane() as plane, start_witnessed(plane) as site, _kept(plane):
        template = site.template("ubuntu-2404", two_actions())
        (witness,) = site.registered()
        machines = site.machines(MACHINES)
        blows = Blows(site, witness)
        with site.agents(machines, BEHAVIOUR) as agents, site.readers():
            asked = _asked_in_waves(site, blows.all(), machines, template)
            all_ended(site, len(machines), within=300)
        fates = predicted(BEHAVIOUR, machines)
        expected = {asked[machine.name]: {fates[machine.name]} for machine in machines}
        # A kube-apiserver that is killed has no time to log what it was doing.
        evidence = site.verdict(expected, agents.trace(), frozen=blows.frozen, has_gaps=True)
        yield Story(evidence, starts(agents.trace()) == expected_starts(BEHAVIOUR, machines, asked))


def test_every_promise_is_kept(story: Story) -> None:
    """`verdict` has seen to it; this is what it was passed on."""
    witnessed = summary(story.evidence)
    assert witnessed["provisions"] == MACHINES
    assert witnessed["steps"] >= MACHINES
    assert witnessed["unanswered"] + witnessed["refused"] > 0
    assert {tenure.replica for tenure in story.evidence.tenures} == {"a", "b", "c"}


def test_every_machine_ran_each_action_once(story: Story) -> None:
    assert story.ran_once


def _is_ready(replica: Replica) -> bool:
    return http_ok(f"{replica.url}/readyz")


def _kept(plane: ControlPlane) -> Keepers:
    """Tinkerbell ends by itself, some seconds later, when it cannot renew its leadership; a cluster starts it again."""
    return Keepers((plane.tinkerbell.service,), restart=True, on_death=lambda _: None)


def _asked_in_waves(
    site: WitnessedSite, blows: tuple[Callable[[], None], ...], machines: list[Machine], template: str
) -> dict[str, str]:
    """Ask for a part of the machines during each blow; the names of the provisions, by machine."""
    asked: dict[str, str] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="blows") as striking:
        for wave, blow in enumerate(blows):
            struck = striking.submit(blow)
            asked |= ask(site, machines[wave :: len(blows)], template)
            struck.result()
    return asked
