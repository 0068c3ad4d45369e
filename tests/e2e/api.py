"""Dragonfly's HTTP API as a patient client uses it: what nobody answered is asked again, under the same key."""

import time
import uuid
from collections.abc import Mapping
from threading import Event
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

_PATIENCE: Final = 90.0
"""Seconds that a request is repeated: longer than all replicas need to start again after all were killed."""
_PAUSE: Final = 0.2
_REPEATED: Final = frozenset({502, 503, 504})


class Answer(NamedTuple):
    status: int
    document: Any
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Api:
    """One address: the load balancer's, or a replica's."""

    def __init__(self, url: str, token: str) -> None:
        # Longer than the load balancer needs to see that a replica is frozen.
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10, trust_env=False
        )
        self._known = 0
        """The newest revision that this client has written, or has seen an object of."""
        self.repeats: list[str] = []
        """Why requests were sent again, in order."""

    def once(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """One request, whatever is answered.

        Raises:
            httpx.TransportError: nothing was.
        """
        sent = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        given = {"content": content} if content is not None else {"json": body} if body is not None else {}
        answer = self._http.request(method, f"/api/v1/{path}", headers={**sent, **(headers or {})}, **given)
        if answer.is_success and method != "GET":
            self._known = max(self._known, int(answer.headers["Dragonfly-Revision"]))
        is_json = answer.headers.get("Content-Type", "").endswith("json")
        return Answer(answer.status_code, answer.json() if is_json else answer.text, answer.headers)

    def patiently(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """A request that is repeated while there is no answer or one that asks to come again."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = self.once(method, path, body, headers=headers)
            except httpx.TransportError as error:
                reason = type(error).__name__
            else:
                if answer.status not in _REPEATED:
                    return answer
                problem = answer.document if isinstance(answer.document, dict) else {}
                reason = f"{answer.status} {problem.get('type', '')}"
            assert time.monotonic() < deadline, f"{method} {path} was not answered in {_PATIENCE:g} s: {reason}"
            self.repeats.append(f"{method} {path}: {reason}")
            Event().wait(_PAUSE)

    def get(self, path: str) -> Any:
        """Read; what this client wrote or saw before is in the answer, whichever replica gives it (P9)."""
        answer = self.patiently("GET", f"{path}{'&' if '?' in path else '?'}minRevision={self._known}")
        assert answer.ok, answer
        self._known = max(self._known, _newest(answer.document))
        return answer.document

    def forget(self) -> None:
        """Begin anew: etcd was put back, and what was known is of another history."""
        self._known = 0

    def post(self, path: str, body: Any = None) -> Any:
        """Create something, exactly once however often it is sent."""
        answer = self.patiently("POST", path, body if body is not None else {}, {"Idempotency-Key": str(uuid.uuid4())})
        assert answer.ok, answer
        return answer.document

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()


def _newest(document: Any) -> int:
    """The revision of the object that was changed last, of one or of a list; 0 if there is none."""
    found = document.get("items", [document]) if isinstance(document, dict) else []
    return max((item.get("metadata", {}).get("revision", 0) for item in found), default=0)
