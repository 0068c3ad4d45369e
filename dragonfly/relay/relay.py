"""etcd for replicas that do not reach it: calls of theirs passed on, watches streamed, all behind the guard.

Stateless, so that a replica may go through any other one at any time. An etcd call blocks its thread: keepalives have
threads of their own, for a swarm's leases must not wait behind its reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

import msgspec

from dragonfly.relay.guard import CALLS, WATCH, Body, Guard, LeaseId, Refused
from dragonfly.relay.watches import RelayedWatch
from dragonfly.store.errors import Denied, LeaseLost, StoreError
from dragonfly.store.faults import NOT_RELAYED, RELAYED_IN_VAIN, Fault, TokenRefused
from dragonfly.store.forwarding import Errand, Forwarder
from dragonfly.store.gateway import Gateway
from dragonfly.store.replica_tokens import ReplicaTokens
from dragonfly.telemetry.metrics import RelayMetrics

T = TypeVar("T")

MOST_CALLS: Final = 64
"""Under way at once, of all replicas that go through this one; the next is refused, and tries elsewhere."""

MOST_WATCHES: Final = 32

_LEASE_TIMEOUT: Final = 0.5
"""Seconds; what a keepalive has at a TTL of 2 s."""

_UNAVAILABLE, _UNAUTHENTICATED, _RESOURCE_EXHAUSTED = 14, 16, 8

_SILENCE_FACTOR: Final = 3
"""A watch that is silent is given up by who reads it; this is for one that nobody reads any more."""


class Reply(NamedTuple):
    """What the other replica gets."""

    status: int
    content: bytes


class Relay:
    """Of one replica."""

    def __init__(
        self,
        gateway: Gateway,
        tokens: ReplicaTokens | None,
        *,
        away: Callable[[], Exception | None],
        metrics: RelayMetrics,
    ) -> None:
        """Connect to nothing yet.

        Args:
            gateway: the replica's own.
            tokens: those that replicas show; without, nothing is relayed.
            away: why etcd does not answer this replica, so that nobody waits to find that out; None while it does.
            metrics: counts the calls.
        """
        self._guard = Guard(gateway.settings.prefix)
        self._shared = gateway.shared
        self._silence = gateway.settings.silence * _SILENCE_FACTOR
        self._tokens = tokens
        self._away = away
        self._metrics = metrics
        self._direct = not any(endpoint.relay for endpoint in gateway.endpoints)
        self._calls = Forwarder(self._shared, timeout=4.0, attempt_timeout=1.0)
        self._leases = Forwarder(self._shared, timeout=_LEASE_TIMEOUT, attempt_timeout=_LEASE_TIMEOUT)
        self._call_pool = ThreadPoolExecutor(8, "relay-call")
        self._lease_pool = ThreadPoolExecutor(4, "relay-lease")
        self._under_way = 0
        self._watches: set[RelayedWatch] = set()
        self._closed = False

    def admits(self, token: str) -> Reply | None:
        """None for a replica of this swarm, or what anybody else gets."""
        if self._tokens is None:
            return _not_relayed("it has no replica token")
        try:
            if self._tokens.accepts(token):
                return None
        except Denied as error:
            return _not_relayed(str(error))
        self._metrics.calls.labels("none", "unauthenticated").inc()
        return _error(401, _UNAUTHENTICATED, "the replica token is not valid here")

    async def call(self, name: str, text: bytes) -> Reply:
        """Pass one call on; what goes wrong is in the reply."""
        try:
            reply = await self._passed_on(name, text)
        except Exception as error:
            reply = reply_of(error)
        self.count(name, reply)
        return reply

    def watch(self, text: bytes) -> RelayedWatch:
        """Begin a watch; the caller closes it.

        Raises:
            Refused, Fault: it can't be, see `reply_of`.
        """
        body = self._checked(WATCH, text)
        if len(self._watches) >= MOST_WATCHES:
            raise Refused(429, _RESOURCE_EXHAUSTED, f"too many requests: {MOST_WATCHES} watches go through here")
        watch = RelayedWatch(Forwarder(self._shared), body, self._silence, ended=self._ended)
        self._watches.add(watch)
        self._metrics.watches.inc()
        watch.start()
        return watch

    async def close(self) -> None:
        """End all watches and refuse everything; whoever came through here goes on elsewhere."""
        self._closed = True
        watches = tuple(self._watches)
        for watch in watches:
            watch.close()
        self._calls.close()
        self._leases.close()
        await asyncio.gather(*(watch.join() for watch in watches))
        for pool in (self._call_pool, self._lease_pool):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    async def _passed_on(self, name: str, text: bytes) -> Reply:
        if name == WATCH:
            raise Refused(404, 12, "a watch is a stream")
        body = self._checked(name, text)
        if self._under_way >= MOST_CALLS:
            raise Refused(429, _RESOURCE_EXHAUSTED, f"too many requests: {MOST_CALLS} calls are under way")
        self._under_way += 1
        try:
            if name.startswith("lease/"):
                return await self._in(self._lease_pool, lambda: self._lease_call(name, body))
            return await self._in(self._call_pool, lambda: self._plain(name, body))
        finally:
            self._under_way -= 1

    def _checked(self, name: str, text: bytes) -> Body:
        if self._closed:
            raise Fault("it is shutting down", unsent=True)
        if not self._direct:
            raise Fault("it goes through a relay itself", unsent=True)
        if (away := self._away()) is not None:
            raise Fault(str(away), unsent=True)
        return self._guard.checked(name, text)

    def _plain(self, name: str, body: Body) -> Reply:
        errand = Errand(
            name,
            body,
            write=name == "kv/txn",
            linearizable=name.startswith("kv/"),
            leader=name != "maintenance/status",  # a member that lost its leader can still say so
        )
        found = self._calls.forward(errand)
        return Reply(found.status_code, found.content)

    def _lease_call(self, name: str, body: Body) -> Reply:
        if isinstance(body, LeaseId) and name != "lease/timetolive":
            self._check_lease(body.ID)
        found = self._leases.forward(Errand(name, body))
        return Reply(found.status_code, found.content)

    def _check_lease(self, lease: int) -> None:
        """Leave alone a lease with a key of somebody else's, as those of Kubernetes in a shared etcd.

        One that holds no key yet is anybody's; its id is a random number of 63 bits that nothing here tells.
        """
        try:
            keys = self._leases.keys_of(lease)
        except LeaseLost:
            return  # etcd says it in its own words
        if not self._guard.all_inside(keys):
            raise Refused(403, 7, "permission denied: a lease with keys outside the swarm's prefix")

    def _ended(self, watch: RelayedWatch) -> None:
        self._watches.discard(watch)
        self._metrics.watches.dec()

    async def _in(self, pool: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def count(self, name: str, reply: Reply) -> None:
        """Tell in the metrics what came of a call."""
        self._metrics.calls.labels(name if name in CALLS else "none", _result(reply.status)).inc()


def _result(status: int) -> str:
    if status == 200:
        return "ok"
    if status in {401, 403, 404, 413}:
        return "refused"
    return "unavailable" if status in {429, 503} else "error"


def reply_of(error: Exception) -> Reply:
    """What the other replica is told of an error; one that is a bug is raised again."""
    match error:
        case Refused():
            return _error(error.status, error.code, str(error))
        case Fault() if error.unsent:
            return _not_relayed(error.reason)
        case Fault() | StoreError() | TokenRefused():
            return _error(503, _UNAVAILABLE, f"{RELAYED_IN_VAIN}: {error}")
        case _:
            raise error


def _not_relayed(reason: str) -> Reply:
    return _error(503, _UNAVAILABLE, f"{NOT_RELAYED}: {reason}")


def _error(status: int, code: int, message: str) -> Reply:
    """An error in the form of etcd's own."""
    return Reply(status, msgspec.json.encode({"code": code, "message": message}))
