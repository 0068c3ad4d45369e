"""What can go wrong between Dragonfly and a cluster, one type for each thing that a caller can do about it.

The API server's answer is a `Status` object; `from_answer` turns it into one of these. The difference that matters
most is whether a write may have happened: only `Unreachable` and `ServerFailed` leave that open, and they say so in
`maybe_done`; after all others nothing was written.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

UNTRUSTED: Final = "Untrusted"
"""The reason of an Unreachable whose server has another certificate than it must."""
PLUGIN: Final = "Plugin"
"""The reason of a Forbidden where an exec plugin gave no credentials."""
ABSENT: Final = "NoKubeconfig"
"""The reason of an Invalid where no kubeconfig is where one was said to be."""
_LONGEST_REST: Final = 30.0
"""Seconds of Retry-After that are heeded. They hold all calls to the cluster, and no later answer takes that back: one
with 3600, such as a proxy in between may give, would stop the cluster for an hour. API servers themselves ask for 32 s
at most (DroppedRequestsTracker)."""
_DENIED_BY_POLICY: Final = re.compile(r"ValidatingAdmissionPolicy '([^']+)'")
_FORBIDDEN: Final = re.compile(
    r"cannot (?P<verb>\S+) (?:resource \"(?P<resource>[^\"]+)\"|path \"(?P<path>[^\"]+)\")"
    r"(?: in API group \"(?P<group>[^\"]*)\")?"
)
_MANAGER: Final = re.compile(r"conflict with \"([^\"]+)\"")


class KubeError(Exception):
    """A call to a cluster that did not do what was asked.

    Attributes:
        status: HTTP status, 0 where there was none.
        reason: Kubernetes' own word, such as `NotFound`; empty where the server gave none.
        message: for people, as the server wrote it.
        details: `Status.details` as it came: name, kind, causes, retryAfterSeconds.
    """

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.details: Mapping[str, Any] = details or {}

    @property
    def policy(self) -> str:
        """The ValidatingAdmissionPolicy that refused the write (P4 uses one as a fence), or empty."""
        match = _DENIED_BY_POLICY.search(self.message)
        return match[1] if match else ""


class NotFound(KubeError):
    """No such object, namespace or resource type; `details["kind"]` tells which."""


class AlreadyExists(KubeError):
    """An object of this name is there already; read it and compare."""


class FieldConflict(NamedTuple):
    """A field that a server-side apply would have taken from another manager."""

    manager: str
    field: str


class Conflict(KubeError):
    """The object is not what the write was computed from; read again and decide again.

    Either a precondition (uid or resourceVersion) did not hold, or a server-side apply touched other managers' fields:
    then `fields` names them.
    """

    @property
    def fields(self) -> tuple[FieldConflict, ...]:
        causes = self.details.get("causes") or ()
        return tuple(_field_conflict(cause) for cause in causes if cause.get("reason") == "FieldManagerConflict")


class Gone(KubeError):
    """The resourceVersion is no longer in the server's history; list again."""


class Invalid(KubeError):
    """The request itself is wrong; sending it again can't help. `causes` in `details` name fields where known."""


class Forbidden(KubeError):
    """The credentials are refused (401) or may not do this (403).

    Attributes:
        verb, resource: what is missing, as in RBAC rules (`resource` with its group, `workflows.tinkerbell.org`);
            empty where the server did not say.
    """

    @property
    def verb(self) -> str:
        match = _FORBIDDEN.search(self.message)
        return match["verb"] if match else ""

    @property
    def resource(self) -> str:
        match = _FORBIDDEN.search(self.message)
        if not match:
            return ""
        plural = match["resource"] or match["path"]
        return f"{plural}.{match['group']}" if match["group"] else plural


class Throttled(KubeError):
    """The server is busy and did nothing; try again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float, **answer: Any) -> None:
        super().__init__(message, **answer)
        self.retry_after = retry_after


class Unreachable(KubeError):
    """No answer: refused, cut off, silent, or out of time. If `maybe_done`, a write may have happened: read back."""

    def __init__(self, message: str, *, maybe_done: bool, reason: str = "Unreachable") -> None:
        super().__init__(message, reason=reason)
        self.maybe_done = maybe_done


class ServerFailed(KubeError):
    """The server gave up (5xx), perhaps after it had written: `maybe_done` is True for every write. Read back."""

    def __init__(self, message: str, *, maybe_done: bool, **answer: Any) -> None:
        super().__init__(message, **answer)
        self.maybe_done = maybe_done


class _Status(msgspec.Struct, frozen=True):
    """The part of Kubernetes' `Status` that errors are made of."""

    message: str = ""
    reason: str = ""
    details: dict[str, Any] | None = None
    code: int = 0


def from_answer(code: int, body: bytes, *, write: bool, retry_after: str = "") -> KubeError:
    """The error that an HTTP answer of 400 or more stands for.

    Args:
        body: a `Status` as JSON, or whatever a proxy in between has sent.
        write: whether the call could have changed something.
        retry_after: the header of that name: seconds.
    """
    try:
        status = msgspec.json.decode(body, type=_Status)
    except ValueError:  # msgspec's, or UnicodeDecodeError
        status = _Status(message=body[:500].decode(errors="replace").strip())
    return from_status(code, status.message, status.reason, status.details, write=write, retry_after=retry_after)


def from_status(
    code: int,
    message: str,
    reason: str,
    details: Mapping[str, Any] | None,
    *,
    write: bool,
    retry_after: str = "",
) -> KubeError:
    """As `from_answer`, from the fields of a `Status` (the ERROR event of a watch carries one)."""
    words = message or reason or f"HTTP {code}"
    answer: dict[str, Any] = {"status": code, "reason": reason, "details": details}
    if code == 429:
        return Throttled(words, retry_after=_seconds(retry_after, details), **answer)
    if code >= 500:
        if _is_schema_error(words):
            return Invalid(words, **answer)
        return ServerFailed(words, maybe_done=write, **answer)
    return _refusal(code, reason, details)(words, **answer)


def _refusal(code: int, reason: str, details: Mapping[str, Any] | None) -> type[KubeError]:
    if code in {401, 403}:
        return Forbidden
    if code == 404:
        return NotFound
    if code == 409:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    if code == 410:
        return Gone
    if code == 422 and _is_uid_mismatch(details):
        return Conflict
    return Invalid


def _is_schema_error(message: str) -> bool:
    # Server-side apply answers an unknown field with a 500 that no retry can cure (seen in API server 1.36.3).
    return message.startswith("failed to create typed patch object")


def _is_uid_mismatch(details: Mapping[str, Any] | None) -> bool:
    # A patch whose metadata.uid is not the object's is an attempt to change an immutable field to the API server,
    # and a precondition that does not hold to us.
    causes = (details or {}).get("causes") or ()
    return any(cause.get("field") == "metadata.uid" for cause in causes)


def _seconds(header: str, details: Mapping[str, Any] | None) -> float:
    if header.isdecimal():
        return min(float(header), _LONGEST_REST)
    # The server's own default where it says 429 without a time.
    return min(float((details or {}).get("retryAfterSeconds") or 1), _LONGEST_REST)


def _field_conflict(cause: Mapping[str, Any]) -> FieldConflict:
    match = _MANAGER.search(cause.get("message", ""))
    return FieldConflict(manager=match[1] if match else "", field=cause.get("field", ""))
