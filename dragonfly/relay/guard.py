"""What a replica may ask of etcd through another one: the calls of the store, on keys below the swarm's prefix.

Pure. What is forwarded is not what came but what was understood: a request is decoded into the types below, which know
the fields that the store sends and no others, each key is looked at, and the values are encoded anew. So two readers of
one JSON text (a key twice, `rangeEnd` beside `range_end`, a second message behind the first) cannot disagree here.
Left out on purpose, for the store needs none of it: compaction, snapshots, alarms, users, members, transactions in
transactions, ranges in transactions, leases by an id of one's own, and the keys of a lease.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from dragonfly.store.wire import MAX_BYTES, MAX_OPS, Prefix

MOST_BYTES: Final = 2 * MAX_BYTES
"""Of a request: base64 adds a third to what etcd takes, the transaction's frame the rest."""

MOST_KEYS: Final = 1_000
"""In one answer; the store asks for as many."""

_INVALID_ARGUMENT, _PERMISSION_DENIED, _UNIMPLEMENTED = 3, 7, 12

_Int: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Some: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Refused(Exception):
    """The relay does not pass this on; `code` is gRPC's, as in etcd's own errors."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a call may say."""


class Range(_Body, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""
    limit: Annotated[int, msgspec.Meta(ge=0, le=MOST_KEYS)] = 0
    revision: _Int = 0


class Compare(_Body, frozen=True):
    key: bytes
    result: Literal["EQUAL"]
    target: Literal["MOD", "CREATE"]
    mod_revision: _Int | msgspec.UnsetType = msgspec.UNSET
    create_revision: _Int | msgspec.UnsetType = msgspec.UNSET


class Put(_Body, frozen=True):
    key: bytes
    value: bytes = b""
    lease: _Int = 0


class OneKey(_Body, frozen=True):
    key: bytes


class Write(_Body, frozen=True):
    request_put: Put | msgspec.UnsetType = msgspec.UNSET
    request_delete_range: OneKey | msgspec.UnsetType = msgspec.UNSET


class Read(_Body, frozen=True):
    request_range: OneKey


class Txn(_Body, frozen=True):
    compare: Annotated[list[Compare], msgspec.Meta(max_length=MAX_OPS)] = []
    success: Annotated[list[Write], msgspec.Meta(max_length=MAX_OPS)] = []
    failure: Annotated[list[Read], msgspec.Meta(max_length=MAX_OPS)] = []


class WatchCreate(_Body, frozen=True):
    key: bytes
    range_end: bytes = b""
    start_revision: _Int = 0
    progress_notify: bool = False
    fragment: bool = False
    prev_kv: bool = False


class Watch(_Body, frozen=True):
    create_request: WatchCreate


class Grant(_Body, frozen=True):
    TTL: _Int


class LeaseId(_Body, frozen=True):
    ID: _Some


class Status(_Body, frozen=True):
    pass


Body: TypeAlias = Range | Txn | Watch | Grant | LeaseId | Status

WATCH: Final = "watch"

CALLS: Final[Mapping[str, type[Any]]] = {
    "kv/range": Range,
    "kv/txn": Txn,
    WATCH: Watch,
    "lease/grant": Grant,
    "lease/revoke": LeaseId,
    "lease/keepalive": LeaseId,
    "lease/timetolive": LeaseId,
    "maintenance/status": Status,
}
"""Each call by its path behind `/v3/`, with what it may say."""


class Guard:
    """Of one prefix."""

    def __init__(self, prefix: str) -> None:
        """Guard the keys below `prefix`.

        Raises:
            ValueError: it does not end with `/`, so that it would hold the keys of other prefixes too.
        """
        if not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} must end with a slash")
        self._prefix = prefix.encode()
        self._end = Prefix(prefix).end("")

    def checked(self, call: str, text: bytes) -> Body:
        """What may be passed on.

        Raises:
            Refused: nothing may.
        """
        kind = CALLS.get(call)
        if kind is None:
            raise Refused(404, _UNIMPLEMENTED, f"the relay has no {call!r:.80}")
        if len(text) > MOST_BYTES:
            raise Refused(413, _INVALID_ARGUMENT, f"request is too large: more than {MOST_BYTES} bytes")
        try:
            body: Body = msgspec.json.decode(text, type=kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Refused(400, _INVALID_ARGUMENT, f"the relay does not take this {call}: {error}") from error
        self._check(body)
        return body

    def all_inside(self, keys: list[bytes]) -> bool:
        """Whether all keys of a lease are the swarm's; so it is for a lease without keys."""
        return all(key.startswith(self._prefix) for key in keys)

    def _check(self, body: Body) -> None:
        match body:
            case Range(key=key, range_end=end):
                self._span(key, end)
                if end and not body.limit:
                    raise Refused(400, _INVALID_ARGUMENT, f"a range needs a limit of 1 to {MOST_KEYS}")
            case Watch(create_request=create):
                self._span(create.key, create.range_end)
            case Txn():
                for key in _keys(body):
                    self._inside(key)
            case Grant() | LeaseId() | Status():
                pass

    def _inside(self, key: bytes) -> None:
        if not key.startswith(self._prefix):
            raise Refused(403, _PERMISSION_DENIED, "permission denied: a key outside the swarm's prefix")

    def _span(self, key: bytes, end: bytes) -> None:
        """A range that begins inside must end inside; etcd's NUL for "to the very end" sorts before every key."""
        self._inside(key)
        if end and not key < end <= self._end:
            raise Refused(403, _PERMISSION_DENIED, "permission denied: a range that leaves the swarm's prefix")


def _keys(txn: Txn) -> Iterator[bytes]:
    for compare in txn.compare:
        yield compare.key
    for write in txn.success:
        parts = [part for part in (write.request_put, write.request_delete_range) if part is not msgspec.UNSET]
        if len(parts) != 1:
            raise Refused(400, _INVALID_ARGUMENT, "each write is one put or one delete")
        yield parts[0].key
    for read in txn.failure:
        yield read.request_range.key
