"""Replicas stopped for 30 s in the middle of arming, of applying Hardware and of recording a result, then continued.

A proxy keeps their request back, before it has reached the server or before its answer has come back, and at that
moment they are stopped. Others take over and go on, and people change their minds meanwhile. Then what was kept back
arrives, 30 s late, and the replicas wake up: nothing runs twice, and nothing newer is overwritten.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from threading import Event
from typing import Any, Final, NamedTuple

import pytest

from dragonfly.model.values import LOCAL
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.swarm import Replica
from dragonfly.swarm.shards import shard_of
from tests.chaos.conftest import StartWitnessed
from tests.chaos.fronts import etcd_front, kubernetes_front
from tests.chaos.proxy import Held
from tests.chaos.traps import Trap, Traps, arming_on, hardware_of, result_of
from tests.chaos.verdict import SHARDS, Evidence
from tests.chaos.witnessed import WitnessedSite
from tests.e2e.api import Api
from tests.e2e.audit import Audit
from tests.e2e.fleet import ENDS, Outcome, others_than_once, two_actions, workflow
from tests.e2e.site import Agents, Machine
from tests.e2e.waiting import eventually

# The story is told in a fixture; its deadlines add up to more than the usual limit.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

LEASE: Final = 10
"""Seconds: all must be stopped before the first's shards pass on. On a busy computer the usual 3 s are too few."""
STOPPED: Final = 30.0
"""Seconds; three leases."""
CONFLICT: Final = 409
"""What an API server says to a write that was computed from what is no longer there, before it asks any policy (403):
so the write's own precondition holds without one."""
GONE: Final = 404
BEHAVIOUR: Final = Behaviour(seed=31, shortest=0.3, longest=0.4)


class Cast(NamedTuple):
    """Who is stopped, and which machines of theirs the story is about."""

    armer: Replica
    armed_late: Machine
    cancelled: Machine
    armed_unanswered: Machine
    applier: Replica
    changed: Machine
    changed_unanswered: Machine
    newcomer: Machine
    recorder: Replica
    recorded_late: Machine
    recorded_unanswered: Machine
    survivor: Replica

    @property
    def victims(self) -> tuple[Replica, ...]:
        return (self.armer, self.applier, self.recorder)

    @property
    def machines(self) -> list[Machine]:
        return [member for member in self if isinstance(member, Machine)]


class Before(NamedTuple):
    """What was kept back before it reached its server."""

    arming: Held
    arming_cancelled: Held
    change: Held
    newcomer: Held
    result: Held


class After(NamedTuple):
    """What was carried out, while its answer was kept back."""

    arming: Held
    change: Held
    result: Held


class State(NamedTuple):
    """What must not change any more: revisions in etcd, and objects in the cluster by uid and resourceVersion."""

    stored: dict[str, int]
    objects: dict[str, tuple[str, str]]


class Story(NamedTuple):
    cast: Cast
    before: Before
    after: After
    armed_when_stopped: dict[str, int]
    seconds: float
    at_rest: State
    in_the_end: State
    hardware: dict[str, Any]
    provisions: dict[str, Any]
    machines: dict[str, Any]
    first: dict[str, str]
    second: dict[str, str]
    evidence: Evidence


@pytest.fixture(scope="module")
def story(
    control_plane: ControlPlane,
    start_witnessed: StartWitnessed,
    ports: PortLease,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    directory: Path = tmp_path_factory.mktemp("fronts")
    at_kubernetes, at_etcd = Traps(), Traps()
    with ExitStack() as stack:
        _, kube = stack.enter_context(kubernetes_front(control_plane, directory, ports, "abcd", at_kubernetes))
        _, etcd = stack.enter_context(etcd_front(control_plane, directory, ports, "abcd", at_etcd))
        own = {replica: {**kube[replica], **etcd[replica], "DRAGONFLY_LEASE_TTL": str(LEASE)} for replica in "abcd"}
        site = stack.enter_context(start_witnessed(control_plane, replicas=4, own=own))
        cast = _cast(site)
        agents = stack.enter_context(site.agents(cast.machines, BEHAVIOUR))
        user = stack.enter_context(site.api_at(cast.survivor.url))
        yield Stage(site, cast, user, agents, at_kubernetes, at_etcd).play()


class Stage:
    """Plays the story, scene by scene."""

    def __init__(
        self, site: WitnessedSite, cast: Cast, user: Api, agents: Agents, at_kubernetes: Traps, at_etcd: Traps
    ) -> None:
        self._site = site
        self._cast = cast
        self._user = user
        self._agents = agents
        self._at_kubernetes = at_kubernetes
        self._at_etcd = at_etcd
        self._first: dict[str, str] = {}
        self._second: dict[str, str] = {}
        self._armer_stopped_at = datetime.max.replace(tzinfo=UTC)

    def play(self) -> Story:
        site, cast = self._site, self._cast
        site.template("first", two_actions())
        site.template("second", two_actions())
        with ThreadPoolExecutor(1, thread_name_prefix="stopping") as stopping:
            before, after = self._act(stopping)
        stopped_at = time.monotonic()
        self._go_on()
        Event().wait(max(0.0, stopped_at + STOPPED - time.monotonic()))
        at_rest = self._state()
        self._let_go([*before, *after])
        seconds = time.monotonic() - stopped_at
        for victim in cast.victims:
            victim.service.signal(SIGCONT)
        self._whole_again()
        evidence = site.verdict(self._expected(), self._agents.trace())
        return Story(
            cast=cast,
            before=before,
            after=after,
            armed_when_stopped={name: self._armed_before(evidence.audit, name) for name in self._first.values()},
            seconds=seconds,
            at_rest=at_rest,
            in_the_end=self._state(),
            hardware=site.hardware(),
            provisions=dict(evidence.provisions),
            machines={machine.name: self._user.get(f"machines/{machine.name}") for machine in cast.machines},
            first=self._first,
            second=self._second,
            evidence=evidence,
        )

    def _act(self, stopping: ThreadPoolExecutor) -> tuple[Before, After]:
        """Have each victim begin what it will not end, and stop it as soon as it has.

        The recorder first: machines take seconds to come to a result, and once another victim's claims have ended
        its shards are shared out anew, and the recorder's with them.
        """
        cast, arming = self._cast, self._trapped_arming
        results = [self._trapped_result(cast.recorded_late), self._trapped_result(cast.recorded_unanswered, after=True)]
        _stop_when_caught(cast.recorder, results)
        armings = [arming(cast.armed_late), arming(cast.cancelled), arming(cast.armed_unanswered, after=True)]
        stop = stopping.submit(self._stop_and_cancel, armings)
        changes = [
            self._trapped_hardware(cast.changed),
            self._trapped_hardware(cast.newcomer),
            self._trapped_hardware(cast.changed_unanswered, after=True),
        ]
        self._user.post("machines", cast.newcomer.document())
        for machine in (cast.changed, cast.changed_unanswered):
            self._change(machine, "older")
        _stop_when_caught(cast.applier, changes)
        stop.result()
        before = Before(armings[0], armings[1], changes[0], changes[1], results[0])
        return before, After(armings[2], changes[2], results[1])

    def _stop_and_cancel(self, armings: Sequence[Held]) -> None:
        """Cancelled before the claim has ended: later whoever takes over might have armed it already."""
        _stop_when_caught(self._cast.armer, armings)
        self._armer_stopped_at = datetime.now(UTC)
        with self._site.api_at(self._cast.survivor.url) as person:
            cancelled = self._first[self._cast.cancelled.name]
            person.post(f"provisions/{cancelled}/cancel", {"reason": "changed my mind"})

    def _armed_before(self, audit: Audit, provision: str) -> int:
        """How often it had been armed when the armer was stopped; who takes over may do so soon after."""
        return sum(write.asked_at <= self._armer_stopped_at for write in audit.armings(workflow(provision)))

    def _go_on(self) -> None:
        """The survivor takes over; what it finds under way ends, and people ask for something else."""
        cast, site = self._cast, self._site
        for machine in (cast.changed, cast.changed_unanswered, cast.newcomer):
            self._change(machine, "newer")
        eventually("all shards are the survivor's", lambda: _owners(site) == {cast.survivor.id}, within=90)
        self._ended(self._first)
        for machine in (cast.cancelled, cast.recorded_late, cast.recorded_unanswered):
            self._second[machine.name] = self._provision(machine, "second")
        self._ended(self._second)
        eventually("newer Hardware", lambda: set(self._user_data().values()) == {"newer"}, within=90)
        eventually("netboot is closed", lambda: not any(map(any, site.netboot().values())), within=90)

    def _let_go(self, held: Sequence[Held]) -> None:
        """Let what was kept back arrive while its sender still stands still."""
        for request in held:
            request.release()
        for request in held:
            assert request.done.wait(60), "a server did not answer"

    def _whole_again(self) -> None:
        site, cast = self._site, self._cast
        for victim in cast.victims:
            eventually(f"{victim.id} is ready", partial(http_ok, f"{victim.url}/readyz"), within=60)
        owners = {replica.id for replica in site.swarm.replicas}
        eventually("all replicas have shards again", lambda: _owners(site) == owners, within=60)

    def _state(self) -> State:
        stored = {key: revision for key, revision in self._site.stored().items() if key.startswith(_KEPT)}
        found = {f"hardware/{name}": item for name, item in self._site.hardware().items()}
        found |= {f"workflows/{name}": item for name, item in self._site.workflows().items()}
        seen = {name: item["metadata"] for name, item in found.items()}
        return State(stored, {name: (item["uid"], item["resourceVersion"]) for name, item in seen.items()})

    def _expected(self) -> dict[str, set[Outcome]]:
        cancelled = self._first[self._cast.cancelled.name]
        names = {*self._first.values(), *self._second.values()}
        reason = Outcome("Cancelled", "Cancelled", "Cancelled by admin: changed my mind.")
        return {name: {reason if name == cancelled else Outcome("Succeeded")} for name in names}

    def _trapped_arming(self, machine: Machine, *, after: bool = False) -> Held:
        """The trap comes first: an arming follows its request within milliseconds."""
        trap = Trap(self._cast.armer.id, arming_on(machine.name), after=after)
        self._at_kubernetes.set(trap)
        self._first[machine.name] = self._provision(machine, "first")
        return trap.held

    def _trapped_result(self, machine: Machine, *, after: bool = False) -> Held:
        name = self._first[machine.name] = self._provision(machine, "first")
        trap = Trap(self._cast.recorder.id, result_of(name), after=after)
        self._at_etcd.set(trap)
        return trap.held

    def _trapped_hardware(self, machine: Machine, *, after: bool = False) -> Held:
        trap = Trap(self._cast.applier.id, hardware_of(machine.name), after=after)
        self._at_kubernetes.set(trap)
        return trap.held

    def _provision(self, machine: Machine, template: str) -> str:
        asked = self._user.post(f"machines/{machine.name}/provision", {"template": template})
        return str(asked["metadata"]["name"])

    def _change(self, machine: Machine, user_data: str) -> None:
        body = {"spec": {"userData": user_data}}
        assert self._user.patiently("PATCH", f"machines/{machine.name}", body, {"If-Match": "*"}).ok

    def _user_data(self) -> dict[str, str]:
        cast, found = self._cast, self._site.hardware()
        watched = (cast.changed, cast.changed_unanswered, cast.newcomer)
        return {machine.name: found[machine.name]["spec"].get("userData", "") for machine in watched}

    def _ended(self, provisions: dict[str, str]) -> None:
        for name in provisions.values():
            eventually(f"{name} has ended", partial(self._has_ended, name), within=90)

    def _has_ended(self, provision: str) -> bool:
        return self._phase(provision) in ENDS

    def _phase(self, provision: str) -> str:
        return str(self._user.get(f"provisions/{provision}")["status"]["phase"])


_KEPT: Final = ("machines/", "provisions/", "active/", "observed/")


def test_they_were_stopped_in_the_middle_for_30_seconds(story: Story) -> None:
    first, cast = story.first, story.cast
    assert story.seconds >= STOPPED
    assert story.armed_when_stopped[first[cast.armed_late.name]] == 0
    assert story.armed_when_stopped[first[cast.cancelled.name]] == 0
    assert story.armed_when_stopped[first[cast.armed_unanswered.name]] == 1
    assert [held.status for held in story.after] == [200, 200, 200]
    assert json.loads(story.after.result.answer)["succeeded"]


def test_an_arming_that_comes_late_is_refused(story: Story) -> None:
    assert story.before.arming.status == CONFLICT
    assert story.before.arming_cancelled.status == GONE


def test_hardware_that_comes_late_is_refused(story: Story) -> None:
    assert story.before.change.status == CONFLICT
    assert story.before.newcomer.status == CONFLICT


def test_a_result_that_comes_late_is_refused(story: Story) -> None:
    assert story.before.result.status == 200
    assert not json.loads(story.before.result.answer).get("succeeded")


def test_what_was_asked_for_meanwhile_is_what_there_is(story: Story) -> None:
    cast = story.cast
    for machine in (cast.changed, cast.changed_unanswered, cast.newcomer):
        assert story.hardware[machine.name]["spec"]["userData"] == "newer"
    for machine in (cast.cancelled, cast.recorded_late, cast.recorded_unanswered):
        status = story.machines[machine.name]["status"]
        assert status["os"]["template"] == "second"
        assert status["lastProvision"]["name"] == story.second[machine.name]


def test_nothing_changed_when_the_late_requests_came_and_the_replicas_woke(story: Story) -> None:
    assert story.in_the_end == story.at_rest


def test_each_ran_once_and_the_cancelled_one_never(story: Story) -> None:
    cancelled = story.first[story.cast.cancelled.name]
    ran = {*story.first.values(), *story.second.values()} - {cancelled}
    assert others_than_once(story.evidence.audit, ran) == {}
    assert story.evidence.audit.armings(workflow(cancelled)) == []
    assert {name for name, provision in story.provisions.items() if provision["status"]["phase"] == "Succeeded"} == ran


def _cast(site: WitnessedSite) -> Cast:
    """Give each role to a replica that has shards, and machines in them; all but the newcomer are registered."""
    eventually("every replica has its share of the shards, and keeps it", site.settled_owners, within=120)
    armer, applier, recorder, survivor = site.swarm.replicas
    armed_late, cancelled, armed_unanswered = _machines_of(site, armer, 3)
    changed, changed_unanswered, newcomer = _machines_of(site, applier, 3)
    recorded_late, recorded_unanswered = _machines_of(site, recorder, 2)
    cast = Cast(
        armer=armer,
        armed_late=armed_late,
        cancelled=cancelled,
        armed_unanswered=armed_unanswered,
        applier=applier,
        changed=changed,
        changed_unanswered=changed_unanswered,
        newcomer=newcomer,
        recorder=recorder,
        recorded_late=recorded_late,
        recorded_unanswered=recorded_unanswered,
        survivor=survivor,
    )
    registered = [machine for machine in cast.machines if machine != cast.newcomer]
    for machine in registered:
        site.api.post("machines", machine.document())
    for machine in registered:
        site.settled(machine)
    return cast


def _machines_of(site: WitnessedSite, replica: Replica, count: int) -> list[Machine]:
    found: list[Machine] = []
    while len(found) < count:
        (machine,) = site.machines(1)
        if site.owner(f"{LOCAL}/{shard_of(machine.name, SHARDS)}") == replica.id:
            found.append(machine)
    return found


def _owners(site: WitnessedSite) -> set[str]:
    return {site.owner(f"{LOCAL}/{shard}") for shard in range(SHARDS)}


def _stop_when_caught(victim: Replica, held: Sequence[Held]) -> None:
    for request in held:
        assert request.reached.wait(90), f"{victim.id} never came so far"
    victim.service.signal(SIGSTOP)
