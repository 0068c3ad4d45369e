"""Who delivers, what is saved, what is given up: replicas of the deliveries on a model of etcd."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from dragonfly.feed.feed import Feed
from dragonfly.intent.plan import carry_out
from dragonfly.intent.webhooks import retry_dead_letters
from dragonfly.model.machine import Interface, Machine, MachineSpec
from dragonfly.model.values import Metadata
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookSecret, WebhookSpec, WebhookState
from dragonfly.store import keys, records
from dragonfly.store.errors import Conflict
from dragonfly.store.mirror import Mirror
from dragonfly.store.values import Claimed, Condition, Delete, Put, Write
from dragonfly.swarm.duty import Duty
from dragonfly.telemetry.metrics import WebhookMetrics
from dragonfly.webhooks.courier import DUTY, Courier, has_work
from dragonfly.webhooks.means import Means
from dragonfly.webhooks.sender import Letter, Sender, Verdict
from tests.contract.waiting import until, until_async
from tests.unit.feed.swarm_history import machine
from tests.unit.store_model import StoreModel, Watch

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_GOOD = Verdict(0.01, 204)
_BAD = Verdict(0.01, 500, "answered 500")


class Lease:
    def __init__(self, number: int) -> None:
        self.id = number
        self.is_held = True

    def held(self) -> bool:
        return self.is_held

    def remaining(self) -> float:
        return 0.05 if self.is_held else 0.0


class World:
    """A store, the replicas on it, and a receiver that they all send to."""

    def __init__(self) -> None:
        self.store = StoreModel()
        self.day = _BEGAN
        self.sent: list[tuple[str, Letter]] = []
        self.answer: Callable[[Letter], Verdict] = lambda _: _GOOD
        self.hold: asyncio.Event | None = None
        self.replicas: list[Replica] = []

    async def replica(self, name: str) -> "Replica":
        grant = await self.store.grant(1_000)
        self.replicas.append(Replica(self, name, Lease(grant.id)))
        return self.replicas[-1]

    async def send(self, replica: str, letter: Letter) -> Verdict:
        self.sent.append((replica, letter))
        if self.hold is not None:
            await self.hold.wait()
        return self.answer(letter)

    async def webhook(self, **spec: Any) -> int:
        webhook = Webhook(
            metadata=Metadata(name="alerts", created_at=_BEGAN, updated_at=_BEGAN),
            spec=WebhookSpec(**({"url": "https://example.com/"} | spec)),
            secrets=(WebhookSecret(id="s", sealed="a secret", mark=""),),
        )
        return await self.store.commit(Put(keys.webhook("alerts"), records.encode(webhook)))

    async def machine(self, name: str, label: str = "fra") -> str:
        revision = await self.store.commit(Put(keys.machine(name), machine(name, label=label)))
        return f"alerts.{revision}.machine.{name}"

    def told(self) -> list[str]:
        return [letter.delivery for _, letter in self.sent]

    def state(self) -> WebhookState | None:
        item = self.store.items().get(keys.webhook_state("alerts"))
        state = records.decode(item.key, item.value) if item is not None else None
        return state if isinstance(state, WebhookState) else None

    def saved(self) -> WebhookState:
        return self.state() or WebhookState(webhook=0, cursor=0)

    def stuck(self) -> list[str]:
        return [one.lane for one in self.saved().stuck]

    def dead(self) -> list[DeadLetter]:
        found = [
            records.decode(k, item.value) for k, item in self.store.items().items() if k.startswith("dead-letters/")
        ]
        return [letter for letter in found if isinstance(letter, DeadLetter)]


class Replica:
    def __init__(self, world: World, name: str, lease: Lease) -> None:
        self.world = world
        self.lease = lease
        self.mirror = Mirror(records.decode, clock=lambda: 0.0, on_undecodable=lambda *_: None)
        self.watch = Watch(world.store, self.mirror)
        self.duty = Duty(
            DUTY,
            replica=name,
            store=world.store,
            mirror=self.mirror,
            lease=lease,
            wanted=lambda: has_work(self.mirror),
            now=lambda: world.day,
        )
        self.mirror.subscribe(keys.WEBHOOKS, lambda _: self.duty.look())
        loop = asyncio.get_running_loop()
        means = Means(
            store=world.store,
            mirror=self.mirror,
            feed=Feed(self.mirror, {"local": 4}, world.store, clock=loop.time),
            sender=cast("Sender", self),
            unseal=lambda _, sealed: sealed,
            metrics=WebhookMetrics(CollectorRegistry()),
            now=lambda: world.day,
            clock=loop.time,
            chance=lambda: 0.0,
        )
        self.name = name
        self.courier = Courier(self.duty, means)
        self.tasks = [asyncio.create_task(self.duty.run()), asyncio.create_task(self.courier.run())]

    async def send(self, letter: Letter, _at: datetime) -> Verdict:
        return await self.world.send(self.name, letter)

    def freeze(self) -> None:
        """Nothing of it runs any more, and its lease ends."""
        for task in self.tasks:
            task.cancel()
        self.lease.is_held = False
        self.world.store.end_lease(self.lease.id)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    for replica in world.replicas:
        for task in replica.tasks:
            task.cancel()
        await asyncio.wait(replica.tasks)


async def test_one_replica_delivers_and_another_goes_on_when_its_lease_ends(world: World) -> None:
    first, second = await world.replica("a"), await world.replica("b")
    await world.webhook()
    before = [await world.machine("m-1"), await world.machine("m-2")]
    await until(lambda: set(world.told()) == set(before), "both are told")
    (owner,) = {name for name, _ in world.sent}
    await until(lambda: world.saved().delivered == 2, "that is saved")

    (first if owner == "a" else second).freeze()
    after = await world.machine("m-1", "ams")
    await until(lambda: after in world.told(), "the change is told")

    assert world.told().count(before[0]) == 1
    assert {name for name, letter in world.sent if letter.delivery == after} == {"a", "b"} - {owner}


async def test_a_delivery_that_is_under_way_is_cut_when_the_lease_may_have_ended(world: World) -> None:
    replica = await world.replica("a")
    await world.webhook()
    world.hold = asyncio.Event()
    change = await world.machine("m-1")
    await until(lambda: world.told() != [], "a delivery is under way")

    replica.lease.is_held = False
    later = await world.machine("m-2")
    await until(lambda: not replica.courier._running, "it ends")
    assert world.told() == [change]

    world.hold, replica.lease.is_held = None, True
    await until(lambda: later in world.told(), "it goes on with the lease")
    assert set(world.told()) == {change, later}


async def test_one_that_woke_late_saves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: its lease has ended and another delivers, and it has not seen either."""
    late = await world.replica("a")
    await world.webhook()
    world.hold = asyncio.Event()
    change = await world.machine("m-1")
    await until(lambda: len(world.sent) == 1, "it delivers")
    tried: list[tuple[str, bool]] = []
    commit = world.store.commit

    async def watched(*writes: Write, given: Sequence[Condition] = ()) -> int:
        owner = "a" if Claimed(late.duty.key, epoch) in given else "another"
        saves = any(write.key.startswith(keys.WEBHOOK_STATES) for write in writes)
        try:
            revision = await commit(*writes, given=given)
        except Conflict:
            tried.extend([(owner, False)] if saves else [])
            raise
        tried.extend([(owner, True)] if saves else [])
        return revision

    epoch = late.duty.epoch() or 0
    monkeypatch.setattr(world.store, "commit", watched)
    late.watch.hold()
    world.store.end_lease(late.lease.id)
    await world.replica("b")
    await until(lambda: len(world.sent) == 2, "the other delivers")
    world.hold.set()
    await until(lambda: {owner for owner, _ in tried} == {"a", "another"}, "both try to save")

    assert world.told() == [change, change]
    assert set(tried) == {("a", False), ("another", True)}


async def test_nothing_is_written_while_nothing_happens(world: World) -> None:
    await world.replica("a")
    await world.webhook()
    change = await world.machine("m-1")
    await until(lambda: world.saved().cursor >= int(change.split(".")[1]), "it is saved")
    revision = world.store.revision
    looks = 0

    async def looked_often() -> bool:
        nonlocal looks
        looks += 1
        return looks > 80

    await until_async(looked_often, "time passes")
    assert world.store.revision == revision


async def test_what_fails_for_a_day_becomes_a_dead_letter_and_may_be_tried_again(world: World) -> None:
    replica = await world.replica("a")
    await world.webhook()
    world.answer = lambda letter: _BAD if ".m-1" in letter.delivery else _GOOD
    bad, later, good = await world.machine("m-1"), await world.machine("m-1", "ams"), await world.machine("m-2")
    await until(lambda: good in world.told() and bad in world.told(), "both are tried")
    await until(lambda: world.stuck() == ["Machine/m-1"], "one is stuck")
    assert later not in world.told()

    world.day += timedelta(hours=25)
    await until(lambda: world.dead() != [], "it is given up")
    (letter,) = world.dead()
    assert (letter.id, letter.event, letter.error) == (bad, "created", "answered 500")
    world.answer = lambda _: _GOOD
    await until(lambda: later in world.told(), "the next change is told")

    tries = world.told().count(bad)
    done = await carry_out(world.store, replica.mirror, lambda facts: retry_dead_letters(facts, "alerts"))
    assert done.outcome == 1
    await until(lambda: not world.dead(), "it is delivered after all")
    assert world.told().count(bad) == tries + 1


async def test_a_change_too_large_to_be_kept_is_given_up_without_its_body_and_its_lane_goes_on(world: World) -> None:
    await world.replica("a")
    await world.webhook()
    world.answer = lambda _: _BAD
    metadata = Metadata(name="m-1", created_at=_BEGAN, updated_at=_BEGAN)
    # Each quotation mark takes two bytes in the record and in the body, and four in a record of the body.
    large = Machine(metadata=metadata, spec=MachineSpec(interfaces=(Interface(mac="02::1"),), user_data='"' * 500_000))
    revision = await world.store.commit(Put(keys.machine("m-1"), records.encode(large)))
    await until(lambda: world.stuck() == ["Machine/m-1"], "it is stuck")
    (size,) = {len(letter.body) for _, letter in world.sent}

    world.day += timedelta(hours=25)
    await until(lambda: world.dead() != [], "it is given up")
    (letter,) = world.dead()
    world.answer = lambda _: _GOOD
    later = await world.machine("m-1", "ams")
    await until(lambda: later in world.told(), "the next change is told")

    assert size > 1_000_000
    told = {"revision": revision, "type": "created", "kind": "Machine", "name": "m-1", "omitted": size}
    assert msgspec.json.decode(letter.body) == told


async def test_a_bug_is_a_failure_that_is_told_and_tried_again(world: World) -> None:
    """Were it not, its lane would count as under way for ever, and eight of them end the webhook without a word."""
    await world.replica("a")
    await world.webhook()

    def broken_at_first(letter: Letter) -> Verdict:
        if world.told().count(letter.delivery) == 1:
            raise OverflowError
        return _GOOD

    world.answer = broken_at_first
    change = await world.machine("m-1")
    await until(lambda: world.saved().delivered == 1, "it is delivered")

    assert world.told() == [change, change]
    assert world.saved().last_error == "cannot be sent: OverflowError"


async def test_what_is_left_of_a_deleted_webhook_is_swept_and_a_new_one_begins_anew(world: World) -> None:
    await world.replica("a")
    await world.webhook()
    await world.machine("m-1")
    await until(lambda: world.state() is not None, "something is saved")

    await world.store.commit(Delete(keys.webhook("alerts")))
    await until(lambda: world.state() is None, "it is swept")
    await world.machine("m-1", "ams")
    await world.webhook()
    change = await world.machine("m-1", "lon")
    await until(lambda: change in world.told(), "the new one is told")

    assert len(world.told()) == 2


async def test_handing_over_saves_and_gives_the_claim_up(world: World) -> None:
    first = await world.replica("a")
    await world.webhook()
    changes = [await world.machine(f"m-{number}") for number in range(5)]
    await until(lambda: set(world.told()) == set(changes), "all are told")

    await first.courier.hand_over()
    first.freeze()
    await world.replica("b")
    change = await world.machine("m-9")
    await until(lambda: change in world.told(), "the other goes on")

    assert sorted(world.told()) == sorted([*changes, change])


async def test_a_receiver_that_is_gone_disables_its_webhook(world: World) -> None:
    await world.replica("a")
    await world.webhook()
    world.answer = lambda _: Verdict(0.01, 410, "answered 410 Gone")
    await world.machine("m-1")

    def stored() -> Webhook:
        webhook = records.decode("webhooks/alerts", world.store.items()["webhooks/alerts"].value)
        assert isinstance(webhook, Webhook)
        return webhook

    await until(lambda: not stored().spec.enabled, "it is disabled")
    assert stored().disabled_because == "the receiver answered 410 Gone"


async def test_one_that_410_stopped_gets_the_refused_change_and_all_since_once_it_is_enabled_again(
    world: World,
) -> None:
    """Whoever delivers by then."""
    first = await world.replica("a")
    await world.webhook()
    before = await world.machine("m-1")
    await until(lambda: world.saved().delivered == 1, "it works")
    world.answer = lambda _: Verdict(0.01, 410, "answered 410 Gone")
    refused = await world.machine("m-1", "refused")
    await until(lambda: not first.courier._running, "it is disabled")
    tried = len(world.told())
    since = [await world.machine("m-1", "later"), await world.machine("m-2")]
    await first.courier.hand_over()
    first.freeze()

    world.answer = lambda _: _GOOD
    await world.replica("b")
    await world.webhook()
    await until(lambda: world.saved().delivered == 4, "all is delivered")

    told = world.told()
    assert (told[0], set(told[1:tried])) == (before, {refused})
    assert sorted(told[tried:]) == sorted([refused, *since])
    assert told.index(refused, tried) < told.index(since[0])


async def test_one_that_has_moved_gets_the_refused_change_at_the_url_that_is_set(world: World) -> None:
    await world.replica("a")
    await world.webhook()
    moved = Verdict(0.01, 308, "answered 308 Permanent Redirect, which leads to https://example.org/")
    world.answer = lambda letter: moved if letter.url == "https://example.com/" else _GOOD
    changes = [await world.machine("m-1"), await world.machine("m-1", "later")]
    await until(lambda: world.stuck() == ["Machine/m-1"], "it is refused")
    assert changes[1] not in world.told()

    await world.webhook(url="https://example.org/")
    await until(lambda: world.saved().delivered == 2, "all is delivered")

    assert [letter.delivery for _, letter in world.sent if letter.url == "https://example.org/"] == changes


async def test_what_etcd_has_forgotten_is_a_reset_that_comes_before_anything_else(world: World) -> None:
    await world.webhook()
    for number in range(3):
        await world.machine("m-1", f"l-{number}")
    await world.store.compact(world.store.revision)
    tries = 0

    def second_time(letter: Letter) -> Verdict:
        nonlocal tries
        tries += letter.event == "reset"
        return _BAD if tries < 2 else _GOOD

    world.answer = second_time
    await world.replica("a")
    await until(lambda: tries == 1, "a reset is tried")
    change = await world.machine("m-1", "later")
    await until(lambda: tries == 2, "the reset is told")
    last = await world.machine("m-1", "last")
    await until(lambda: last in world.told(), "it goes on")

    events = [letter.event for _, letter in world.sent]
    assert events == ["reset", "reset", "updated"]
    assert change not in world.told()  # the second reset's revision is after it


async def test_a_receiver_that_is_gone_when_a_reset_is_told_disables_its_webhook(world: World) -> None:
    await world.webhook()
    await world.machine("m-1")
    await world.store.compact(world.store.revision)
    world.answer = lambda _: Verdict(0.01, 410, "answered 410 Gone")
    await world.replica("a")

    def is_enabled() -> bool:
        webhook = records.decode("webhooks/alerts", world.store.items()["webhooks/alerts"].value)
        assert isinstance(webhook, Webhook)
        return webhook.spec.enabled

    await until(lambda: not is_enabled(), "it is disabled")
    assert [letter.event for _, letter in world.sent] == ["reset"]
