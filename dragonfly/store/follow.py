"""Keeps a mirror current: a watch feeds it, and a quiet watch is proved by a write.

The progress key is written when nothing has come for `quiet` seconds (and up to half as much again, by chance, so that
one replica writes and the others see it): no change, and no mark of etcd's own. Where etcd marks its watches every few
seconds an idle swarm writes nothing; elsewhere it writes some ten times a minute, all replicas together. A mark is a
sign of life only and moves no position: some versions send one ahead of the events before it (etcd issue 15220).
That etcd does not mark is told once in the log, with the flag that makes it.

After a reconnect etcd does not say when it has sent what was missed. The mirror counts as current once it shows the
revision at which the watch connected; if that revision changed nothing under the prefix, the progress key is written to
get past it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from dragonfly.store import keys
from dragonfly.store.errors import Denied, NoSpace, StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.store.values import Batch, Put, Snapshot
from dragonfly.store.watch import Watch, WatchState

_log = structlog.get_logger(__name__)

_BREATH = 0.05  # seconds; the shortest wait between two looks at the clock


class Follower:
    """Feeds one mirror; belongs to the event loop in which it is started."""

    def __init__(self, store: Store, gateway: Gateway, mirror: Mirror, *, jitter: Callable[[], float]) -> None:
        """Make a follower that is not started.

        Args:
            store: for the progress key.
            gateway: the watch gets a sibling of it; its clock must be the mirror's.
            mirror: nobody else may feed it.
            jitter: numbers from 0 to 1.
        """
        self._store = store
        self._gateway = gateway
        self._mirror = mirror
        self._jitter = jitter
        self._clock = gateway.clock
        self._heard = self._clock()
        self._state = WatchState(connected=False, since=self._heard)
        self._unproven = asyncio.Event()
        self._doubted = False
        self._missed_mark = False
        """Whether a write had to prove the stream that is open now, for want of a mark."""
        self._told_of_marks = False
        self._watch: Watch | None = None
        self._prover: asyncio.Task[None] | None = None

    @property
    def state(self) -> WatchState:
        """Whether the mirror is being kept current, since when, and why not."""
        return self._state

    async def start(self) -> None:
        """Begin to follow, for ever; `mirror.wait_for(1, …)` waits for the first snapshot."""
        self._watch = Watch(
            self._gateway.sibling(),
            asyncio.get_running_loop(),
            on_reset=self._reset,
            on_batch=self._apply,
            on_state=self._note,
        )
        self._watch.start()
        self._prover = asyncio.create_task(self._prove(), name="etcd-progress")

    async def stop(self) -> None:
        """Stop following; the mirror keeps what it has and is stale from now on."""
        if self._prover is not None:
            self._prover.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._prover
        if self._watch is not None:
            await self._watch.stop()
        self._note(WatchState(connected=False, since=self._heard, error=self._state.error))

    def doubt(self) -> None:
        """Take the mirror for stale until a write has come back through the watch.

        Called as long as etcd does not answer this replica: a stream that froze with it looks like a quiet one for
        `silence` seconds.
        """
        self._mirror.mark_stale(self._last_sign())
        self._doubted = True
        self._unproven.set()

    def _reset(self, snapshot: Snapshot) -> None:
        self._heard = self._clock()
        shown = tuple(item for item in snapshot.items if item.key != keys.PROGRESS)
        self._mirror.replace(snapshot._replace(items=shown))

    def _apply(self, batch: Batch) -> None:
        self._heard = self._clock()
        if self._missed_mark:
            self._tell_of_marks()
        shown = tuple(change for change in batch.changes if change.key != keys.PROGRESS)
        try:
            self._mirror.apply(batch._replace(changes=shown))
        finally:
            self._judge()

    def _note(self, state: WatchState) -> None:
        self._state = state
        if not state.connected:
            self._missed_mark = False
            self._mirror.mark_stale(state.since)
            return
        self._judge()
        if self._mirror.stale_since is not None:
            self._unproven.set()

    def _judge(self) -> None:
        if self._state.connected and not self._doubted and self._mirror.revision >= self._state.revision:
            self._mirror.mark_current()

    async def _prove(self) -> None:
        while True:
            patience = self._gateway.settings.quiet * (1 + self._jitter() / 2)
            asked = await self._unproven_within(self._last_sign() + patience - self._clock())
            is_quiet = self._clock() - self._last_sign() >= patience
            if self._state.connected and (asked or is_quiet):
                self._missed_mark = is_quiet and not asked
                await self._write_progress()
                await asyncio.sleep(self._gateway.settings.quiet / 2)

    def _last_sign(self) -> float:
        return max(self._heard, self._watch.heard) if self._watch is not None else self._heard

    async def _unproven_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(seconds, _BREATH)):
                await self._unproven.wait()
        except TimeoutError:
            return False
        self._unproven.clear()
        return True

    async def _write_progress(self) -> None:
        try:
            proof = await self._store.commit(Put(keys.PROGRESS, b"{}"))
        except (NoSpace, Denied):
            # etcd is there and takes no writes: a stream that has been open for a while has brought what there was.
            await asyncio.sleep(self._gateway.settings.quiet / 2)
            if self._state.connected:
                self._doubted = False
                self._mirror.mark_current()
        except StoreError:
            # The watch goes silent and is taken up anew, which is the answer to this failure too.
            if self._doubted:
                self._unproven.set()
        else:
            self._prove_by(proof)

    def _tell_of_marks(self) -> None:
        """The stream works, and nothing came on it for a while: so etcd does not mark it."""
        self._missed_mark = False
        if not self._told_of_marks:
            self._told_of_marks = True
            _log.warning(
                "etcd.watches_not_marked",
                seconds=self._gateway.settings.quiet,
                message="etcd marks no quiet watches, so the swarm writes a small key some ten times a minute while "
                "nothing changes. --watch-progress-notify-interval=2s spares it that; before etcd 3.6 the flag begins "
                "with --experimental.",
            )

    def _prove_by(self, revision: int) -> None:
        """The mirror is current once it shows a write of our own."""
        if self._doubted:
            self._doubted = False
            self._state = self._state._replace(revision=max(self._state.revision, revision))
            self._judge()
