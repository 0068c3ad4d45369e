"""Idempotency-Key: the same request under the same key has one effect and one answer, on every replica, for 24 hours.

The answer is stored in the transaction of the write itself. So a retry after a lost answer finds it exactly when the
write happened, and of two retries at once on two replicas one wins and the other one finds the winner's answer.
"""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from dragonfly.intent.facts import Facts
from dragonfly.intent.plan import Decide, Plan, Sealer
from dragonfly.intent.refusals import KeyReused
from dragonfly.model.values import Value
from dragonfly.store import keys, records
from dragonfly.store.port import Store
from dragonfly.store.values import Absent, Put

T = TypeVar("T")

_KEPT_HOURS: Final = 24
_KEY_LIMIT: Final = 128


class Answer(Value, frozen=True, kw_only=True):
    """What a request was answered, but for the revision: that is the one at which this record was written."""

    status: int
    location: str = ""
    body: str
    """JSON of a resource, its `metadata.revision` 0; as text, because every mirror keeps it for a day."""


class Kept(Value, frozen=True, kw_only=True):
    """The value of `idempotency/<key>`."""

    request: str
    answer: Answer


class Once(NamedTuple):
    """A request that must have one effect: its key, and what tells it from other requests."""

    key: str
    request: str
    lease: int


def is_key(text: str) -> bool:
    """Whether `text` can be an Idempotency-Key: 1 to 128 printable ASCII characters but the slash and the blank."""
    return 0 < len(text) <= _KEY_LIMIT and all("!" <= character <= "~" and character != "/" for character in text)


def fingerprint(*parts: bytes, sealer: Sealer | None) -> str:
    """Tell requests apart: who, method, path, query, body.

    A body may hold a BMC's password, which somebody who reads etcd could guess by a plain digest; so it is made with
    the swarm's secret key. Without one a body that holds a password is refused, and nothing is kept of it.
    """
    told = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return (hashlib.sha256(told).digest() if sealer is None else sealer.fingerprint(told)).hex()


def answered(decide: Decide[T], answer: Callable[[T], Answer], once: Once | None) -> Decide[Answer]:
    """Return `decide` with its answer, which is stored under the key of `once` together with the write.

    An intent that was fulfilled already writes nothing, so there is nothing to keep: it has the same answer again.

    Raises:
        KeyReused: (when deciding) the key came with another request.
    """

    def decide_once(facts: Facts) -> Plan[Answer]:
        if once is not None and (kept := _kept(facts, once)) is not None:
            return kept
        plan = decide(facts)
        made = answer(plan.outcome)
        if once is None or not plan.writes:
            return Plan(made, plan.writes, plan.given, plan.revision)
        key = keys.idempotency(once.key)
        put = Put(key, records.encode(Kept(request=once.request, answer=made)), once.lease)
        return Plan(made, (*plan.writes, put), (*plan.given, Absent(key)))

    return decide_once


class HourlyLeases:
    """Leases for what is to be forgotten after a day: one for each hour, shared by all that is written in it."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._hour: datetime | None = None
        self._lease = 0
        self._granting = asyncio.Lock()

    async def current(self) -> int:
        """Return a lease with at least 24 hours left."""
        async with self._granting:
            hour = self._now().replace(minute=0, second=0, microsecond=0)
            if self._hour != hour:
                ttl = timedelta(hours=_KEPT_HOURS + 1)
                self._lease = (await self._store.grant(int(ttl.total_seconds()))).id
                self._hour = hour
            return self._lease

    def forget(self) -> None:
        """Grant a new lease next time: this one is lost."""
        self._hour = None


def _kept(facts: Facts, once: Once) -> Plan[Answer] | None:
    key = keys.idempotency(once.key)
    kept = facts.get(key, Kept)
    if kept is None:
        return None
    if kept.request != once.request:
        raise KeyReused(once.key)
    return Plan(kept.answer, revision=facts.revision_of(key))
