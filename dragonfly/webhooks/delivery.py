"""Carries one webhook on, under one claim: takes changes from the feed, sends them, saves how far it has got.

What is saved is always true and may be old: whoever goes on from it sends again what was sent since. It is saved once a
second at most, more seldom if much of it is stuck, and not at all while nothing happens. Without a word from etcd it
goes on only while its lease lasts.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from dragonfly.feed.feed import Lost, Reason
from dragonfly.model.webhook import DeadLetter, Webhook, WebhookState
from dragonfly.store import keys
from dragonfly.store.errors import StoreError, TooLarge
from dragonfly.store.mirror import Held
from dragonfly.store.records import encode
from dragonfly.store.seal import Unsealable
from dragonfly.store.values import Claimed, Condition, Delete, Put, Unchanged, Write
from dragonfly.swarm.duty import Duty
from dragonfly.webhooks.letters import (
    body_of,
    delivery_of,
    disabled,
    notice,
    opened,
    superfluous,
    view_of,
    without_body,
)
from dragonfly.webhooks.means import Means, NotOwner
from dragonfly.webhooks.outbox import Attempt, Outbox, pause_after, pause_between_saves
from dragonfly.webhooks.sender import Letter, Verdict

_log = structlog.get_logger(__name__)

_PAGE: Final = 200
_PACE: Final = 0.1
"""Seconds between two looks at the feed."""

_RETRY: Final = 1.0
_QUIET: Final = 60.0
_FAR: Final = 200
"""A cursor so many revisions old is saved anew once a minute though nothing was sent: etcd forgets old revisions."""

_FUTURE: Final = 5.0
_BREATH: Final = 0.01
_GRACE: Final = 0.2
_LAST_SAVE: Final = 1.0


class Delivery:
    """The deliveries of one webhook as it is at one revision, under one epoch."""

    def __init__(self, webhook: Webhook, held: Held, duty: Duty, epoch: int, means: Means) -> None:
        """Go on from what is saved; not yet running."""
        self._webhook = webhook
        self._key = held.key
        self._revision = held.mod_revision
        self._life = held.create_revision
        self._duty = duty
        self._epoch = epoch
        self._means = means
        self._view = view_of(webhook.spec)
        self._state = self._saved_state(held)
        self._outbox = Outbox(self._state.cursor, self._state.stuck)
        self._attempts: set[asyncio.Task[None]] = set()
        self._raising: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._unread = True
        self._read_at = float("-inf")
        self._saved_at = means.clock()
        self._saved = 0
        self._changed = False
        self._stopping = False
        self._lost: Reason | None = None
        self._resets = 0

    def retry_dead(self) -> None:
        """Say that there may be dead letters to be tried once more."""
        if self._asked_again() and (self._raising is None or self._raising.done()):
            self._raising = asyncio.create_task(self._raise_dead(), name=f"webhook {self._webhook.name} dead letters")
            self._attempts.add(self._raising)
            self._raising.add_done_callback(self._ended)

    def arrived(self) -> None:
        """Say that the feed may have more."""
        self._unread = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled, or until this replica may not any more.

        Raises:
            NotOwner: it may not any more, or etcd says that the webhook is another one.
        """
        try:
            while True:
                self._wake.clear()
                self._check()
                if self._stopping:
                    pass
                elif self._lost is not None:
                    await self._tell_reset(self._lost)
                else:
                    await self._take()
                    self._begin_attempts()
                await self._save_if_due()
                self._measure()
                await self._rest()
        finally:
            for task in self._attempts:
                task.cancel()

    async def stop(self) -> None:
        """Begin nothing more, leave what is under way a moment, then save. What does not end now is sent again."""
        self._stopping = True
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=_GRACE)
        try:
            async with asyncio.timeout(_LAST_SAVE):
                if self._changed and self._may_save:
                    await self._save()
                await self._means.mirror.wait_for(self._saved, _LAST_SAVE)
        except (TimeoutError, NotOwner) as error:
            _log.info("webhook.last_save_failed", webhook=self._webhook.name, error=str(error))

    def _saved_state(self, held: Held) -> WebhookState:
        stored = self._means.mirror.get(keys.webhook_state(self._webhook.name))
        if stored is not None and isinstance(stored.object, WebhookState) and stored.object.webhook == self._life:
            return stored.object
        return WebhookState(webhook=self._life, cursor=held.create_revision)

    def _check(self) -> None:
        if self._duty.epoch() != self._epoch:
            raise NotOwner

    async def _take(self) -> None:
        """Put in what follows in the feed, if it is time and there is room."""
        means, outbox = self._means, self._outbox
        if not self._unread or not outbox.has_room or means.clock() < self._read_at:
            return
        self._unread = False
        self._read_at = means.clock() + _PACE
        try:
            subscription = await means.feed.resume(self._view, outbox.taken, patience=_FUTURE)
        except Lost as lost:
            self._begin_reset(lost.reason)
            return
        except StoreError as error:
            _log.info("webhook.cannot_read", webhook=self._webhook.name, error=str(error))
            self._unread, self._read_at = True, means.clock() + _RETRY
            return
        try:
            changes = subscription.page(_PAGE)
            position = subscription.position
        finally:
            subscription.close()
        assert position is not None  # pages are whole revisions
        outbox.put(changes, position)
        self._unread = self._unread or len(changes) >= _PAGE

    def _begin_reset(self, reason: Reason) -> None:
        _log.warning("webhook.reset", webhook=self._webhook.name, reason=reason, cursor=self._state.cursor)
        for task in self._attempts:
            task.cancel()
        self._lost, self._resets = reason, 0

    async def _tell_reset(self, reason: Reason) -> None:
        """Tell the receiver to read the state anew; everything else waits for that, and what was saved stays."""
        means, revision = self._means, self._means.feed.revision
        if means.clock() < self._read_at:
            return
        body = notice("reset", webhook=self._webhook.name, reason=reason, revision=revision)
        verdict = await self._send("reset", f"{self._webhook.name}.{revision}.reset", body)
        self._note(verdict)
        if verdict.error:
            self._resets += 1
            self._read_at = means.clock() + pause_after(self._resets, means.chance(), verdict.retry_after)
            self._state = msgspec.structs.replace(self._state, failing_since=self._state.failing_since or means.now())
            await self._save_status()
            if verdict.is_gone:
                await self._disable(verdict.error)
            return
        self._lost = None
        self._outbox = Outbox(revision)
        self._read_at, self._unread, self._changed = means.clock(), True, True

    def _begin_attempts(self) -> None:
        for attempt in self._outbox.next(self._means.clock()):
            task = asyncio.create_task(self._attempt(attempt), name=f"webhook {self._webhook.name} {attempt.lane}")
            self._attempts.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._wake.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, NotOwner):
            _log.error("webhook.bug", webhook=self._webhook.name, exc_info=error)

    async def _attempt(self, attempt: Attempt) -> None:
        outbox, means, message = self._outbox, self._means, attempt.message
        delivery = delivery_of(self._webhook.name, message)
        try:
            verdict = await self._send(message.seen.type, delivery, body_of(message))
        except NotOwner:
            outbox.put_back(attempt.lane)
            return
        except Exception as error:  # a failed attempt is told and tried again; a lane must not hang for ever
            _log.exception("webhook.bug", webhook=self._webhook.name, delivery=delivery)
            verdict = Verdict(0.0, error=f"cannot be sent: {type(error).__name__}")
        if outbox is not self._outbox:
            return
        self._note(verdict)
        if not verdict.error:
            outbox.delivered(attempt.lane)
        elif not outbox.is_hopeless(attempt.lane, means.now()) or not await self._bury(attempt, verdict):
            outbox.failed(
                attempt.lane, now=means.clock(), at=means.now(), chance=means.chance(), wish=verdict.retry_after
            )
        if verdict.is_gone:
            await self._disable(verdict.error)

    async def _send(self, event: str, delivery: str, body: bytes) -> Verdict:
        """Send; given up at the moment when this replica may not act any more."""
        means, spec = self._means, self._webhook.spec
        try:
            secrets = opened(self._webhook, means.unseal, means.now())
        except Unsealable as error:
            return Verdict(0.0, error=f"cannot be signed: {error}")
        return await self._fenced(Letter(spec.url, event, delivery, body, secrets, spec.ca_bundle))

    async def _fenced(self, letter: Letter) -> Verdict:
        task = asyncio.create_task(self._checked(letter))
        try:
            while not task.done():
                self._check()
                await asyncio.wait({task}, timeout=max(self._duty.remaining(), _BREATH))
        finally:
            task.cancel()
        return await task

    async def _checked(self, letter: Letter) -> Verdict:
        """Ask in the very step that sends: a task begins later than it is made, after a SIGSTOP much later."""
        self._check()
        return await self._means.sender.send(letter, self._means.now())

    def _note(self, verdict: Verdict) -> None:
        name, means, now = self._webhook.name, self._means, self._means.now()
        means.metrics.attempts.labels(name, "failed" if verdict.error else "delivered").inc()
        means.metrics.duration.labels(name).observe(verdict.seconds)
        self._changed = True
        if verdict.error:
            _log.info("webhook.failed", webhook=name, error=verdict.error, seconds=verdict.seconds)
            self._state = msgspec.structs.replace(self._state, last_attempt=now, last_error=verdict.error)
        else:
            more = self._state.delivered + 1
            self._state = msgspec.structs.replace(self._state, last_attempt=now, last_success=now, delivered=more)

    async def _bury(self, attempt: Attempt, verdict: Verdict) -> bool:
        """Give a change up and keep it as a dead letter; whether that is in etcd."""
        since, attempts = self._outbox.trouble(attempt.lane)
        now, seen = self._means.now(), attempt.message.seen
        letter = DeadLetter(
            webhook=self._life,
            id=delivery_of(self._webhook.name, attempt.message),
            event=seen.type,
            revision=seen.revision,
            body=body_of(attempt.message).decode(),
            attempts=attempts + 1,
            failed_since=since or now,
            given_up_at=now,
            error=verdict.error,
        )
        buried = await self._keep(letter)
        if buried:
            self._outbox.give_up(attempt.lane)
        return buried

    async def _keep(self, letter: DeadLetter) -> bool:
        name, mirror, record = self._webhook.name, self._means.mirror, encode(letter)
        key = keys.dead_letter(name, letter.id)
        dropped = superfluous(list(mirror.under(keys.dead_letters_of(name))), len(record))
        try:
            await self._put(key, letter, *(Delete(old) for old in dropped if old != key))
        except StoreError as error:
            _log.warning("webhook.cannot_give_up", webhook=name, delivery=letter.id, error=str(error))
            return False
        _log.warning("webhook.gave_up", webhook=name, delivery=letter.id, attempts=letter.attempts, error=letter.error)
        self._means.metrics.attempts.labels(name, "given up").inc()
        return True

    async def _put(self, key: str, letter: DeadLetter, *more: Write, given: Sequence[Condition] = ()) -> None:
        """Write a dead letter; without its body if that is more than etcd takes, for its lane must go on."""
        try:
            await self._commit(Put(key, encode(letter)), *more, given=given)
        except TooLarge:
            await self._commit(Put(key, encode(without_body(letter))), *more, given=given)

    def _asked_again(self) -> list[tuple[Held, DeadLetter]]:
        """The dead letters that somebody wants to be tried once more."""
        under = self._means.mirror.under(keys.dead_letters_of(self._webhook.name))
        letters = [(held, held.object) for held in under if isinstance(held.object, DeadLetter)]
        return [(held, letter) for held, letter in letters if letter.retry and letter.webhook == self._life]

    async def _raise_dead(self) -> None:
        """Try those once each; out of order, for their turn is long over."""
        for held, letter in self._asked_again():
            verdict = await self._send(letter.event, letter.id, letter.body.encode())
            self._note(verdict)
            attempts, now = letter.attempts + 1, self._means.now()
            again = msgspec.structs.replace(
                letter, retry=False, attempts=attempts, error=verdict.error, given_up_at=now
            )
            unchanged = [Unchanged(held.key, held.mod_revision)]
            try:
                if verdict.error:
                    await self._put(held.key, again, given=unchanged)
                else:
                    await self._commit(Delete(held.key), given=unchanged)
            except StoreError as error:
                _log.info("webhook.dead_letter_not_changed", delivery=letter.id, error=str(error))

    async def _disable(self, because: str) -> None:
        """Switch the webhook off, for its receiver wants nothing any more."""
        webhook = disabled(self._webhook, f"the receiver {because}", self._means.now())
        _log.warning("webhook.disabled", webhook=webhook.name, reason=webhook.disabled_because)
        try:
            await self._commit(Put(self._key, encode(webhook)), given=[Unchanged(self._key, self._revision)])
        except StoreError as error:
            _log.info("webhook.not_disabled", webhook=webhook.name, error=str(error))

    async def _save_if_due(self) -> None:
        since = self._means.clock() - self._saved_at
        far = self._outbox.taken - self._state.cursor >= _FAR and since >= _QUIET
        pause = pause_between_saves(len(self._state.stuck))
        if (far or self._changed) and since >= pause and self._may_save:
            await self._save()

    @property
    def _may_save(self) -> bool:
        """Whether there is anything better to save than what is saved."""
        return self._lost is None and self._outbox.is_caught_up

    async def _save(self) -> None:
        cursor, stuck = self._outbox.progress()
        outbox = self._outbox
        self._state = msgspec.structs.replace(
            self._state, cursor=cursor, stuck=stuck, pending=outbox.waiting, failing_since=outbox.failing_since
        )
        await self._save_status()

    async def _save_status(self) -> None:
        self._saved_at, self._changed = self._means.clock(), False
        try:
            self._saved = await self._commit(Put(keys.webhook_state(self._webhook.name), encode(self._state)))
        except StoreError as error:
            _log.info("webhook.not_saved", webhook=self._webhook.name, error=str(error))
            self._changed = True

    async def _commit(self, *writes: Write, given: Sequence[Condition] = ()) -> int:
        """Write under the claim, for the webhook that this was begun for.

        Raises:
            NotOwner: by this replica's clock or lease it may not.
            StoreError: as it says; `Conflict` tells that it is another's by now.
        """
        self._check()
        fence = (self._duty.condition(self._epoch), Claimed(self._key, self._life))
        return await self._means.store.commit(*writes, given=(*fence, *given))

    def _measure(self) -> None:
        name, metrics, now = self._webhook.name, self._means.metrics, self._means.now()
        since = self._state.failing_since if self._lost is not None else self._outbox.failing_since
        metrics.pending.labels(name).set(self._outbox.waiting)
        metrics.failing.labels(name).set((now - since).total_seconds() if since is not None else 0)
        metrics.dead.labels(name).set(self._means.mirror.count(keys.dead_letters_of(name)))

    async def _rest(self) -> None:
        """Wait until there may be something to do."""
        if self._stopping:
            await self._wake.wait()
            return
        now = self._means.clock()
        due = [self._outbox.next_due() if self._lost is None else self._read_at]
        due += [self._read_at] if self._unread and self._outbox.has_room else []
        saved_next = self._saved_at + pause_between_saves(len(self._state.stuck))
        due += [saved_next] if self._changed and self._may_save else []
        first = min((at for at in due if at is not None), default=None)
        try:
            async with asyncio.timeout(None if first is None else max(first - now, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return
