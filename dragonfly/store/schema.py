"""The layout version of what is in etcd: written once by whoever starts first, checked by all.

A replica that finds a version it does not know must not write: it would destroy what a newer one has laid out.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dragonfly.store import keys
from dragonfly.store.errors import Conflict, SchemaUnknown
from dragonfly.store.port import Store
from dragonfly.store.values import Absent, Item, Put

VERSION: Final = 1


class _Schema(msgspec.Struct, frozen=True):
    version: int


async def ensure(store: Store) -> None:
    """Write this layout's version if there is none; the first write of a replica, before any other.

    Raises:
        SchemaUnknown: etcd holds another layout.
        Unavailable: try again; doing it twice is harmless.
    """
    try:
        await store.commit(Put(keys.SCHEMA, msgspec.json.encode(_Schema(VERSION))), given=(Absent(keys.SCHEMA),))
    except Conflict as conflict:
        check(conflict.current[0])


def check(item: Item | None) -> None:
    """Accept the key `schema` as it is now.

    Raises:
        SchemaUnknown: it holds another version, or nothing readable.
    """
    if item is None:
        return
    try:
        found = msgspec.json.decode(item.value, type=_Schema).version
    except msgspec.MsgspecError:
        raise SchemaUnknown(repr(item.value[:40]), VERSION) from None
    if found != VERSION:
        raise SchemaUnknown(str(found), VERSION)


def check_record(record: object) -> None:
    """As `check`, of the key as a mirror holds it: decoded, or None.

    Raises:
        SchemaUnknown: it holds another version, or nothing readable.
    """
    if record is None:
        return
    found = record.get("version") if isinstance(record, dict) else record
    if found != VERSION:
        raise SchemaUnknown(str(found), VERSION)
