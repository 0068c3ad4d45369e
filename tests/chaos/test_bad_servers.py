"""An API server, and an etcd, that refuse, forget, dawdle and break off: 60 provisions end as predicted, each once.

Alone, and while replicas die and stand still on top of it: then what they sent arrives when others have taken over.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from threading import Event
from typing import Final, NamedTuple

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.ports import PortLease
from tests.chaos.bad_days import BadDays, of_api_server, of_etcd
from tests.chaos.conftest import StartWitnessed
from tests.chaos.fronts import Front, etcd_front, kubernetes_front
from tests.chaos.proxy import FaultProxy
from tests.chaos.verdict import Evidence, summary
from tests.chaos.witnessed import WitnessedSite
from tests.e2e.fleet import all_ended, ask, expected_starts, predicted, starts, two_actions
from tests.e2e.site import Machine

# The story is told in a fixture; its deadlines add up to more than the usual limit.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

MACHINES: Final = 60
WAVES: Final = 6
BEHAVIOUR: Final = Behaviour(seed=21, fail_rate=0.1, shortest=0.2, longest=1.0)
OF_API_SERVER: Final = frozenset(
    {"409", "410", "429", "500", "504", "504 after commit", "lost", "late", "cut", "ended by 410"}
)
OF_ETCD: Final = frozenset({"429", "503", "503 after commit", "lost", "late", "cut"})
_BEAT: Final = 2.5
"""Seconds between two blows: shorter than a lease."""
_FROZEN: Final = 5.0
"""Seconds; longer than a lease, and than a request is late."""

Blow = Callable[[WitnessedSite, random.Random], None]


def nothing(site: WitnessedSite, chance: random.Random) -> None:
    """The bad server is all."""


def replicas_hit(site: WitnessedSite, chance: random.Random) -> None:
    """One is killed, or stands still until long after its lease has ended."""
    victim = chance.choice(site.swarm.replicas).service
    if chance.random() < 0.5:
        victim.signal(SIGKILL)
        Event().wait(_BEAT)
        return
    victim.signal(SIGSTOP)
    Event().wait(_FROZEN)
    victim.signal(SIGCONT)


class Trouble(NamedTuple):
    front: Front
    plan: BadDays
    kinds: frozenset[str]
    blow: Blow


def troubles() -> dict[str, Trouble]:
    return {
        "API server": Trouble(kubernetes_front, BadDays(of_api_server, seed=22, rate=0.1), OF_API_SERVER, nothing),
        "API server, and replicas die": Trouble(
            kubernetes_front, BadDays(of_api_server, seed=22, rate=0.1), OF_API_SERVER, replicas_hit
        ),
        "etcd, and replicas die": Trouble(etcd_front, BadDays(of_etcd, seed=24, rate=0.05), OF_ETCD, replicas_hit),
    }


class Story(NamedTuple):
    trouble: Trouble
    evidence: Evidence
    proxy: FaultProxy
    ran_once: bool


@pytest.fixture(scope="module", params=troubles())
def story(
    request: pytest.FixtureRequest,
    control_plane: ControlPlane,
    start_witnessed: StartWitnessed,
    ports: PortLease,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    directory: Path = tmp_path_factory.mktemp("front")
    trouble = troubles()[request.param]
    with ExitStack() as stack:
        proxy, own = stack.enter_context(trouble.front(control_plane, directory, ports, "abc", trouble.plan))
        site = stack.enter_context(start_witnessed(control_plane, own=own))
        template = site.template("ubuntu-2404", two_actions())
        machines = site.machines(MACHINES)
        with site.agents(machines, BEHAVIOUR) as agents, site.readers():
            asked = _asked_in_waves(site, trouble.blow, machines, template)
            all_ended(site, len(machines), within=300)
        fates = predicted(BEHAVIOUR, machines)
        expected = {asked[machine.name]: {fates[machine.name]} for machine in machines}
        evidence = site.verdict(expected, agents.trace(), held=proxy.delayed)
        ran_once = starts(agents.trace()) == expected_starts(BEHAVIOUR, machines, asked)
        yield Story(trouble, evidence, proxy, ran_once)


def test_every_promise_is_kept(story: Story) -> None:
    """`verdict` has seen to it; this is what it was passed on."""
    witnessed = summary(story.evidence)
    assert witnessed["provisions"] == MACHINES
    assert witnessed["steps"] >= MACHINES
    assert witnessed["writes"] >= MACHINES * 3


def test_every_machine_ran_each_action_once(story: Story) -> None:
    assert story.ran_once


def test_every_kind_of_fault_was_met(story: Story) -> None:
    assert story.trouble.kinds - story.proxy.counts.keys() == set()
    faults = story.proxy.counts.total() - story.proxy.counts["forwarded"]
    assert faults >= 100


def _asked_in_waves(site: WitnessedSite, blow: Blow, machines: list[Machine], template: str) -> dict[str, str]:
    """Ask for a part of the machines during each blow; the names of the provisions, by machine."""
    asked: dict[str, str] = {}
    chance = random.Random(23)
    with ThreadPoolExecutor(1, thread_name_prefix="blows") as striking:
        for wave in range(WAVES):
            struck = striking.submit(blow, site, chance)
            asked |= ask(site, machines[wave::WAVES], template)
            struck.result()
    return asked
