"""What one endpoint's refusal means: etcd's error messages turned into types.

Pure. Two families: a `StoreError` is the answer, whichever endpoint is asked; a `Fault` concerns this endpoint at this
moment, so another one may do better. `Fault.unsent` says that the request provably had no effect.

The message decides before the code: etcd mislabels some errors (a keepalive that met a lost leader is "not a primary
lessor" with the code Unknown, https://github.com/etcd-io/etcd/issues/21671), and HTTP statuses differ between versions
of the gateway. The messages are those of etcd's api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

import msgspec

from dragonfly.store.errors import (
    Compacted,
    Denied,
    FutureRevision,
    LeaseLost,
    NoSpace,
    Rejected,
    StoreError,
    TooLarge,
)


class Fault(Exception):
    """This endpoint did not do it; another may."""

    def __init__(self, reason: str, *, unsent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unsent = unsent


class StaleFault(Fault):
    """This endpoint's answer is older than what was seen already."""


class TokenRefused(Exception):
    """The token is expired or unknown to this endpoint (it was started again); nothing was done.

    On the way through an API server: it does not know the credentials of the kubeconfig, or no more.
    """


class GatewayError(msgspec.Struct, frozen=True):
    """The gateway's error object; `grpc_code` is how gateways before etcd 3.6 name the code inside a stream."""

    code: int = 0
    grpc_code: int = 0
    message: str = ""


class _Refusal(GatewayError, frozen=True):
    """The body of a failed call. What answers with a stream (a keepalive, a watch) wraps its error up."""

    error: GatewayError | str = ""
    kind: str = ""
    """`Status`: an API server on the way refused it; the code is HTTP's."""


NOT_RELAYED = "the relay did not ask etcd"
RELAYED_IN_VAIN = "the relay got no answer of etcd's"
"""How a relay begins (`dragonfly.relay`) to say that a request had no effect, or that nobody knows; why comes after."""

_INVALID_ARGUMENT, _NOT_FOUND, _PERMISSION_DENIED, _FAILED_PRECONDITION = 3, 5, 7, 9
_OUT_OF_RANGE, _UNIMPLEMENTED, _UNAUTHENTICATED = 11, 12, 16

_ANSWERS: dict[str, type[StoreError]] = {
    "mvcc: required revision has been compacted": Compacted,
    "mvcc: required revision is a future revision": FutureRevision,
    "requested lease not found": LeaseLost,
    "mvcc: database space exceeded": NoSpace,
    "permission denied": Denied,
    "authentication failed, invalid user ID or password": Denied,
    "user name is empty": Denied,
    "user name not found": Denied,
    "request is too large": TooLarge,
    "too many operations in txn request": TooLarge,
    "duplicate key given in txn request": Rejected,
    "key is not provided": Rejected,
    "too large lease TTL": Rejected,
}
_TOKEN = ("invalid auth token", "revision of auth store is old")
# Refused before anything is proposed to raft: v3_server.go, processInternalRaftRequestOnce, and v3rpc/interceptor.go,
# where "no leader" comes from because each call asks for that check by its header.
_UNSENT = ("no leader", "too many requests", "rpc not supported for learner", "not capable")
_HTTP_UNAUTHORIZED, _HTTP_FORBIDDEN, _HTTP_REFUSED = 401, 403, (404, 429)
# Of a service proxy: there was nobody to pass it on to, or nobody who took the connection.
_NOT_PASSED_ON = ("no endpoints available", "no service port", "error trying to reach service: dial ")
_BY_CODE: dict[int, type[StoreError]] = {
    _INVALID_ARGUMENT: Rejected,
    _NOT_FOUND: Rejected,
    _PERMISSION_DENIED: Denied,
    _FAILED_PRECONDITION: Rejected,
    _OUT_OF_RANGE: Rejected,
    _UNIMPLEMENTED: Rejected,
    _UNAUTHENTICATED: Denied,
}


def fault_of(text: bytes | str, status: str = "") -> Exception:
    """What the body of a failed call means; `status` ("502 Bad Gateway") is told if the body is none of etcd's."""
    try:
        refusal = msgspec.json.decode(text, type=_Refusal)
    except msgspec.MsgspecError:
        refusal = _Refusal()
    if refusal.kind == "Status":
        return _api_servers(refusal.code, refusal.message)
    error = refusal.error if isinstance(refusal.error, GatewayError) else refusal
    if not (error.message or error.code or error.grpc_code):  # a load balancer's, say
        return Fault(f"no answer of etcd's but {status or 'unreadable bytes'}")
    return fault(error)


def _api_servers(status: int, message: str) -> Exception:
    """What an API server's refusal to pass a call on means (`Status`, as of Kubernetes 1.36)."""
    said = f"the API server: {message or status}"
    if status == _HTTP_UNAUTHORIZED:
        return TokenRefused(said)
    if status == _HTTP_FORBIDDEN:
        return Denied(said)
    is_refused = status in _HTTP_REFUSED or any(words in message for words in _NOT_PASSED_ON)
    return Fault(said, unsent=is_refused)


def fault(error: GatewayError) -> Exception:
    """What etcd's error means: a `StoreError`, a `Fault` or `TokenRefused`."""
    message = error.message.removeprefix("etcdserver: ")
    code = error.code or error.grpc_code
    if message.startswith((NOT_RELAYED, RELAYED_IN_VAIN)):
        return Fault(message, unsent=message.startswith(NOT_RELAYED))
    if any(said in message for said in _TOKEN):
        return TokenRefused(message)
    for said, answer in _ANSWERS.items():
        if said in message:
            return Compacted() if answer is Compacted else answer(message)
    if any(said in message for said in _UNSENT):
        return Fault(message, unsent=True)
    if code in _BY_CODE:
        return _BY_CODE[code](f"{message or 'no reason given'} (code {code})")
    return Fault(message or f"code {code}")
