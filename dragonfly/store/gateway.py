"""etcd through its JSON gateway, synchronous: each call on the endpoint that works, with failover, deadline and login.

`EtcdStore` runs it in a pool, the watch and the lease have one each with connections of their own (`sibling`). What may
be repeated: reads, and what changes nothing by being done twice. A transaction is sent again only if it provably had no
effect; if its answer was lost, the caller is told so.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, cast

import msgspec
import tenacity
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception

from dragonfly.settings import is_relay
from dragonfly.store.credentials import Credentials
from dragonfly.store.endpoints import Endpoints
from dragonfly.store.errors import Behind, Compacted, Conflict, Denied, LeaseLost, Rejected, StoreError, Unavailable
from dragonfly.store.faults import Fault, StaleFault, TokenRefused, fault, fault_of
from dragonfly.store.replica_tokens import HEADER, ReplicaTokens
from dragonfly.store.seen import Seen
from dragonfly.store.session import Session
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.tls import Tls, tls
from dragonfly.store.values import Condition, Grant, Item, MemberStatus, Remaining, Snapshot, Write
from dragonfly.store.ways import Straight, Way
from dragonfly.store.wire import (
    A,
    Answer,
    GrantAnswer,
    KeepAliveAnswer,
    LoginAnswer,
    Prefix,
    RangeAnswer,
    Request,
    StatusAnswer,
    TimeToLiveAnswer,
    TxnAnswer,
)

_RANGE_TRIES = 3  # a range that takes longer than the swarm's compaction interval, thrice, is a wrong setting

# No try begins in the last part of a call's time: a write that was refused so far would end as a "maybe".
_LEAST = 0.2


class Shared(msgspec.Struct, frozen=True, eq=False):
    """What all connections of a process to one etcd have in common."""

    settings: EtcdSettings
    seen: Seen
    credentials: Credentials
    tls: Tls | None
    clock: Callable[[], float]
    jitter: Callable[[], float]
    tokens: ReplicaTokens | None = None
    way: Way | None = None
    """To the one endpoint, where that takes more than its URL."""

    def introduce(self) -> Mapping[str, str]:
        """The header that a relay wants.

        Raises:
            Denied: there is no replica token.
        """
        if self.tokens is None:
            raise Denied("a relay wants a replica token: set DRAGONFLY_REPLICA_TOKEN_FILE")
        return {HEADER: self.tokens.shown()}


class Endpoint:
    """One endpoint: etcd3gw over a session of ours."""

    def __init__(self, url: str, shared: Shared, attempt_timeout: float) -> None:
        self.url = url
        self.relay = is_relay(url)
        way = shared.way or Straight(url, shared.tls)
        leg = way.leg()
        self.session = Session(
            way,
            connect_timeout=min(shared.settings.connect_timeout, attempt_timeout),
            timeout=attempt_timeout,
            clock=shared.clock,
            headers=shared.introduce if self.relay else dict,
        )
        self.client = Etcd3Client(
            host=leg.host,
            port=leg.port,
            protocol="https" if leg.secure else "http",
            # Found by etcd3gw at the first call, then kept: "/v3/" for etcd >= 3.4, and that is what a relay speaks.
            api_path="/v3/" if self.relay else None,
            session=cast("Any", self.session),  # it asks for one of requests, and uses what ours has
        )


class _Call(msgspec.Struct, frozen=True):
    path: str
    body: Request
    answer: type[Any]
    deadline: float
    write: bool
    linearizable: bool


class Gateway:
    """Safe to use from several threads."""

    def __init__(self, shared: Shared, *, timeout: float | None = None, attempt_timeout: float | None = None) -> None:
        """Connect to nothing yet; times (seconds) other than those of the settings are for calls that can't wait.

        Raises:
            ValueError: no endpoints.
        """
        settings = shared.settings
        self._shared = shared
        self._timeout = timeout or settings.timeout
        self._attempt_timeout = attempt_timeout or settings.attempt_timeout
        self._prefix = Prefix(settings.prefix)
        self._endpoints = Endpoints(
            tuple(Endpoint(url, shared, self._attempt_timeout) for url in settings.endpoints),
            quarantine=settings.quarantine,
        )
        self._closed = threading.Event()
        self._repeat = self._retrying(lambda error: isinstance(error, Fault))
        self._repeat_unsent = self._retrying(lambda error: isinstance(error, Fault) and error.unsent)

    @classmethod
    def open(
        cls,
        settings: EtcdSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        way: Way | None = None,
    ) -> Self:
        """The first gateway of a process; others are its siblings.

        Args:
            settings: where etcd is, and how long we wait.
            clock: monotonic seconds.
            jitter: a random number below 1.
            way: how the endpoint is reached, if its URL does not say it all; there is one endpoint then.

        Raises:
            OSError: a certificate file can't be read.
        """
        credentials = Credentials(settings.username, settings.password_file)
        tokens = ReplicaTokens(settings.replica_token_file) if settings.replica_token_file else None
        found = tls(settings) if way is None else None
        return cls(Shared(settings, Seen(), credentials, found, clock, jitter, tokens, way))

    def sibling(self, *, timeout: float | None = None, attempt_timeout: float | None = None) -> Gateway:
        """Another gateway to the same etcd with connections of its own, that knows what this one has seen."""
        return Gateway(self._shared, timeout=timeout, attempt_timeout=attempt_timeout)

    @property
    def shared(self) -> Shared:
        """What siblings have in common."""
        return self._shared

    @property
    def settings(self) -> EtcdSettings:
        return self._shared.settings

    @property
    def clock(self) -> Callable[[], float]:
        return self._shared.clock

    @property
    def cluster_id(self) -> int:
        """Which etcd this is; 0 until one has answered."""
        return self._shared.seen.cluster_id

    @property
    def prefix(self) -> Prefix:
        return self._prefix

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self._endpoints.all

    def close(self) -> None:
        """Break off what is in flight; later calls raise `Unavailable`."""
        self._closed.set()
        for endpoint in self._endpoints.all:
            endpoint.session.close()

    def commit(self, writes: Sequence[Write], given: Sequence[Condition]) -> int:
        answer = self._call("kv/txn", self._prefix.transaction(writes, given), TxnAnswer, write=True)
        if answer.succeeded:
            return answer.header.revision
        found = (operation.response_range.kvs for operation in answer.responses)
        current = tuple(self._prefix.item(kvs[0]) if kvs else None for kvs in found)
        raise Conflict(current, answer.header.revision)

    def read(self, key: str) -> tuple[Item | None, int]:
        answer = self._call("kv/range", self._prefix.read(key), RangeAnswer)
        return (self._prefix.item(answer.kvs[0]) if answer.kvs else None), answer.header.revision

    def range(self, prefix: str, revision: int) -> Snapshot:
        for _ in range(_RANGE_TRIES - 1):
            try:
                return self._pages(prefix, revision)
            except Compacted:
                if revision:
                    raise
        return self._pages(prefix, revision)

    def grant(self, ttl: int) -> Grant:
        answer = self._call("lease/grant", {"TTL": ttl}, GrantAnswer, linearizable=False)
        if answer.error:
            raise Rejected(answer.error)
        return Grant(answer.ID, answer.TTL)

    def revoke(self, lease: int) -> None:
        with contextlib.suppress(LeaseLost):
            self._call("lease/revoke", {"ID": lease}, Answer, linearizable=False)

    def keep_alive(self, lease: int) -> int:
        answer = self._call("lease/keepalive", {"ID": lease}, KeepAliveAnswer, linearizable=False)
        if answer.result.TTL <= 0:
            raise LeaseLost(f"lease {lease:x} is gone")
        return answer.result.TTL

    def time_to_live(self, lease: int) -> Remaining:
        answer = self._call("lease/timetolive", {"ID": lease}, TimeToLiveAnswer, linearizable=False)
        if answer.TTL < 0:
            raise LeaseLost(f"lease {lease:x} is gone")
        return Remaining(answer.TTL, answer.grantedTTL)

    def compact(self, revision: int) -> None:
        with contextlib.suppress(Compacted):
            self._call("kv/compaction", {"revision": revision}, Answer, linearizable=False)

    def status(self, endpoint: Endpoint) -> MemberStatus:
        """How one endpoint is; never raises a `StoreError`."""
        deadline = self.clock() + self._attempt_timeout
        call = _Call("maintenance/status", {}, StatusAnswer, deadline, write=False, linearizable=False)
        try:
            answer: StatusAnswer = self._ask(endpoint, call, deadline)
        except (StoreError, Fault, TokenRefused) as error:
            return MemberStatus(endpoint.url, reachable=False, error=str(error))
        return MemberStatus(
            endpoint.url,
            reachable=True,
            member_id=answer.header.member_id,
            version=answer.version,
            revision=answer.header.revision,
            raft_term=answer.raft_term,
            db_size=answer.db_size,
            leader=answer.leader == answer.header.member_id,
            leader_id=answer.leader,
            error="; ".join(answer.errors),
        )

    @contextlib.contextmanager
    def stream(self, path: str, body: Request, silence: float) -> Iterator[tuple[Endpoint, Iterator[bytes]]]:
        """The lines of an endless answer, on a connection of its own to the endpoint whose turn it is.

        Raises:
            Fault: the stream can't be had, or broke, or was silent for `silence` seconds; the next call takes another
                endpoint.
            StoreError: etcd's answer is an error.
        """
        endpoint = self._endpoints.pick(self.clock())
        deadline = self.clock() + self._attempt_timeout
        try:
            self._shared.seen.floor(endpoint.url)
            url = self._url(endpoint, path)
            token = self._token(endpoint, deadline)
            try:
                with endpoint.session.stream(url, json=body, deadline=deadline, silence=silence, token=token) as lines:
                    yield endpoint, lines
            except TokenRefused as error:
                self._renew(endpoint, token, self.clock() + self._attempt_timeout)
                raise Fault(f"the token had expired: {error}") from error
        except Fault:
            self._endpoints.failed(endpoint, self.clock())
            raise

    def same_cluster(self, endpoint: Endpoint, answer: Answer) -> None:
        """Refuse another etcd.

        Raises:
            OtherEtcd: it is one.
        """
        self._shared.seen.same_cluster(endpoint.url, answer.header)

    def saw(self, revision: int) -> None:
        """Accept no answer that is older than what a watch has brought."""
        self._shared.seen.saw(revision)

    def _pages(self, prefix: str, revision: int) -> Snapshot:
        items: list[Item] = []
        after = b""
        while True:
            body = self._prefix.range(prefix, after=after, limit=self.settings.page, revision=revision)
            answer = self._call("kv/range", body, RangeAnswer)
            revision = revision or answer.header.revision
            items.extend(map(self._prefix.item, answer.kvs))
            if not answer.more:
                return Snapshot(revision, tuple(items))
            after = answer.kvs[-1].key

    def _call(self, path: str, body: Request, answer: type[A], *, write: bool = False, linearizable: bool = True) -> A:
        deadline = self.clock() + self._timeout
        call = _Call(path, body, answer, deadline, write=write, linearizable=linearizable)
        try:
            return cast("A", self._first_or_repeated(call))
        except StaleFault as error:
            raise Behind(error.reason, maybe_written=write and not error.unsent) from error
        except Fault as error:
            raise Unavailable(error.reason, maybe_written=write and not error.unsent) from error
        except TokenRefused as error:
            raise Denied(f"fresh credentials are refused: {error}") from error

    def _first_or_repeated(self, call: _Call) -> Any:
        """Nearly every call succeeds at once, and tenacity's bookkeeping is a third of a call's Python."""
        try:
            return self._attempt(call)
        except Fault as error:
            if (call.write and not error.unsent) or self._too_late(call, 0.0):
                raise
        return (self._repeat_unsent if call.write else self._repeat)(self._attempt, call)

    def _attempt(self, call: _Call) -> Any:
        now = self.clock()
        endpoint = self._endpoints.pick(now)
        deadline = call.deadline if call.write else min(call.deadline, now + self._attempt_timeout)
        try:
            floor = self._shared.seen.floor(endpoint.url)
            answer = self._ask(endpoint, call, deadline)
            if call.linearizable:
                self._shared.seen.admit(endpoint.url, answer.header, floor)
            else:
                self._shared.seen.same_cluster(endpoint.url, answer.header)
        except Fault:
            self._endpoints.failed(endpoint, self.clock())
            raise
        return answer

    def _ask(self, endpoint: Endpoint, call: _Call, deadline: float) -> Any:
        url = self._url(endpoint, call.path)
        token = self._token(endpoint, deadline)
        try:
            return self._post(endpoint, url, call, deadline, token)
        except TokenRefused:
            token = self._renew(endpoint, token, deadline)
            return self._post(endpoint, url, call, deadline, token)

    def _post(self, endpoint: Endpoint, url: str, call: _Call, deadline: float, token: str) -> Any:
        leader = call.answer is not StatusAnswer  # a member that lost its leader can still say so
        try:
            answer = endpoint.client.post(
                url, json=call.body, answer=call.answer, deadline=deadline, token=token, leader=leader
            )
        except Etcd3Exception as error:
            raise fault_of(error.detail_text or "", str(error)) from error
        if isinstance(answer, KeepAliveAnswer) and answer.error is not None:
            raise fault(answer.error)
        return answer

    def _url(self, endpoint: Endpoint, path: str) -> str:
        try:
            return endpoint.client.get_url(path)
        except Fault as error:
            raise Fault(error.reason, unsent=True) from error
        except Etcd3Exception as error:
            raise Fault(f"{endpoint.url} does not tell etcd's version: {error}", unsent=True) from error

    def _token(self, endpoint: Endpoint, deadline: float) -> str:
        if endpoint.relay:  # it logs in itself
            return ""
        return self._shared.credentials.token(lambda name, password: self._login(endpoint, deadline, name, password))

    def _renew(self, endpoint: Endpoint, refused: str, deadline: float) -> str:
        if endpoint.relay:
            endpoint.session.way.renew(deadline - self.clock())
            return ""
        return self._shared.credentials.renewed(
            refused, lambda name, password: self._login(endpoint, deadline, name, password)
        )

    def _login(self, endpoint: Endpoint, deadline: float, name: str, password: str) -> str:
        body = {"name": name, "password": password}
        call = _Call("auth/authenticate", body, LoginAnswer, deadline, write=False, linearizable=False)
        try:
            answer: LoginAnswer = self._post(endpoint, self._url(endpoint, call.path), call, deadline, "")
        except Fault as error:
            raise Fault(f"login: {error.reason}", unsent=True) from error
        return answer.token

    def _retrying(self, repeatable: Callable[[BaseException], bool]) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(repeatable),
            stop=self._is_over,
            wait=self._pause,
            sleep=self._sleep,
            reraise=True,
        )

    def _is_over(self, state: tenacity.RetryCallState) -> bool:
        return self._too_late(state.args[0], state.upcoming_sleep)

    def _too_late(self, call: _Call, pause: float) -> bool:
        """Whether another try, begun after the pause, would have no time: it would only blame an endpoint for that."""
        return self._closed.is_set() or self.clock() + pause >= call.deadline - _LEAST * self._timeout

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """None until each endpoint had its turn, then up to 20 ms, 40 ms, … 0.5 s."""
        rounds = state.attempt_number - len(self._endpoints.all)
        return 0.0 if rounds < 0 else min(0.02 * 2 ** min(rounds, 8), 0.5) * self._shared.jitter()

    def _sleep(self, seconds: float) -> None:
        self._closed.wait(seconds)
