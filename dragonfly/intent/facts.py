"""What a decision may know: the mirror, overlaid by what etcd itself has said since the request came.

The mirror may be some milliseconds behind. That is harmless for a decision to write, which etcd checks (the
conditions), but not for a refusal, which nobody checks: so facts remember which keys were consulted, and a refusal
counts only when etcd has confirmed each of them (`carry_out` sees to it).
"""

from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

import msgspec

from dragonfly.intent.refusals import Unreadable
from dragonfly.store import records
from dragonfly.store.mirror import Held, Mirror, Undecodable
from dragonfly.store.values import Item

T = TypeVar("T")


class Facts:
    """Invariant: what `get` tells of a key never grows older."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._seen: dict[str, tuple[Held | None, int]] = {}
        self._consulted: set[str] = set()

    def revision_of(self, key: str) -> int:
        """The revision of the key's last change; 0 if it is absent."""
        held = self._held(key)
        return held.mod_revision if held is not None else 0

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the object of a key, or None if it is absent.

        Raises:
            Unreadable: the stored value is not of this kind.
        """
        held = self._held(key)
        if held is None:
            return None
        if isinstance(held.object, kind):
            return held.object
        if isinstance(held.object, Undecodable):
            raise Unreadable(key, held.object.reason)
        try:
            return msgspec.convert(held.object, kind)
        except msgspec.ValidationError as error:
            raise Unreadable(key, str(error)) from error

    def keys_under(self, prefix: str, limit: int | None = None) -> list[str]:
        """The first keys under a prefix as the mirror has them; never confirmed, so no decision may hang on them."""
        return [held.key for held in islice(self._mirror.under(prefix), limit)]

    def unconfirmed(self) -> list[str]:
        """The consulted keys that only the mirror has told of."""
        return sorted(self._consulted - self._seen.keys())

    def learn(self, keys: Iterable[str], items: Iterable[Item | None], revision: int) -> None:
        """Take in what etcd said of `keys` at `revision`."""
        for key, item in zip(keys, items, strict=True):
            self._seen[key] = (_held_of(item), revision)

    def _held(self, key: str) -> Held | None:
        self._consulted.add(key)
        seen = self._seen.get(key)
        if seen is not None and seen[1] > self._mirror.revision:
            return seen[0]
        return self._mirror.get(key)


def _held_of(item: Item | None) -> Held | None:
    if item is None:
        return None
    try:
        decoded: object = records.decode(item.key, item.value)
    except msgspec.DecodeError as error:
        decoded = Undecodable(str(error))
    return Held(item.key, decoded, item.create_revision, item.mod_revision, item.lease)
