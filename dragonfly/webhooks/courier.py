"""Has all webhooks of the swarm delivered, while this replica is the one to do so.

One claim is enough: what a delivery costs is the receiver's time, and a thousand of them wait side by side. Webhooks
that are made, changed or deleted are taken up as the mirror shows them.
"""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

import structlog

from dragonfly.model.values import Invalid
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookState
from dragonfly.store import keys
from dragonfly.store.errors import StoreError
from dragonfly.store.mirror import Arrival, Held, Mirror, Update
from dragonfly.store.values import Delete, Unchanged
from dragonfly.swarm.duty import Duty
from dragonfly.webhooks.delivery import Delivery
from dragonfly.webhooks.means import Means, NotOwner

_log = structlog.get_logger(__name__)

DUTY: Final = "webhooks"

_GLANCE: Final = 1.0
"""Seconds between two looks at the own claim, which costs nothing: the lease's time passes without a word."""

_AT_ONCE: Final = 60
"""Keys that are swept in one transaction."""


class _Running(NamedTuple):
    delivery: Delivery
    task: asyncio.Task[None]
    revision: int
    epoch: int


class Courier:
    """Runs a `Delivery` for each webhook that is enabled."""

    def __init__(self, duty: Duty, means: Means) -> None:
        """Make it, not yet running."""
        self._duty = duty
        self._means = means
        self._running: dict[str, _Running] = {}
        self._wake = asyncio.Event()
        self._leaving = False

    async def run(self) -> None:
        """Deliver what is to be delivered until cancelled."""
        mirror = self._means.mirror
        unsubscribe = [
            mirror.subscribe(prefix, self._changed) for prefix in (keys.WEBHOOKS, keys.DEAD_LETTERS, self._duty.key)
        ]
        mirror.observe(self._arrived)
        try:
            while True:
                self._wake.clear()
                await self._look()
                try:
                    async with asyncio.timeout(_GLANCE if has_work(mirror) else None):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            for stop in unsubscribe:
                stop()
            for running in self._running.values():
                running.task.cancel()

    async def hand_over(self) -> None:
        """End all deliveries, save how far they have got, and give the claim up. For SIGTERM."""
        self._leaving = True
        await asyncio.gather(*(self._end(name) for name in tuple(self._running)))
        await self._duty.hand_over()

    async def _look(self) -> None:
        epoch = None if self._leaving else self._duty.epoch()
        wanted = dict(_enabled(self._means.mirror)) if epoch is not None else {}
        for name, running in tuple(self._running.items()):
            held = wanted.get(name)
            if held is None or (held.mod_revision, epoch) != running[2:] or running.task.done():
                await self._end(name)
        if epoch is None or self._duty.epoch() != epoch or self._leaving:
            return
        for name, held in wanted.items():
            if name not in self._running and isinstance(held.object, Webhook):
                self._begin(name, held.object, held, epoch)
            if name in self._running:
                self._running[name].delivery.retry_dead()
        await self._sweep(epoch)

    def _begin(self, name: str, webhook: Webhook, held: Held, epoch: int) -> None:
        try:
            delivery = Delivery(webhook, held, self._duty, epoch, self._means)
        except Invalid as error:  # a newer replica took it, and knows more
            _log.error("webhook.not_understood", webhook=name, error=str(error))
            return
        task = asyncio.create_task(delivery.run(), name=f"webhook {name}")
        task.add_done_callback(self._ended)
        self._running[name] = _Running(delivery, task, held.mod_revision, epoch)

    async def _end(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is None:
            return
        if not running.task.done():
            await running.delivery.stop()
        running.task.cancel()
        await asyncio.wait({running.task})
        self._means.metrics.forget(name)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not isinstance(task.exception(), NotOwner):
            _log.error("webhook.bug", task=task.get_name(), exc_info=task.exception())

    async def _sweep(self, epoch: int) -> None:
        """Remove what deleted webhooks have left behind."""
        left = list(islice(_left_behind(self._means.mirror), _AT_ONCE))
        if not left:
            return
        unchanged = [Unchanged(held.key, held.mod_revision) for held in left]
        try:
            await self._means.store.commit(
                *(Delete(held.key) for held in left), given=[self._duty.condition(epoch), *unchanged]
            )
        except StoreError as error:
            _log.info("webhook.not_swept", error=str(error))

    def _changed(self, update: Update) -> None:
        del update
        self._wake.set()

    def _arrived(self, arrival: Arrival) -> None:
        del arrival
        for running in self._running.values():
            running.delivery.arrived()


def has_work(mirror: Mirror) -> bool:
    """Whether there is a webhook, or something left of one."""
    return any(mirror.count(prefix) for prefix in (keys.WEBHOOKS, keys.WEBHOOK_STATES, keys.DEAD_LETTERS))


def _enabled(mirror: Mirror) -> Iterator[tuple[str, Held]]:
    for held in mirror.under(keys.WEBHOOKS):
        if isinstance(held.object, Webhook) and held.object.spec.enabled:
            yield held.object.name, held


def _left_behind(mirror: Mirror) -> Iterator[Held]:
    for held in mirror.under(keys.WEBHOOK_STATES):
        name = held.key.removeprefix(keys.WEBHOOK_STATES)
        if isinstance(held.object, WebhookState) and held.object.webhook != _life(mirror, name):
            yield held
    for held in mirror.under(keys.DEAD_LETTERS):
        pair = keys.pair_in(held.key, keys.DEAD_LETTERS)
        if pair and isinstance(held.object, DeadLetter) and held.object.webhook != _life(mirror, pair.first):
            yield held


def _life(mirror: Mirror, webhook: str) -> int:
    held = mirror.get(keys.WEBHOOKS + webhook)
    return held.create_revision if held is not None else 0
