"""An intent as one transaction: decided purely from facts, carried out at the edge.

A decision is a function of `Facts` that returns a `Plan` or raises `Refused` or `Invalid`. It may run several times:
when etcd says that a fact was out of date, the facts are put right and it decides anew.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from dragonfly.intent.facts import Facts
from dragonfly.intent.refusals import Contended, Refused
from dragonfly.model.values import Invalid
from dragonfly.store import keys, schema
from dragonfly.store.errors import Conflict, SchemaUnknown
from dragonfly.store.mirror import Mirror
from dragonfly.store.port import Store
from dragonfly.store.values import Condition, Unchanged, Write

T = TypeVar("T")

_ATTEMPTS = 8


class Plan(NamedTuple, Generic[T]):
    """What to write, given what, and the resource as it is afterwards.

    Without writes the intent was fulfilled already, at `revision`.
    """

    outcome: T
    writes: tuple[Write, ...] = ()
    given: tuple[Condition, ...] = ()
    revision: int = 0


class Done(NamedTuple, Generic[T]):
    """An intent that is in etcd: the resource, and the revision of its last change."""

    outcome: T
    revision: int


Decide: TypeAlias = Callable[[Facts], Plan[T]]


class Sealer(Protocol):
    """Keeps secrets from whoever reads the store; `dragonfly.store.seal.Seal` is one."""

    def seal(self, place: str, secret: str) -> str: ...

    def fingerprint(self, data: bytes) -> bytes: ...


async def carry_out(store: Store, mirror: Mirror, decide: Decide[T]) -> Done[T]:
    """Decide, and write what was decided in one transaction.

    Raises:
        Refused, Invalid: etcd itself has confirmed every fact that the decision looked at.
        Contended: the facts changed each time between the look and the write.
        Unavailable: with `maybe_written` nobody knows whether it happened.
        SchemaUnknown: a newer Dragonfly has laid out the data; this one must not write.
    """
    facts = Facts(mirror)
    for _ in range(_ATTEMPTS):
        layout = _known_layout(facts)
        try:
            plan = decide(facts)
        except (Refused, Invalid):
            unconfirmed = facts.unconfirmed()
            if not unconfirmed:
                raise
            await _confirm(store, facts, unconfirmed)
            continue
        if not plan.writes:
            return Done(plan.outcome, plan.revision)
        given = (*plan.given, layout)
        try:
            return Done(plan.outcome, await store.commit(*plan.writes, given=given))
        except Conflict as conflict:
            facts.learn([condition.key for condition in given], conflict.current, conflict.revision)
    raise Contended


def _known_layout(facts: Facts) -> Unchanged:
    """Return the condition that the data has the layout that this version knows: an older replica destroys nothing."""
    layout = facts.get(keys.SCHEMA, dict)
    if layout is not None and layout.get("version") != schema.VERSION:
        raise SchemaUnknown(str(layout.get("version")), schema.VERSION)
    return Unchanged(keys.SCHEMA, facts.revision_of(keys.SCHEMA))


async def _confirm(store: Store, facts: Facts, unconfirmed: list[str]) -> None:
    for key, (item, revision) in zip(unconfirmed, await asyncio.gather(*map(store.read, unconfirmed)), strict=True):
        facts.learn([key], [item], revision)
