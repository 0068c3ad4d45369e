"""A call of another replica, sent to etcd as it is, and etcd's answer as it comes: what a relay does."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from dragonfly.store.connection import Reply
from dragonfly.store.errors import LeaseLost, StoreError
from dragonfly.store.faults import Fault, TokenRefused, fault_of
from dragonfly.store.gateway import Endpoint, Gateway
from dragonfly.store.wire import A, Answer, Header, KeepAliveAnswer, decode


class Errand(NamedTuple):
    """What is to be sent, and how it is to be taken."""

    path: str
    body: Any
    write: bool = False
    """Whether it must not be sent twice."""
    linearizable: bool = False
    """Whether its answer can't be older than what was seen before."""
    leader: bool = True
    """Whether a member without a leader is to refuse it."""


class _LeaseKeys(Answer):
    TTL: int = 0
    keys: list[bytes] = []


class Forwarder(Gateway):
    """A gateway whose answers are etcd's bytes."""

    def forward(self, errand: Errand) -> Reply:
        """Each endpoint is asked once, in turn, until one answers; etcd's errors are answers too.

        Raises:
            Fault: none answered; with `unsent` the errand provably had no effect.
            StoreError: this process must not or may not ask.
        """
        for left in reversed(range(len(self.endpoints))):
            try:
                return self._once(errand)
            except Fault as error:
                if not left or (errand.write and not error.unsent):
                    raise
        raise AssertionError("there is at least one endpoint")

    def keys_of(self, lease: int) -> list[bytes]:
        """The keys on a lease, whoever's they are.

        Raises:
            LeaseLost: there is no such lease.
            Fault, StoreError: as `forward`, and etcd's own errors.
        """
        reply = self.forward(Errand("lease/timetolive", {"ID": lease, "keys": True}))
        if reply.status_code != 200:
            raise fault_of(reply.content, reply.reason)
        found = _decoded(reply.content, _LeaseKeys)
        if found.TTL < 0:
            raise LeaseLost(f"lease {lease:x} is gone")
        return found.keys

    def _once(self, errand: Errand) -> Reply:
        now = self.clock()
        endpoint = self._endpoints.pick(now)
        deadline = now + (self._timeout if errand.write else self._attempt_timeout)
        try:
            floor = self._shared.seen.floor(endpoint.url)
            reply = self._reply(endpoint, errand, deadline)
            if reply.status_code == 200 and errand.linearizable:
                self._shared.seen.admit(endpoint.url, _decoded(reply.content, Answer).header, floor)
            elif reply.status_code == 200 and (header := _header_of(reply.content)).cluster_id:
                self._shared.seen.same_cluster(endpoint.url, header)
        except Fault:
            self._endpoints.failed(endpoint, self.clock())
            raise
        return reply

    def _reply(self, endpoint: Endpoint, errand: Errand, deadline: float) -> Reply:
        token = self._token(endpoint, deadline)
        try:
            return self._sent(endpoint, errand, deadline, token)
        except TokenRefused:
            token = self._renew(endpoint, token, deadline)
        try:
            return self._sent(endpoint, errand, deadline, token)
        except TokenRefused as error:
            raise Fault(f"etcd refuses a fresh token: {error}", unsent=True) from error

    def _sent(self, endpoint: Endpoint, errand: Errand, deadline: float, token: str) -> Reply:
        url = self._url(endpoint, errand.path)
        reply = endpoint.session.post(url, json=errand.body, deadline=deadline, token=token, leader=errand.leader)
        if reply.status_code != 200:
            error = fault_of(reply.content, reply.reason)
            if not isinstance(error, StoreError):
                raise error
        return reply


def _header_of(content: bytes) -> Header:
    """The header of a plain answer, or of the only one in a stream's; one of zeros if that is an error."""
    wrapped: Header = _decoded(content, KeepAliveAnswer).header
    return wrapped if wrapped.cluster_id else _decoded(content, Answer).header


def _decoded(content: bytes, kind: type[A]) -> A:
    try:
        return decode(content, kind)
    except msgspec.MsgspecError as error:
        raise Fault(f"unreadable answer: {error}") from error
