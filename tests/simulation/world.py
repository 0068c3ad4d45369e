"""A whole swarm in one process: replicas, etcd, API server, Tinkerbell, machines and people, told by one seed.

A history has two parts: some time in which things go wrong, and then a quiet time, in which everything must come right.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import NamedTuple

from dragonfly.kube.errors import KubeError
from dragonfly.kube.resources import BMC_JOB, BMC_MACHINE, HARDWARE, WORKFLOW, Ref, Resource
from dragonfly.model.machine import Bmc, Interface, Machine, MachineSpec
from dragonfly.model.template import Action, Template, TemplateSpec
from dragonfly.model.values import Metadata, utc
from dragonfly.store import keys
from dragonfly.store.values import Put
from tests.simulation import bugs
from tests.simulation.apiserver import ApiServer
from tests.simulation.backup import Restores
from tests.simulation.checker import PERSON, Checker
from tests.simulation.etcd import TTL, EtcdServer, record
from tests.simulation.faults import Fault, Profile, drawn_faults, drawn_profile
from tests.simulation.history import BrokenPromise, History, Violation
from tests.simulation.kubeclient import Streams
from tests.simulation.loop import Process, SimLoop
from tests.simulation.replica import BORN, NAMESPACE, Replica, Servers
from tests.simulation.rufio import Rufio
from tests.simulation.tinkerbell import ACTIONS, Fate, Tinkerbell
from tests.simulation.users import People
from tests.simulation.wire import Fault as WireFault
from tests.simulation.wire import Server, Wire

CLAIMED_WITHIN = 20.0
"""Seconds after the faults have ended within which every shard has an owner again (P6): TTL, settling, and the time
after which a process has noticed at the latest that its connections are dead."""

SHOWN_WITHIN = 10.0
"""Seconds within which a shard without owner shows (P6)."""

GAP = 3.0
"""Seconds that a shard may be without owner later, while it is handed over to a better-ranked replica."""

STEADY = 1.5
"""Seconds for which everything must stay right."""

CONVERGED_WITHIN = 400.0
"""Seconds after the faults have ended within which everything has come to its end (P5): the longest deadline that can
have begun, and more."""

NEAR = "near"
"""The site that the cluster prefers, where there are two."""

REFUSED = "kube: refused by the policy"
"""How an outcome counts what the admission policy did."""


class Outcome(NamedTuple):
    """What became of one seed."""

    seed: int
    profile: str
    violation: Violation | None
    history: History
    tried: dict[str, int]
    handled: int
    seconds: float
    """Of virtual time."""


class World:
    """Everything that a seed stands for; `run` once."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        random = Random(seed)
        self.seed = seed
        self.profile = profile or drawn_profile(random)
        self.random = random
        self.loop = SimLoop()  # type: ignore[abstract] # no sockets, no signals, no threads
        self.history = History()
        self.wire = Wire(self.loop, random, self.profile.chances)
        self.etcd = EtcdServer(self.loop, random)
        self.kube = ApiServer()
        self.kube.refuses_older_epochs = self.profile.has_policy
        self.streams = Streams(self.loop, self.kube, self.wire, random)
        self.shards = random.choice((1, 1, 2))
        self.checker = Checker(self.loop, self.history, self.etcd, self.shards)
        self.tinkerbell = Tinkerbell(self.loop, self.kube, random, NAMESPACE)
        self.rufio = Rufio(self.loop, self.kube, random, self.tinkerbell, NAMESPACE)
        self.replicas: dict[str, Replica] = {}
        self.restores = Restores(self)
        self.processes: list[Process] = []
        count = random.randint(2, self.profile.most_replicas)
        self.skews = {f"r{number}": random.uniform(-1, 1) for number in range(count)}
        self.until = random.uniform(4, 16)
        self.sites = _drawn_sites(random, list(self.skews))
        self.is_quiet = False
        self._connect()
        self._furnish()

    def run(self) -> Outcome:
        violation = None
        bugs.raised.clear()
        try:
            self._tell()
        except BrokenPromise as broken:
            violation = broken.violation
        seconds = self.loop.time()
        if bugs.raised:
            violation = Violation("bug", seconds, bugs.raised[0])
        if self.kube.refused:
            self.wire.tried[REFUSED] = self.kube.refused
        self.checker.is_off = True
        self.loop.tear_down(self.processes)
        return Outcome(
            self.seed, self.profile.name, violation, self.history, self.wire.tried, self.loop.handled, seconds
        )

    # The history.

    def _tell(self) -> None:
        for name in self.skews:
            self.start(name)
        for fault in drawn_faults(self.random, self.profile, self.until):
            self.loop.call_at(fault.at, self._inflict, fault)
        at_work = [
            Context().run(self.loop.create_task, self.people.use(name, self.profile.wishes, self.until))
            for name in self.checker.machines
        ]
        self._run_checked(self.until)
        self._calm_down()
        self._wait_until_right(at_work)
        self.checker.finish()

    def _wait_until_right(self, at_work: list[asyncio.Task[None]]) -> None:
        """Until all has come right and stays so for a while: a request may have been under way for long."""
        quiet_since = right_since = self.loop.time()
        while self.loop.time() - right_since < STEADY:
            now = self.loop.time()
            words = self._not_converged() or (any(not task.done() for task in at_work) and "P5: people wait")
            if words:
                right_since = now
            if words and now - quiet_since > CONVERGED_WITHIN:
                self.checker.broken(words[:2], f"{CONVERGED_WITHIN:.0f} s after the last fault: {words}")
            for shard, since in self.checker.unowned_since.items():
                if now - quiet_since > CLAIMED_WITHIN and now - since > GAP:
                    self.checker.broken("P6", f"shard {shard.shard} has had no owner for {now - since:.1f} s")
            self._run_checked(now + 0.8)

    def _run_checked(self, until: float) -> None:
        while self.loop.time() < until:
            self.loop.run(min(self.loop.time() + 2.0, until))
            for replica in self.replicas.values():
                self.checker.check_mirror(replica.process, replica.mirror)
                self._check_alive(replica)
                self._check_unowned_seen(replica)
            if self.loop.complaints:
                raise AssertionError(self.loop.complaints)

    def _check_alive(self, replica: Replica) -> None:
        if replica.main is not None and replica.main.done() and not replica.process.is_dead:
            replica.main.result()
            raise AssertionError(f"{replica.name} has ended by itself")

    def _check_unowned_seen(self, replica: Replica) -> None:
        """P6: a replica that is well shows every shard that has had no owner for some time."""
        now = self.loop.time()
        if not replica.process.runs or not replica.keeper.held() or replica.mirror.revision != self.etcd.revision:
            replica.well_since = now
        if replica.is_leaving or now - replica.well_since < SHOWN_WITHIN:
            return
        for shard, since in self.checker.unowned_since.items():
            if now - since > SHOWN_WITHIN and shard not in replica.vacancies.look():
                self.checker.broken("P6", f"{replica.name} does not show that shard {shard.shard} has no owner")

    def _not_converged(self) -> str:
        if any(self.etcd.revision != replica.mirror.revision for replica in self.replicas.values()):
            return "P9: a mirror is behind"
        if self.restores.is_under_way:
            return "P5: Tinkerbell waits for the cluster that came back"
        far = {name for name, site in self.sites.items() if site != NEAR}
        if words := self.checker.held_by(far):
            return words
        return self.checker.unfinished(
            [obj for kind in (HARDWARE, WORKFLOW, BMC_MACHINE, BMC_JOB) for obj in self.kube.all(kind)]
        )

    def _calm_down(self) -> None:
        self.history.note(self.loop.time(), "world", "is quiet now")
        self.is_quiet = True
        self.quiet_since = self.loop.time()
        self.wire.is_calm = True
        self.wire.cut.clear()
        self.wire.slow_servers.clear()
        self.etcd.lag = [0.0] * len(self.etcd.lag)
        if not self.etcd.has_quorum:
            self.etcd.regain_quorum()
        self._start_tinkerbell()
        for name in self.skews:
            replica = self.replicas.get(name)
            if replica is None:
                self.start(name)
            elif not replica.process.runs:
                self.loop.resume(replica.process)

    # Processes.

    def start(self, name: str) -> None:
        if name in self.replicas:
            return
        self.history.note(self.loop.time(), name, "starts")
        preferred = (NEAR,) if self.sites else ()
        servers = Servers(self.loop, self.wire, self.etcd, self.kube, self.streams, self.shards, preferred)
        replica = Replica(servers, name, self.random, lambda: self.skews[name], self.sites.get(name, ""))
        replica.kube.on_send = lambda verb, what: self.checker.sent(replica.process, verb, what)
        replica.kube.on_look = self.checker.looked
        self.replicas[name] = replica
        self.processes.append(replica.process)
        replica.start()

    def kill(self, name: str, words: str = "killed") -> None:
        """End the process without a word; its connections end, and it is started again some time later."""
        replica = self.replicas.pop(name, None)
        if replica is None:
            return
        self.history.note(self.loop.time(), name, words)
        replica.process.runs = False
        replica.process.is_dead = True
        replica.following.lose()
        self.streams.end(replica.process)
        again = self.loop.time() + self.random.choice((0.3, 2.0, 8.0)) * (0.5 + self.random.random())
        self.loop.call_at(again, self.start, name, context=Context())

    def pause(self, name: str, seconds: float) -> None:
        replica = self.replicas.get(name)
        if replica is None or not replica.process.runs:
            return
        self.history.note(self.loop.time(), name, "is stopped", f"for {seconds:.2f} s")
        replica.process.runs = False
        is_blind = self.random.random() < self.profile.blinded
        if is_blind:
            replica.following.lose()
        self.loop.call_later(seconds, self._go_on, replica, is_blind, context=Context())

    def _go_on(self, replica: Replica, is_blind: bool) -> None:
        if replica.process.is_dead:
            return
        if is_blind:
            replica.following.stall()
        if not replica.process.runs:
            self.history.note(self.loop.time(), replica.name, "goes on")
            self.loop.resume(replica.process)

    def _victim(self, process: Process, fault: WireFault) -> None:
        if fault == "killed":
            self.kill(process.name)
        else:
            self.pause(process.name, TTL * 4 * self.random.random())

    # Faults.

    def _inflict(self, fault: Fault) -> None:
        if self.is_quiet:
            return
        self.wire.count(fault.kind)
        self.history.note(self.loop.time(), "world", fault.kind, f"{fault.size:.2f}")
        name = list(self.skews)[int(fault.size * 997) % len(self.skews)]
        seconds = 0.3 + 8 * fault.size
        begin: dict[str, Callable[[], object]] = {
            "kill": lambda: self.kill(name),
            "pause": lambda: self.pause(name, seconds),
            "stop": lambda: self._stop(name),
            "cut etcd": lambda: self._cut(name, "etcd", seconds),
            "cut kube": lambda: self._cut(name, "kube", seconds),
            "stall etcd": lambda: self._stall(name, "etcd"),
            "stall kube": lambda: self._stall(name, "kube"),
            "no quorum": lambda: self._lose_quorum(seconds),
            "lagging member": lambda: self.etcd.let_lag(fault.size),
            "compact etcd": self.etcd.compact_all if fault.size < 0.5 else self.etcd.compact_at_deletion,
            "break watches": self.etcd.break_streams,
            "forget kube": self._forget_history,
            "end watches": self.streams.end,
            "slow kube": lambda: self._slow_down(seconds),
            "jump clock": lambda: self._jump(name, (fault.size - 0.5) * 60),
            "delete workflow": lambda: self._delete_by_hand(WORKFLOW, fault.size),
            "delete job": lambda: self._delete_by_hand(BMC_JOB, fault.size),
            "overtaken": lambda: self._delude(name, TTL + seconds),
            "restore kube": lambda: self.restores.begin(fault.size),
            "tinkerbell away": lambda: self._take_tinkerbell_away(seconds),
        }
        begin[fault.kind]()

    def _lose_quorum(self, seconds: float) -> None:
        self.etcd.lose_quorum()
        self._later(seconds, self.etcd.regain_quorum)

    def _forget_history(self) -> None:
        self.kube.forget_history()
        self.streams.end()

    def _slow_down(self, seconds: float) -> None:
        self.wire.slow_servers.add("kube")
        self._later(seconds, self.wire.slow_servers.clear)

    def _jump(self, name: str, seconds: float) -> None:
        self.skews[name] += seconds
        self.checker.excuses.clock_jumped.append(seconds)

    def _take_tinkerbell_away(self, seconds: float) -> None:
        self.tinkerbell.is_down = True
        self._later(seconds, self._start_tinkerbell)

    def _start_tinkerbell(self) -> None:
        if self.tinkerbell.is_down and not self.restores.is_under_way:
            self.tinkerbell.start_again()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Mend something, unless the quiet time has mended everything."""

        def act() -> None:
            if not self.is_quiet:
                action()

        self.loop.call_later(seconds, act, context=Context())

    def _stop(self, name: str) -> None:
        replica = self.replicas.get(name)
        if replica is not None and not replica.is_leaving and replica.process.runs and replica.mirror.synced:
            self.history.note(self.loop.time(), name, "is asked to stop")
            replica.leave(lambda: self.kill(name, "has left") if self.replicas.get(name) is replica else None)

    def _cut(self, name: str, server: Server, seconds: float) -> None:
        self.wire.cut.add((name, server))
        self._later(seconds, lambda: self.wire.cut.discard((name, server)))

    def _stall(self, name: str, server: Server) -> None:
        """What is sent to the replica's watches from now on is lost; calls go on as if nothing were."""
        replica = self.replicas.get(name)
        if replica is None:
            return
        if server == "kube":
            self.streams.stall(replica.process)
        else:
            replica.following.stall()

    def _delude(self, name: str, seconds: float) -> None:
        """Where nothing but the policy could stop it, it is only stopped for as long."""
        replica = self.replicas.get(name)
        if replica is None or replica.is_leaving or not replica.process.runs or not replica.mirror.synced:
            return
        if self.kube.refuses_older_epochs:
            replica.delude(seconds)
        else:
            self.pause(name, seconds)

    def _delete_by_hand(self, resource: Resource, size: float) -> None:
        names = [obj["metadata"]["name"] for obj in self.kube.all(resource)]
        if not names or "kube" in self.wire.down:
            return
        name = names[int(size * 991) % len(names)]
        self.checker.excuses.deleted_by_hand.add(name)
        try:
            self.kube.delete(Ref(resource, NAMESPACE, name), by=PERSON)
        except KubeError:
            return

    # Set-up.

    def _connect(self) -> None:
        self.etcd.on_commit = self.checker.committed
        self.etcd.on_batch = self.checker.changed
        self.kube.observe(self.checker.written)
        self.tinkerbell.on_served = self.checker.served
        self.rufio.on_ran = self.checker.ran
        self.wire.on_victim = self._victim
        self.people = People(
            self.loop, self.random, self.history, self.checker, self.etcd, lambda: list(self.replicas.values())
        )

    def _furnish(self) -> None:
        now = utc(BORN)
        actions = tuple(Action(name=name, image="example.org/a:1", timeout=60) for name in ACTIONS)
        template = Template(
            metadata=Metadata(name="plain", created_at=now, updated_at=now),
            spec=TemplateSpec(actions=actions, global_timeout=60),
        )
        writes = [Put(keys.SCHEMA, b'{"version":1}'), record(keys.template("plain"), template)]
        for number in range(self.random.randint(1, self.profile.most_machines)):
            machine = _machine(number, has_bmc=self.random.random() < self.profile.powered)
            self.checker.machines[machine.name] = machine
            self.tinkerbell.fates[machine.agent_id] = self._fate()
            writes.append(record(keys.machine(machine.name), machine))
            writes.append(Put(keys.mac(machine.agent_id), b'{"machine":"%s"}' % machine.name.encode()))
            if self.random.random() < self.profile.odd / 2:
                self.rufio.broken.add(machine.name)
        self.checker.fates = self.tinkerbell.fates
        self.checker.excuses.broken_bmcs.update(self.rufio.broken)
        self.etcd.state._apply(writes)

    def _fate(self) -> Fate:
        random = self.random
        seconds = random.choice((0.2, 1.0, 3.0))
        if random.random() >= self.profile.odd:
            return Fate(seconds=seconds)
        odd = random.choice(("fails", "fails", "renders", "reboots", "reboots", "silent"))
        return Fate(
            is_silent=odd == "silent",
            fails_at=random.choice(ACTIONS) if odd == "fails" else "",
            cannot_render=odd == "renders",
            reboots=odd == "reboots",
            seconds=seconds,
        )


def _drawn_sites(random: Random, replicas: list[str]) -> dict[str, str]:
    """Where each replica runs, in a third of the histories: the last one of them far from the cluster."""
    if random.random() >= 1 / 3:
        return {}
    return {name: "far" if name == replicas[-1] else NEAR for name in replicas}


def run_seed(seed: int, profile: Profile | None = None) -> Outcome:
    """Tell the history of one seed, always the same one."""
    return World(seed, profile).run()


def _machine(number: int, *, has_bmc: bool) -> Machine:
    now = utc(BORN)
    interface = Interface(mac=f"02:00:00:00:00:{number:02x}", dhcp=True)
    return Machine(
        metadata=Metadata(name=f"m-{number}", created_at=now, updated_at=now),
        spec=MachineSpec(interfaces=(interface,), bmc=Bmc(host="192.0.2.1", protocol="rpc") if has_bmc else None),
    )
