"""Errors as RFC 9457 problem documents. The one place that turns what the layers below raise into HTTP.

The types are part of the API: programs may act on them, so they do not change. `PROBLEMS` has them all.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
import structlog
from starlette.responses import Response

from dragonfly.intent import refusals
from dragonfly.intent.documents import Malformed
from dragonfly.model.values import FieldError, Invalid, Value
from dragonfly.store import errors as store_errors

_log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_SECONDS: Final = "2"


class Kind(NamedTuple):
    """One type of problem."""

    status: int
    title: str


PROBLEMS: Final[Mapping[str, Kind]] = {
    "malformed": Kind(400, "The request cannot be read"),
    "unauthenticated": Kind(401, "A valid token is needed"),
    "not-found": Kind(404, "Not found"),
    "method-not-allowed": Kind(405, "The resource has no such method"),
    "already-exists": Kind(409, "The name is taken"),
    "mac-in-use": Kind(409, "A MAC belongs to another machine"),
    "machine-locked": Kind(409, "The machine is locked"),
    "machine-deleting": Kind(409, "The machine is being deleted"),
    "machine-moving": Kind(409, "The machine is being moved"),
    "machine-maintenance": Kind(409, "The machine is in maintenance"),
    "cluster-in-use": Kind(409, "The cluster has machines"),
    "cluster-registered": Kind(409, "Another cluster leads there already"),
    "cluster-own": Kind(409, "The cluster is the replicas' own"),
    "cluster-closed": Kind(409, "The cluster is being removed"),
    "cluster-unreachable": Kind(409, "No replica reaches the cluster"),
    "provision-active": Kind(409, "The machine is being provisioned"),
    "power-busy": Kind(409, "The machine has a power action under way"),
    "not-provisioning": Kind(409, "The machine is not being provisioned"),
    "provision-ended": Kind(409, "The provision has ended"),
    "position-lost": Kind(410, "The position in the feed cannot be resumed"),
    "revision-mismatch": Kind(412, "The resource has changed"),
    "body-too-large": Kind(413, "The body is too large"),
    "unsupported-media-type": Kind(415, "The media type is not supported"),
    "invalid": Kind(422, "The request breaks rules"),
    "no-bmc": Kind(422, "The machine has no BMC"),
    "unknown-template": Kind(422, "There is no such template"),
    "idempotency-key-reused": Kind(422, "The Idempotency-Key was used for another request"),
    "if-match-required": Kind(428, "If-Match is required"),
    "internal": Kind(500, "Dragonfly has a bug"),
    "unreadable": Kind(500, "A stored value cannot be read"),
    "contended": Kind(503, "Too many changes at once"),
    "store-unavailable": Kind(503, "etcd is unreachable"),
    "store-no-quorum": Kind(503, "etcd has no quorum"),
    "store-behind": Kind(503, "etcd is behind what was seen"),
    "outcome-unknown": Kind(503, "Nobody knows whether the change happened"),
    "store-full": Kind(503, "etcd is full"),
    "store-denied": Kind(503, "etcd refuses this replica"),
    "store-changed": Kind(503, "etcd is not the one that this replica knows"),
    "schema-unknown": Kind(503, "This replica is too old to write"),
    "draining": Kind(503, "The replica is shutting down"),
    "too-many-streams": Kind(503, "The replica has no room for another stream"),
    "not-synced": Kind(503, "The replica is starting"),
    "revision-not-reached": Kind(504, "The revision has not arrived here"),
}

_REFUSALS: Final[Mapping[type[refusals.Refused], str]] = {
    refusals.NotFound: "not-found",
    refusals.AlreadyExists: "already-exists",
    refusals.Changed: "revision-mismatch",
    refusals.ClusterInUse: "cluster-in-use",
    refusals.ClusterRegistered: "cluster-registered",
    refusals.OwnCluster: "cluster-own",
    refusals.ClusterClosed: "cluster-closed",
    refusals.ClusterUnreachable: "cluster-unreachable",
    refusals.MacInUse: "mac-in-use",
    refusals.UnknownTemplate: "unknown-template",
    refusals.MachineLocked: "machine-locked",
    refusals.MachineDeleting: "machine-deleting",
    refusals.MachineMoving: "machine-moving",
    refusals.MachineInMaintenance: "machine-maintenance",
    refusals.ProvisionActive: "provision-active",
    refusals.PowerBusy: "power-busy",
    refusals.NoBmc: "no-bmc",
    refusals.NotProvisioning: "not-provisioning",
    refusals.ProvisionEnded: "provision-ended",
    refusals.KeyReused: "idempotency-key-reused",
    refusals.Contended: "contended",
    refusals.Unreadable: "unreadable",
}


class ProblemDocument(Value, frozen=True, kw_only=True):
    """An error as RFC 9457 has it, with the request's id and, where fields are to blame, each of them."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: tuple[FieldError, ...] = ()
    current_revision: int | None = None
    """With `/problems/revision-mismatch`: the revision that the resource has now; with `position-lost`, the feed's."""


class Fault(Exception):
    """A request that fails at the edge already; `kind` is one of `PROBLEMS`."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
        revision: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.revision = revision


def response_of(error: Exception, *, instance: str, request_id: str) -> Response:
    """Return the answer for whatever was raised while a request was handled; what nobody expected is logged."""
    fault = _fault_of(error)
    problem = _document(fault, error, instance, request_id)
    headers = {"Retry-After": _RETRY_SECONDS} if problem.status in {503, 504} else {}
    return Response(msgspec.json.encode(problem), problem.status, headers | fault.headers, MEDIA_TYPE)


def document_of(error: Exception, *, instance: str, request_id: str) -> ProblemDocument:
    """As `response_of`, for one of several things that a request asked for."""
    return _document(_fault_of(error), error, instance, request_id)


def _document(fault: Fault, error: Exception, instance: str, request_id: str) -> ProblemDocument:
    if fault.kind == "internal":
        _log.error("http.bug", request=request_id, path=instance, exc_info=error)
    kind = PROBLEMS[fault.kind]
    return ProblemDocument(
        type=f"/problems/{fault.kind}",
        title=kind.title,
        status=kind.status,
        detail=fault.detail,
        instance=instance,
        request_id=request_id,
        errors=fault.errors,
        current_revision=fault.revision,
    )


def _fault_of(error: Exception) -> Fault:
    match error:
        case Fault():
            return error
        case Malformed():
            return Fault("malformed", str(error))
        case Invalid():
            return Fault("invalid", _sentence(error.errors), errors=error.errors)
        case refusals.Changed():
            return Fault(_REFUSALS[type(error)], str(error), revision=error.revision)
        case refusals.Refused():
            return Fault(_REFUSALS[type(error)], str(error), errors=error.errors)
        case store_errors.StoreError():
            return _store_fault(error)
        case _:
            return Fault("internal", "This should not have happened. The replica's log has more under the request id.")


def _store_fault(error: store_errors.StoreError) -> Fault:
    match error:
        case store_errors.Unavailable(maybe_written=True):
            detail = (
                "etcd's answer was lost, so the change may have happened. With an Idempotency-Key repeat the request "
                "as it was: it takes effect once. Without one, read the resource before you repeat it."
            )
            return Fault("outcome-unknown", detail)
        case store_errors.Behind():
            return Fault("store-behind", f"{error}. Nothing was changed. Try again.")
        case store_errors.Unavailable() if "no leader" in str(error):
            detail = "etcd has no leader: too few of its members are left. Nothing was changed. Try again."
            return Fault("store-no-quorum", detail)
        case store_errors.Unavailable():
            return Fault("store-unavailable", "etcd does not answer this replica. Nothing was changed. Try again.")
        case store_errors.NoSpace():
            detail = "etcd's quota is used up. Nothing was changed. Compact and defragment etcd, then disarm its alarm."
            return Fault("store-full", detail)
        case store_errors.TooLarge():
            detail = "The change exceeds what etcd takes in one transaction. Nothing was changed. Split it."
            return Fault("body-too-large", detail)
        case store_errors.Denied():
            return Fault("store-denied", "etcd refuses this replica's credentials. Nothing was changed.")
        case store_errors.OtherEtcd():
            return Fault("store-changed", f"{error} Nothing was changed.")
        case store_errors.SchemaUnknown():
            return Fault("schema-unknown", f"{error}. Nothing was changed.")
        case _:
            return _fault_of(RuntimeError(str(error)))


def _sentence(errors: tuple[FieldError, ...]) -> str:
    return "; ".join(f"{error.field} {error.message}" for error in errors)
