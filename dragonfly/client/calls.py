"""Requests built and answers read: what the synchronous and the asynchronous client have in common. No I/O.

Each request may be sent again without harm: reads are reads, POST carries an Idempotency-Key, PUT and DELETE carry
If-Match. So a replica that dies under a request costs time, and no error: if the first try of a PUT or DELETE was
carried out and its answer lost, the second is refused, and what is there by then tells that it was the first.
"""

import json
import random
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode

from dragonfly.client.errors import TEMPORARY, ApiError, Unreachable

API: Final = "/api/v1"
PATIENCE: Final = 15.0
"""Seconds to go on trying: longer than a lease and a load balancer's checks need."""

NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 412

_LONGEST_PAUSE: Final = 2.0

Value: TypeAlias = str | int | bool | Iterable[str] | None
Document: TypeAlias = dict[str, Any]


class Request(NamedTuple):
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None


class Answer(NamedTuple):
    """What came back; `body` is the whole of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    again: bool = False
    """It is not the first try's, which may have been carried out."""


def collection(kind: str) -> str:
    """The route of a kind: `Machine`, `machine` and `machines` all lead to `machines`."""
    name = kind.lower()
    return name if name.endswith("s") else name + "s"


def read(*path: str, query: Mapping[str, Value] | None = None, accept: str = "application/json") -> Request:
    return Request("GET", _target(path, query or {}), {"Accept": accept})


def post(*path: str, body: Any) -> Request:
    headers = {"Idempotency-Key": str(uuid.uuid4()), "Content-Type": "application/json"}
    return Request("POST", _target(path, {}), headers, json.dumps(body).encode())


def put(kind: str, document: Mapping[str, Any]) -> Request:
    """Replace an object by a document that was read before; its `metadata.revision` is the condition."""
    metadata = document["metadata"]
    headers = {"If-Match": f'"{metadata["revision"]}"', "Content-Type": "application/json"}
    target = _target((collection(kind), metadata["name"]), {})
    return Request("PUT", target, headers, json.dumps(document).encode())


def delete(kind: str, name: str, revision: int | None) -> Request:
    condition = f'"{revision}"' if revision is not None else "*"
    return Request("DELETE", _target((collection(kind), name), {}), {"If-Match": condition})


def shown(answer: Answer) -> Document:
    """The document in an answer.

    Raises:
        ApiError: it is a refusal.
    """
    document = _json(answer.body)
    if answer.status >= 300:
        raise ApiError(answer.status, document, again=answer.again)
    return document


def look_back(kind: str, name: str, refused: ApiError) -> Request:
    """Read what is there instead of what was to be replaced or deleted.

    Raises:
        ApiError: `refused`, for no earlier try can be to blame for it.
    """
    if not refused.again or refused.status != PRECONDITION_FAILED:
        raise refused
    return read(collection(kind), name, query={"minRevision": refused.problem.get("currentRevision")})


def is_written(document: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    """Whether what is there is what was sent. What is never shown, such as a password, counts as another."""
    return _essence(document) == _essence(present)


def is_deleting(present: Mapping[str, Any]) -> bool:
    """Whether the object is on its way out, as machines are until their cluster has let go of them."""
    return bool((present.get("status") or {}).get("phase") == "Deleting")


def revision_of(answer: Answer) -> int:
    """The revision that an answer reflects; 0 if it does not say."""
    text = answer.headers.get("Dragonfly-Revision", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def worth_another_try(answer: Answer) -> bool:
    return answer.status in TEMPORARY


class Patience:
    """When to try again, and when to give up."""

    def __init__(self, now: float, patience: float) -> None:
        self._until = now + patience
        self._failures = 0
        self.reason = "no answer"

    def pause(self, now: float, answer: Answer | None, error: Exception | None) -> float:
        """Return the seconds to wait before the next try.

        Raises:
            Unreachable: there is no time left.
            ApiError: as before, but it was an answer.
        """
        self._failures += 1
        wait = random.uniform(0.05, min(0.1 * 2**self._failures, _LONGEST_PAUSE))  # noqa: S311 - spreads load
        if answer is not None:
            after = answer.headers.get("Retry-After", "")
            wait = float(after) if after.isascii() and after.isdigit() else wait
        if now + wait <= self._until:
            return wait
        if answer is not None:
            raise ApiError(answer.status, _json(answer.body))
        raise Unreachable(str(error)) from error


def _essence(document: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = document["metadata"]
    return document.get("spec"), metadata.get("labels") or {}, sorted(metadata.get("tags") or [])


def _target(path: tuple[str, ...], query: Mapping[str, Value]) -> str:
    route = API + "".join(f"/{quote(part, safe='')}" for part in path)
    pairs = [(name, text) for name, value in query.items() for text in _texts(value)]
    return f"{route}?{urlencode(pairs)}" if pairs else route


def _texts(value: Value) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return ["true"]
    return [str(value)] if isinstance(value, (str, int)) else list(value)


def _json(body: bytes) -> Document:
    try:
        document = json.loads(body) if body else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
