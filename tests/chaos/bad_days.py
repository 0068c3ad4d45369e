"""A seeded plan for `FaultProxy` in front of an API server or of etcd: each kind of fault at a steady rate."""

import random
from collections.abc import Callable, Iterator

import msgspec

from tests.chaos.proxy import Answered, Call, Cut, Fault, Late, Lost, kind_of

_EXPIRED = "The resourceVersion for the provided watch is too old."


Kinds = Callable[[Call, random.Random], Iterator[Fault]]
"""What can happen to a request."""


class BadDays:
    """A plan. Every kind that a request can meet is drawn at `rate`, so that many requests meet some.

    The first request that can meet a kind does: a run that happened to be spared one would show less.
    """

    def __init__(self, kinds: Kinds, seed: int, rate: float) -> None:
        self._kinds = kinds
        self._random = random.Random(seed)
        self._rate = rate
        self._met: set[str] = set()

    def __call__(self, call: Call) -> Fault | None:
        return next((fault for fault in self._possible(call) if self._is_drawn(kind_of(fault))), None)

    def _is_drawn(self, kind: str) -> bool:
        drawn = kind not in self._met or self._random.random() < self._rate
        self._met |= {kind} if drawn else set()
        return drawn

    def _possible(self, call: Call) -> list[Fault]:
        """Each kind that can happen to the request, in an order drawn anew, so that none hides behind another."""
        kinds = list(self._kinds(call, self._random))
        self._random.shuffle(kinds)
        return kinds


def of_api_server(call: Call, chance: random.Random) -> Iterator[Fault]:
    yield _busy()
    yield _status(500, "InternalError", "etcdserver: leader changed")
    yield _status(504, "Timeout", "request did not complete within the allotted timeout")
    if call.is_watch:
        yield _status(410, "Expired", _EXPIRED)
        yield Cut(chance.randrange(20))
        gone = {"type": "ERROR", "object": _document(410, "Expired", _EXPIRED)}
        yield Cut(chance.randrange(20), msgspec.json.encode(gone) + b"\n")
        return
    yield Lost()
    yield Late(chance.uniform(0.1, 3.0))
    if call.method == "GET" and call.object.count("/") == 0:
        yield _status(410, "Expired", "The provided continue parameter is too old")
    if call.method in {"PATCH", "PUT", "DELETE"}:
        message = "the object has been modified; please apply your changes to the latest version"
        yield _status(409, "Conflict", message)
    if call.method != "GET":
        yield _status(410, "Gone", "the server has no longer what was asked for")
        yield _status(504, "Timeout", "request did not complete within the allotted timeout", after=True)


def of_etcd(call: Call, chance: random.Random) -> Iterator[Fault]:
    """What a client of the gateway meets when members come and go, in the gateway's own words."""
    yield _refusal(14, "etcdserver: no leader")
    if call.is_watch:
        yield Cut(chance.randrange(20))
        return
    yield _refusal(14, "etcdserver: leader changed", after=True)
    yield _refusal(14, "etcdserver: request timed out", after=True)
    yield _refusal(8, "etcdserver: too many requests")
    yield Lost()
    yield Late(chance.uniform(0.1, 3.0))


def _refusal(code: int, message: str, *, after: bool = False) -> Answered:
    body = msgspec.json.encode({"code": code, "message": message, "details": []})
    status = {8: 429, 14: 503}[code]
    return Answered(status, body, (("Content-Type", "application/json"),), after)


def _busy() -> Answered:
    return _status(429, "TooManyRequests", "too many requests", ("Retry-After", "1"))


def _status(code: int, reason: str, message: str, *headers: tuple[str, str], after: bool = False) -> Answered:
    body = msgspec.json.encode(_document(code, reason, message))
    return Answered(code, body, (("Content-Type", "application/json"), *headers), after)


def _document(code: int, reason: str, message: str) -> dict[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
