"""People at the API of any replica: they provision, cancel, lock, edit and delete, and ask again when they must."""

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, NamedTuple, TypeVar

from dragonfly.intent import machines, power, provisions
from dragonfly.intent.idempotency import Answer, Once, answered
from dragonfly.intent.plan import Decide
from dragonfly.intent.refusals import Refused
from dragonfly.intent.terms import ANY, Terms
from dragonfly.model.power import PowerAction
from dragonfly.model.provision import Provision, ProvisionRequest
from dragonfly.model.values import LOCAL
from dragonfly.store import keys
from tests.simulation.checker import Checker
from tests.simulation.etcd import EtcdServer
from tests.simulation.history import History
from tests.simulation.loop import SimLoop
from tests.simulation.replica import Replica

T = TypeVar("T")

PATIENCE = 6.0
"""Seconds that people wait for an answer."""


class Wishes(NamedTuple):
    """How likely each thing is that a person does to one machine."""

    cancels: float = 0.3
    locks: float = 0.2
    edits: float = 0.2
    repeats: float = 0.4
    deletes: float = 0.15
    powers: float = 0.5
    """If the machine has a BMC."""


class People:
    """One person for each machine."""

    def __init__(
        self,
        loop: SimLoop,
        random: Random,
        history: History,
        checker: Checker,
        etcd: EtcdServer,
        replicas: Callable[[], list[Replica]],
    ) -> None:
        self._loop = loop
        self._random = random
        self._history = history
        self._checker = checker
        self._etcd = etcd
        self._replicas = replicas
        self._names = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def use(self, machine: str, wishes: Wishes, until: float) -> None:
        """Do to the machine what one wishes, beginning nothing after `until`."""
        random, chance = self._random, self._random.random
        await asyncio.sleep(3 * chance())
        if chance() < wishes.edits:
            await self._edit(machine)
        if chance() < wishes.locks:
            self._tasks.append(self._loop.create_task(self._lock_for_a_while(machine, until)))
        if self._checker.machines[machine].spec.bmc is not None and chance() < wishes.powers:
            self._tasks.append(self._loop.create_task(self._power_now_and_then(machine, until)))
        rounds = 2 if chance() < wishes.repeats else 1
        for _ in range(rounds):
            provision = await self._provision(machine)
            if provision and chance() < wishes.cancels:
                await asyncio.sleep(random.expovariate(1 / 1.5))
                await self._cancel(machine, provision)
            await self._until_idle(machine)
            if self._loop.time() > until:
                break
        if chance() < wishes.deletes:
            await self._delete(machine)

    async def _provision(self, machine: str) -> str:
        name = self._new_name()
        request = ProvisionRequest(template="plain")
        done = await self._ask(
            f"provision {machine} {name[-2:]}",
            lambda terms: partial(provisions.accept, machine=machine, name=name, request=request, terms=terms),
        )
        if isinstance(done, Provision):
            self._checker.accepted.add(name)
            return name
        return ""

    async def _cancel(self, machine: str, name: str) -> None:
        await self._ask(
            f"cancel {name[-2:]}",
            lambda terms: partial(provisions.cancel, machine=machine, name=name, reason="", terms=terms),
        )

    async def _power_now_and_then(self, machine: str, until: float) -> None:
        while self._loop.time() < until:
            await asyncio.sleep(0.2 + 6 * self._random.random())
            action: PowerAction = self._random.choice(("on", "off", "cycle", "pxe"))
            key = self._new_name()
            done = await self._ask(f"power {action} {machine} {key[-2:]}", self._powering(machine, action, key))
            if isinstance(done, Answer):
                self._checker.power.accepted.add(key)

    def _powering(self, machine: str, action: PowerAction, key: str) -> Callable[[Terms], Decide[Answer]]:
        """With an Idempotency-Key, as the command line asks; each time that it is asked the action gets a new name."""

        def intent(terms: Terms) -> Decide[Answer]:
            name = self._new_name()
            self._checker.power.keys[name] = key
            decide = partial(power.accept, machine=machine, name=name, action=action, terms=terms)
            once = Once(key, f"{action} {machine}", lease=0)
            return answered(decide, lambda _request: Answer(status=202, body="{}"), once)

        return intent

    def _new_name(self) -> str:
        self._names += 1
        return f"01SIM{self._names:021d}"

    async def _lock_for_a_while(self, machine: str, until: float) -> None:
        await asyncio.sleep(6 * self._random.random())
        self._checker.excuses.locked.add(machine)
        await self._ask(f"lock {machine}", lambda terms: partial(machines.lock, name=machine, reason="x", terms=terms))
        await asyncio.sleep(min(8 * self._random.random(), max(until - self._loop.time(), 0.1)))
        await self._ask(f"unlock {machine}", lambda terms: partial(machines.unlock, name=machine, terms=terms))

    async def _edit(self, machine: str) -> None:
        change = {"spec": {"userData": f"edited at {self._loop.time():.0f}"}}
        await self._ask(
            f"edit {machine}",
            lambda terms: partial(machines.patch, name=machine, change=change, match=ANY, terms=terms),
        )

    async def _delete(self, machine: str) -> None:
        await self._ask(
            f"delete {machine}", lambda terms: partial(machines.delete, name=machine, match=ANY, terms=terms)
        )

    async def _until_idle(self, machine: str) -> None:
        while self._etcd.item(keys.active(machine)) is not None:  # noqa: ASYNC110 - as people do
            await asyncio.sleep(0.5)

    async def _ask(self, words: str, intent: Callable[[Terms], Decide[Any]]) -> object:
        """Ask any replica, another one when the answer does not come; return the outcome or the last error."""
        answer: object = None
        for _ in range(4):
            replica = self._any_replica()
            if replica is None:
                await asyncio.sleep(1.0)
                continue
            terms = Terms(now=replica.now(), by="somebody", clusters={LOCAL})
            self._history.note(self._loop.time(), "somebody", words, "at", replica.name)
            answer = await self._answer(replica, intent(terms))
            self._history.note(self._loop.time(), "somebody", f"{words}:", type(answer).__name__)
            if not isinstance(answer, Exception) or isinstance(answer, Refused):
                return answer
            await asyncio.sleep(1.0)
        return answer

    def _any_replica(self) -> Replica | None:
        able = [replica for replica in self._replicas() if replica.mirror.synced and not replica.is_leaving]
        return self._random.choice(able) if able else None

    async def _answer(self, replica: Replica, decide: Decide[Any]) -> object:
        task = replica.serve(decide)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([task], timeout=PATIENCE)
        if not task.done():
            return TimeoutError()
        return task.exception() or task.result()
