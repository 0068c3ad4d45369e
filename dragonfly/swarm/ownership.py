"""Membership and claims of one replica: the moves of `moves` carried out as etcd transactions.

What this replica owns is what the mirror shows as claimed by its id on its present lease; nobody computes it. It may
act on a claim only while the lease is held by its own monotonic clock, and not while the shard is being given up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Protocol

import structlog

from dragonfly.model.swarm import Claim as ClaimRecord
from dragonfly.model.swarm import DrainRequest, Member
from dragonfly.store import keys
from dragonfly.store.errors import Conflict, LeaseLost, StoreError
from dragonfly.store.mirror import Mirror, Update
from dragonfly.store.port import Store
from dragonfly.store.records import encode
from dragonfly.store.values import Absent, Claimed, Delete, Put, Unchanged
from dragonfly.swarm.moves import Asked, Claim, Drain, Held, Release, SwarmView, moves
from dragonfly.swarm.shards import ShardId, Sites, rankings

_log = structlog.get_logger(__name__)

_BATCH = 32
"""Claims of one transaction: a lost race costs a batch, so it stays well below etcd's 128 operations."""

_RETRY = 0.5
"""Seconds until the next try after etcd failed to answer."""

Shards = Mapping[ShardId, Sites]


class NameTaken(Exception):
    """Another replica runs under this one's id, and came later."""


class Lease(Protocol):
    """The replica's lease, as its keeper shows it."""

    @property
    def id(self) -> int:
        """0 while there is none."""
        ...

    def held(self) -> bool:
        """Whether the lease cannot have ended, by the monotonic clock."""
        ...

    def remaining(self) -> float:
        """Seconds for which it cannot have ended; 0 or less once it may have."""
        ...


class Listener(Protocol):
    """Who works on what is owned."""

    def gained(self, shard: ShardId) -> None:
        """Begin work on the shard."""

    def lost(self, shard: ShardId) -> None:
        """The claim is gone: end work at once."""

    async def quiesce(self, shard: ShardId) -> None:
        """Take up no more work on the shard and return once nothing of it is under way."""


class Ownership:
    """Registers this replica, claims shards, drains them on request, and tells who may act."""

    def __init__(
        self,
        *,
        member: Callable[[], Member],
        store: Store,
        mirror: Mirror,
        lease: Lease,
        listener: Listener,
        shards: Callable[[], Shards],
        clock: Callable[[], float],
        settle: float,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """Make it, not yet running.

        Args:
            member: this replica as it is now; written again when it changes.
            store: where claims are written.
            mirror: where they are read.
            lease: what members, claims and requests to drain hang on.
            listener: told what is gained and lost.
            shards: every shard there is, with its preferred sites.
            clock: monotonic seconds.
            settle: see `moves`.
            now: the time in UTC, which claims say they were made at; without, they say nothing.
        """
        self._member = member
        self._store = store
        self._mirror = mirror
        self._lease = lease
        self._listener = listener
        self._shards = shards
        self._clock = clock
        self._settle = settle
        self._now = now
        self._me = member().id
        self.name_taken = ""
        """Why this replica does no work, if another one has its id; empty while it is alone."""
        self._owned: dict[ShardId, int] = {}
        self._owned_under = 0
        """The lease that `_owned` was counted under. When another has taken its place, its claims are gone, be it that
        the mirror does not show that yet."""
        self._releasing: set[ShardId] = set()
        self._releases: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None
        """Why a shard could not be given up."""
        self._unowned_since: dict[ShardId, float] = {}
        """The shards that nobody has claimed, with the clock's time since when this replica sees that."""
        self._first_since: dict[ShardId, float] = {}
        self._claims: dict[ShardId, Held] | None = None
        """As the mirror shows them; None when that has changed since they were read."""
        self._claims_at = 0
        """The mirror's revision then."""
        self._members: dict[str, Member] | None = None
        """The same of the members."""
        self._wake = asyncio.Event()
        self._leaving = False
        self._unsubscribe = [
            mirror.subscribe(keys.CLAIMS, self._claims_changed),
            mirror.subscribe(keys.MEMBERS, self._members_changed),
            mirror.subscribe(keys.DRAINS, self._changed),
        ]

    @property
    def owned(self) -> Mapping[ShardId, int]:
        """The shards that this replica has claimed, each with its epoch."""
        return self._owned

    def epoch(self, shard: ShardId) -> int | None:
        """Return the epoch under which this replica may act on the shard now, or None if it may not."""
        return None if shard in self._releasing else self.holds(shard)

    def holds(self, shard: ShardId) -> int | None:
        """As `epoch`, but also of a shard that is being given up: what was begun may be waited for until its end."""
        # The lease is kept by a thread: asked in this order, a new one can't vouch for what was owned under the last.
        if not self._lease.held() or self._lease.id != self._owned_under:
            return None
        return self._owned.get(shard)

    def remaining(self) -> float:
        """Return the seconds for which this replica may act on what it owns, if its lease is not kept alive again."""
        return self._lease.remaining()

    def look(self) -> None:
        """Say that something changed that is not in etcd: the lease, or what clusters can be reached."""
        self._wake.set()

    async def run(self) -> None:
        """Keep membership and claims right until cancelled.

        Raises:
            Exception: a shard could not be given up, which is a bug; nobody else can drive it while this replica lives.
        """
        while True:
            self._wake.clear()
            if self._failed is not None:
                raise self._failed
            pause = await self._round()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def hand_over(self) -> None:
        """Leave the swarm, and give up each shard once nothing of it is under way. For SIGTERM."""
        self._leaving = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for task in tuple(self._releases):
            task.cancel()
        mine = dict(self._owned)
        self._releasing.update(mine)
        async with asyncio.TaskGroup() as group:
            # Its rank goes first: who takes a shard over need not wait for it. What is slow in one cluster keeps back
            # nothing of another (P12).
            group.create_task(_leave(self._store.commit(Delete(keys.member(self._me)))), name="leave")
            waiting = {group.create_task(self._quiet(shard)) for shard in mine}
            while waiting:
                quiet, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                # In the order of their names: that of a set of tasks is another one in each process.
                claims = [(shard, mine[shard]) for shard in sorted(ending.result() for ending in quiet)]
                for start in range(0, len(claims), _BATCH):
                    await _leave(self._delete_claims(claims[start : start + _BATCH]))

    async def _quiet(self, shard: ShardId) -> ShardId:
        await self._listener.quiesce(shard)
        return shard

    def _claims_changed(self, update: Update) -> None:
        # What arrives together is in the mirror before the first of it is told: one look is enough for a whole batch.
        if self._claims_at != self._mirror.revision:
            self._claims = None
        self._take_stock()
        self._changed(update)

    def _members_changed(self, update: Update) -> None:
        self._members = None
        self._changed(update)

    def _changed(self, update: Update) -> None:
        del update
        self._wake.set()

    def _take_stock(self) -> None:
        """Compare what the mirror says is ours with what we thought, and tell the listener."""
        lease = self._lease.id
        if self._claims is not None and self._owned_under == lease:
            return
        mine = {
            shard: claim.epoch
            for shard, claim in self._claimed().items()
            if claim.owner == self._me and claim.lease == lease
        }
        before, self._owned = self._owned, mine
        self._owned_under = lease
        for shard, epoch in before.items():
            if mine.get(shard) != epoch:
                self._releasing.discard(shard)
                self._listener.lost(shard)
                _log.info("shard.lost", cluster=shard.cluster, shard=shard.shard, epoch=epoch)
        for shard, epoch in mine.items():
            if before.get(shard) != epoch:
                _log.info("shard.gained", cluster=shard.cluster, shard=shard.shard, epoch=epoch)
                self._listener.gained(shard)

    async def _round(self) -> float | None:
        """Make the moves that are due; return the seconds after which to look again without being woken."""
        if self._leaving or not self._lease.id or not self._mirror.synced:
            return _RETRY
        self._take_stock()
        try:
            await self._register()
            await self._move()
        except NameTaken as error:
            self._yield(str(error))
            return _RETRY
        except LeaseLost:
            _log.warning("swarm.lease_lost", lease=self._lease.id)
            return _RETRY
        except Conflict:
            # Somebody else was first; the mirror will show it.
            return _RETRY
        except StoreError as error:
            _log.warning("swarm.etcd_failed", error=str(error))
            return _RETRY
        is_at_rest = not self._unowned_since and self._first_since.keys() <= self._owned.keys()
        return None if is_at_rest else self._settle / 2

    async def _register(self) -> None:
        """Write this replica's member, unless one that came later has its id: two would overwrite each other for ever.

        A member on another lease that came earlier is this replica's own predecessor, whose lease has not ended yet.
        """
        member = self._member()
        held = self._mirror.get(keys.member(self._me))
        if held is not None and held.lease == self._lease.id and held.object == member:
            self.name_taken = ""
            return
        if held is not None and held.lease != self._lease.id and isinstance(held.object, Member):
            other = held.object
            if (other.started, other.address) > (member.started, member.address):
                raise NameTaken(f"replica {self._me} runs at {other.address} too, since {other.started:%H:%M:%S} UTC")
        given = Unchanged(keys.member(self._me), held.mod_revision if held else 0)
        await self._store.commit(Put(keys.member(self._me), encode(member), self._lease.id), given=[given])

    def _yield(self, reason: str) -> None:
        """Leave the work to the one that came later, and say so until somebody gives one of them another name."""
        if not self.name_taken:
            _log.error("swarm.name_taken", error=reason)
        self.name_taken = reason
        for shard, epoch in self._owned.items():
            self._release(shard, epoch)

    async def _move(self) -> None:
        lease = self._lease.id
        view = self._view()
        claims: list[ShardId] = []
        drains: list[Drain] = []
        for move in moves(self._me, lease, view, settle=self._settle):
            match move:
                case Release(shard, epoch):
                    self._release(shard, epoch)
                case Claim(shard):
                    claims.append(shard)
                case Drain():
                    drains.append(move)
        for start in range(0, len(claims), _BATCH):
            await self._claim(claims[start : start + _BATCH], lease)
        for drain in drains:
            await self._ask(drain.shard, drain.epoch, lease)

    def _view(self) -> SwarmView:
        claims = self._claimed()
        members = self._present()
        ranks = rankings(self._shards(), members.values())
        now = self._clock()
        unowned = {shard: self._unowned_since.get(shard, now) for shard in ranks if shard not in claims}
        self._unowned_since = unowned
        first = {shard: self._first_since.get(shard, now) for shard, rank in ranks.items() if rank[:1] == (self._me,)}
        self._first_since = first
        drains = {
            ShardId(*place): Asked(held.object.asked_by, held.object.epoch)
            for held in self._mirror.under(keys.DRAINS)
            if (place := keys.drain_in(held.key)) and isinstance(held.object, DrainRequest)
        }
        return SwarmView(
            members,
            ranks,
            claims,
            drains,
            unowned_for={shard: now - since for shard, since in unowned.items()},
            first_for={shard: now - since for shard, since in first.items()},
        )

    def _present(self) -> dict[str, Member]:
        if self._members is None:
            live = self._mirror.under(keys.MEMBERS)
            self._members = {held.object.id: held.object for held in live if isinstance(held.object, Member)}
        return self._members

    def _claimed(self) -> dict[ShardId, Held]:
        if self._claims is None:
            self._claims_at = self._mirror.revision
            self._claims = {
                ShardId(*place): Held(held.object.owner, held.create_revision, held.lease)
                for held in self._mirror.under(keys.CLAIMS)
                if (place := keys.claim_in(held.key)) and isinstance(held.object, ClaimRecord)
            }
        return self._claims

    async def _claim(self, shards: list[ShardId], lease: int) -> None:
        if not self._lease.held():
            return
        record = encode(ClaimRecord(owner=self._me, since=self._now() if self._now else None))
        writes = [Put(keys.claim(*shard), record, lease) for shard in shards]
        await self._store.commit(*writes, given=[Absent(keys.claim(*shard)) for shard in shards])

    async def _ask(self, shard: ShardId, epoch: int, lease: int) -> None:
        request = encode(DrainRequest(asked_by=self._me, epoch=epoch))
        given = [Claimed(keys.claim(*shard), epoch)]
        await self._store.commit(Put(keys.drain(*shard), request, lease), given=given)

    def _release(self, shard: ShardId, epoch: int) -> None:
        if shard in self._releasing:
            return
        self._releasing.add(shard)
        task = asyncio.create_task(self._give_up(shard, epoch), name=f"release {shard.cluster}/{shard.shard}")
        self._releases.add(task)
        task.add_done_callback(self._given_up)

    def _given_up(self, task: asyncio.Task[None]) -> None:
        self._releases.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failed = error
            self._wake.set()

    async def _give_up(self, shard: ShardId, epoch: int) -> None:
        """Quiesce, then delete the claim. There is no way back: until the mirror shows the end, nobody acts on it."""
        await self._listener.quiesce(shard)
        while self._owned.get(shard) == epoch:
            try:
                await self._delete_claims([(shard, epoch)])
            except Conflict:
                return
            except StoreError as error:
                _log.info("shard.release_failed", cluster=shard.cluster, shard=shard.shard, error=str(error))
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _delete_claims(self, claims: list[tuple[ShardId, int]]) -> None:
        writes = [Delete(key) for shard, _ in claims for key in (keys.claim(*shard), keys.drain(*shard))]
        await self._store.commit(*writes, given=[Claimed(keys.claim(*shard), epoch) for shard, epoch in claims])


async def _leave(work: Awaitable[object]) -> None:
    """Do a part of leaving; what fails is cleared by the end of the lease."""
    try:
        await work
    except StoreError as error:
        _log.info("swarm.leave_failed", error=str(error))
