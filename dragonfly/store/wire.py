"""The JSON of etcd's gateway: requests built, answers taken apart. Pure; the one place that knows the prefix's bytes.

The gateway sends int64 as strings, leaves zero fields out, and encodes bytes as base64. msgspec does all three while it
decodes (`strict=False` reads numbers from strings), in C, straight into these structs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from dragonfly.store.errors import TooLarge
from dragonfly.store.faults import GatewayError
from dragonfly.store.values import Absent, Change, Claimed, Condition, Delete, Item, Put, Unchanged, Write

MAX_OPS: Final = 128  # etcd's --max-txn-ops as it comes; counted for compares, successes and failures apart
MAX_BYTES: Final = 1_572_864  # etcd's --max-request-bytes as it comes
_OVERHEAD: Final = 48  # upper bound of protobuf's framing of one operation

Request = dict[str, Any]


class Header(msgspec.Struct):
    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


class Answer(msgspec.Struct):
    header: Header = msgspec.field(default_factory=Header)


class KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class RangeAnswer(Answer):
    kvs: list[KeyValue] = []
    more: bool = False


class Operation(msgspec.Struct):
    response_range: RangeAnswer = msgspec.field(default_factory=RangeAnswer)


class TxnAnswer(Answer):
    succeeded: bool = False
    responses: list[Operation] = []


class GrantAnswer(Answer):
    ID: int = 0
    TTL: int = 0
    error: str = ""


class TimeToLiveAnswer(Answer):
    TTL: int = 0
    grantedTTL: int = 0  # noqa: N815 - the gateway's name


class KeptAlive(Answer):
    TTL: int = 0


class KeepAliveAnswer(msgspec.Struct):
    """The first of a stream of answers, and the only one as the request has one part."""

    result: KeptAlive = msgspec.field(default_factory=KeptAlive)
    error: GatewayError | None = None

    @property
    def header(self) -> Header:
        return self.result.header


class StatusAnswer(Answer):
    version: str = ""
    db_size: int = msgspec.field(default=0, name="dbSize")
    leader: int = 0
    raft_term: int = msgspec.field(default=0, name="raftTerm")
    errors: list[str] = []


class LoginAnswer(Answer):
    token: str = ""


class Event(msgspec.Struct):
    kv: KeyValue
    type: str = "PUT"
    prev_kv: KeyValue | None = None


class WatchResult(Answer):
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: list[Event] = []


class WatchLine(msgspec.Struct):
    result: WatchResult | None = None
    error: GatewayError | None = None


A = TypeVar("A")


def decode(data: bytes, kind: type[A]) -> A:
    """Decode an answer.

    Raises:
        msgspec.MsgspecError: it is something else.
    """
    return msgspec.json.decode(data, type=kind, strict=False)


class Prefix:
    """Turns relative keys into etcd's and back."""

    def __init__(self, prefix: str) -> None:
        self._bytes = prefix.encode()

    def key(self, key: str) -> bytes:
        return self._bytes + key.encode()

    def end(self, prefix: str) -> bytes:
        """The end of a range of all keys that start with `prefix`; a NUL, etcd's "to the very end", if that is all."""
        start = self.key(prefix)
        return start[:-1] + bytes((start[-1] + 1,)) if start else b"\0"

    def relative(self, key: bytes) -> str:
        """The key without the prefix; bytes that are no UTF-8 are shown escaped, as they can't be one of ours."""
        return key[len(self._bytes) :].decode(errors="backslashreplace")

    def item(self, found: KeyValue) -> Item:
        return Item(
            self.relative(found.key),
            found.value,
            found.create_revision,
            found.mod_revision,
            found.version,
            found.lease,
        )

    def change(self, event: Event) -> Change:
        key = self.relative(event.kv.key)
        previous = self.item(event.prev_kv) if event.prev_kv is not None else None
        item = None if event.type == "DELETE" else self.item(event.kv)
        return Change(key, item, event.kv.mod_revision, previous)

    def range(self, prefix: str, *, after: bytes, limit: int, revision: int) -> Request:
        """One page: the keys under `prefix` that come after the key `after` (empty: from the first)."""
        start = after + b"\0" if after else self.key(prefix) or b"\0"
        return {"key": start, "range_end": self.end(prefix), "limit": limit, "revision": revision}

    def read(self, key: str) -> Request:
        return {"key": self.key(key)}

    def watch(self, start: int) -> Request:
        return {
            "create_request": {
                "key": self._bytes or b"\0",
                "range_end": self.end(""),
                "start_revision": start,
                "progress_notify": True,
                "fragment": True,
                "prev_kv": True,
            }
        }

    def transaction(self, writes: Sequence[Write], given: Sequence[Condition]) -> Request:
        """One transaction; its failure branch reads the conditions' keys, so that a conflict tells what is there.

        Raises:
            TooLarge: more than etcd takes.
        """
        if max(len(writes), len(given)) > MAX_OPS:
            raise TooLarge(f"{len(writes)} writes with {len(given)} conditions; at most {MAX_OPS} of each")
        size = sum(map(self._size, writes)) + sum(2 * (len(self.key(c.key)) + _OVERHEAD) for c in given)
        if size > MAX_BYTES:
            raise TooLarge(f"{size} bytes; at most {MAX_BYTES}")
        return {
            "compare": [self._compare(condition) for condition in given],
            "success": [self._operation(write) for write in writes],
            "failure": [{"request_range": self.read(condition.key)} for condition in given],
        }

    def _size(self, write: Write) -> int:
        return len(self.key(write.key)) + _OVERHEAD + (len(write.value) if isinstance(write, Put) else 0)

    def _compare(self, condition: Condition) -> Request:
        key = self.key(condition.key)
        match condition:
            case Unchanged(mod_revision=revision):
                return {"key": key, "result": "EQUAL", "target": "MOD", "mod_revision": revision}
            case Claimed(create_revision=revision):
                return {"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": revision}
            case Absent():
                return {"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": 0}

    def _operation(self, write: Write) -> Request:
        key = self.key(write.key)
        match write:
            case Put(value=value, lease=lease):
                return {"request_put": {"key": key, "value": value, "lease": lease}}
            case Delete():
                return {"request_delete_range": {"key": key}}
