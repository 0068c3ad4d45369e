"""What a replica knows of itself: whether it may write, whether it may act, and why not.

Put together from its lease, its mirror, what etcd answered and what is known of the cluster. `/readyz`,
`GET /api/v1/swarm`, the metrics and the log tell it in the same words.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol

import structlog

from dragonfly.api.checks import check_etcd, check_lease, check_member, check_mirror
from dragonfly.api.context import Check, CheckResult, Insight
from dragonfly.store import keys, schema
from dragonfly.store.errors import Denied, LeaseLost, OtherEtcd, SchemaUnknown, StoreError, Unavailable
from dragonfly.store.health import EtcdState, Health, Verdict
from dragonfly.store.inquiry import Inquiry
from dragonfly.store.lease import LeaseKeeper, LoopStuck, boottime
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.store.values import Put
from dragonfly.store.watch import WatchState
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.shards import ShardId
from dragonfly.swarm.standing import Facts, Sentry, Standing
from dragonfly.swarm.vacancies import Vacancies

_log = structlog.get_logger(__name__)

_TRY_AGAIN: Final = 1.0
"""Seconds between two writes that try whether etcd takes any again."""


class LeaseView:
    """The keeper's lease as the other parts ask for it; none before there is a keeper."""

    def __init__(self, ttl: float) -> None:
        """`ttl`: seconds; a keepalive is due each third of it."""
        self._patience = ttl / 2
        self.keeper: LeaseKeeper | None = None

    @property
    def id(self) -> int:
        return self.keeper.id if self.keeper else 0

    def held(self) -> bool:
        return self.keeper is not None and self.keeper.held(boottime())

    def remaining(self) -> float:
        return self.keeper.valid_until - boottime() if self.keeper is not None else 0.0

    def silent_for(self) -> float | None:
        """Seconds since the last keepalive that etcd answered; None if there was none."""
        silent = boottime() - self.keeper.heard_at if self.keeper is not None else float("inf")
        return None if silent == float("inf") else max(0.0, silent)

    def silence(self) -> Exception | None:
        """Why etcd does not answer keepalives; None while it does, or one that failed may be followed by a good one."""
        error = self.keeper.error if self.keeper is not None else None
        if error is None or isinstance(error, LeaseLost | LoopStuck):
            return None
        silent = self.silent_for()
        may_pass = silent is not None and silent < self._patience and not isinstance(error, Denied | OtherEtcd)
        return None if may_pass else error


class Reaches(Protocol):
    """Whether this replica reaches any cluster."""

    @property
    def since(self) -> datetime | None:
        """Since when it does not; None while it does."""
        ...

    @property
    def reason(self) -> str: ...

    def look(self) -> bool: ...


class Follows(Protocol):
    """Who keeps the mirror current."""

    @property
    def state(self) -> WatchState: ...

    def doubt(self) -> None: ...


class Awareness:
    """Of one replica, for as long as it runs."""

    def __init__(
        self,
        replica: str,
        *,
        store: Store,
        health: Health,
        mirror: Mirror,
        follower: Follows,
        lease: LeaseView,
        ownership: Ownership,
        reach: Reaches,
        shards: Callable[[], Mapping[ShardId, tuple[str, ...]]],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        observes: bool = False,
    ) -> None:
        self._replica = replica
        self._observes = observes
        self._store = store
        self._health = health
        self._mirror = mirror
        self._follower = follower
        self._lease = lease
        self._ownership = ownership
        self._reach = reach
        self._clock = clock
        self.draining = False
        self.unfit: Exception | None = Unavailable("the layout of what is in etcd was not checked yet")
        """Why this replica must not work with what is in etcd; None if it may."""
        self._inquiry = Inquiry(store, health, leases=self._leases, clock=clock)
        self._vacancies = Vacancies(mirror, shards, clock=clock, now=now)
        self._sentry = Sentry(self._facts, clock=clock, now=now)
        self._told: Standing | None = None
        self._told_of_etcd: EtcdState = "unknown"

    def insight(self) -> Insight:
        return Insight(
            sentry=self._sentry,
            etcd=self._health,
            inquiry=self._inquiry,
            vacancies=self._vacancies,
            lease=self._lease,
            owned=lambda: self._ownership.owned,
            refusal=self.refusal,
        )

    def checks(self) -> Mapping[str, Check]:
        return {
            "accepting": lambda: CheckResult(not self.draining, "shutting down" if self.draining else ""),
            "etcd": lambda: check_etcd(self._health),
            "mirror": lambda: check_mirror(self._mirror, lambda: self._follower.state.error, self._clock),
            "lease": lambda: check_lease(self._lease),
            "schema": self._check_schema,
            "member": lambda: check_member(self._mirror, self._replica, self._lease.id, self._ownership.name_taken),
        }

    def refusal(self) -> Exception | None:
        """Return why no write may be tried; None if one may, which does not say that etcd will take it."""
        if unknown := self.layout_trouble():
            return unknown
        silence = self._health.silence
        if silence is None or isinstance(silence, StoreError):
            return silence
        return Unavailable(str(silence))

    def layout_trouble(self) -> SchemaUnknown | None:
        """Look at the layout's version in the mirror too: it may change while this replica runs."""
        if isinstance(self.unfit, SchemaUnknown):
            return self.unfit
        held = self._mirror.get(keys.SCHEMA)
        try:
            schema.check_record(held.object if held is not None else None)
        except SchemaUnknown as error:
            return error
        return None

    def look(self) -> None:
        """Take everything in; called about once a second."""
        self._reach.look()
        verdict = self._health.look()
        self._tell_of_etcd(verdict)
        if verdict.state == "no-quorum" or isinstance(self._health.silence, Unavailable):
            self._follower.doubt()
        standing = self._sentry.look()
        if self._told is None or standing.state != self._told.state:
            log = _log.warning if standing.state in {"fenced", "read-only"} else _log.info
            log("replica.state", state=standing.state, reason=standing.reason)
        self._told = standing

    def _tell_of_etcd(self, verdict: Verdict) -> None:
        if verdict.state == self._told_of_etcd:
            return
        log = _log.info if verdict.state in {"ok", "unknown"} else _log.warning
        log("etcd.state", state=verdict.state, reason=verdict.reason)
        self._told_of_etcd = verdict.state

    async def recover(self) -> None:
        """Try a write again and again while etcd takes none, for nobody else might for hours; for ever."""
        while True:
            await asyncio.sleep(_TRY_AGAIN)
            if self._health.refuses_writes and self.refusal() is None:
                with contextlib.suppress(StoreError):
                    await self._store.commit(Put(keys.PROGRESS, b"{}"))

    async def stop(self) -> None:
        await self._inquiry.stop()

    def _facts(self) -> Facts:
        owned = len(self._ownership.owned)
        return Facts(self._refuses(), self._lease.held(), owned, self._idle(), observes=self._observes)

    def _refuses(self) -> str:
        if trouble := self.layout_trouble():
            return str(trouble)
        verdict = self._health.look()
        return "" if verdict.writable else f"etcd is {verdict.state}: {verdict.reason}"

    def _idle(self) -> str:
        if self.draining:
            return "it is shutting down"
        if self._ownership.name_taken:
            return self._ownership.name_taken
        if self.unfit is not None:
            return str(self.unfit)
        return f"it reaches no cluster: {self._reach.reason}" if self._reach.since else ""

    def _check_schema(self) -> CheckResult:
        trouble = self.layout_trouble() or self.unfit
        return CheckResult(trouble is None, "" if trouble is None else str(trouble))

    def _leases(self) -> Iterator[int]:
        return (held.lease for held in self._mirror.under(keys.MEMBERS) if held.lease)
