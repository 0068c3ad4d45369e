"""A small synchronous client of Dragonfly's HTTP API.

Every request may be sent again without harm: reads are reads, POST carries an Idempotency-Key, PUT and DELETE carry
If-Match. So a replica that dies under a request, or a load balancer that has not noticed yet, costs time and no error.
"""

import contextlib
import functools
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
import tenacity
import urllib3

from dragonfly import __version__
from dragonfly.cli import problems
from dragonfly.cli.errors import ApiError, CliError, Exit
from dragonfly.client.calls import Request
from dragonfly.client.stream import SILENCE

API = "/api/v1"
PATIENCE = 8.0
"""Seconds to go on trying: longer than a lease of 3 s and the load balancer's health checks need."""

_TIMEOUT = urllib3.Timeout(connect=3, read=20)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RETRYABLE = frozenset({429, 502, 503, 504})

Query = Mapping[str, str | int | tuple[str, ...] | None]
"""Of several values of one parameter, any may match."""


class Answer(NamedTuple):
    """What the swarm answered."""

    status: int
    document: Any
    revision: int
    """The revision of the swarm's state that the answer reflects; 0 if it did not say."""
    replica: str
    retry_after: int
    """Seconds; 0 if it did not say."""
    stale: str = ""
    """For how many seconds the replica that answers has not seen etcd; empty if it sees it."""
    retried: bool = False
    """An earlier try went unanswered and may have been carried out."""


class Client:
    """Speaks to one address: a load balancer's or a replica's."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience: float = PATIENCE,
        timeout: float | None = None,
        notice: Callable[[str], None] = lambda _: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect lazily.

        Args:
            patience: seconds after which a request that nobody answers is given up.
            timeout: seconds that one try may take; None for what a replica needs at most.
            notice: told once per request that it is being tried again, and when answers begin to be out of date.
        """
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = patience
        self._notice = notice
        self._pause = pause
        self._written = 0
        self._told_stale = False
        # Without urllib3's own retries: they would hide what happened.
        self._http = urllib3.PoolManager(num_pools=1, maxsize=2, timeout=timeout or _TIMEOUT, retries=False)

    def get(self, *path: str, query: Query | None = None) -> Answer:
        """Read; what this client wrote before is in the answer, whichever replica gives it (P9)."""
        reading = {"minRevision": self._written or None} | dict(query or {})
        return self._send("GET", _target(path, reading))

    def post(self, *path: str, body: Any = None) -> Answer:
        return self._send("POST", _target(path), body, {"Idempotency-Key": str(uuid.uuid4())})

    def put(self, *path: str, body: Any, revision: int) -> Answer:
        return self._send("PUT", _target(path), body, {"If-Match": f'"{revision}"'})

    def delete(self, *path: str, revision: int, query: Query | None = None) -> Answer:
        return self._send("DELETE", _target(path, query or {}), None, {"If-Match": f'"{revision}"'})

    def plain(self, target: str) -> Answer:
        """Read something beside the API, such as /readyz, once; any status is an answer."""
        try:
            return self._try("GET", target, None, {})
        except _Again as again:
            raise again.error from again

    @property
    def written(self) -> int:
        """The revision that this client's last write became visible at; 0 if it has written nothing."""
        return self._written

    def stream(
        self, request: Request, *, opened: Callable[[Callable[[], None]], None] = lambda _: None
    ) -> Iterator[bytes]:
        """The bytes of an endless answer, on a connection of its own.

        Args:
            opened: given what ends the answer, from any thread, as soon as it begins.

        Raises:
            CliError: it is refused, or breaks off.
        """
        headers = {"User-Agent": f"dragonfly/{__version__}", **self._headers, **request.headers}
        timeout = urllib3.Timeout(connect=3, read=SILENCE)
        try:
            response = self._http.request(
                "GET",
                self.url + request.target,
                headers=headers,
                redirect=False,
                timeout=timeout,
                preload_content=False,
            )
            try:
                if response.status != 200:
                    raise _api_error(self._answer(response), "GET")
                opened(functools.partial(_hang_up, response))
                while data := response.read1():
                    yield data
            finally:
                response.close()  # not back to the pool: there is more to come on it
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(self.url, error) from error

    def close(self) -> None:
        self._http.clear()

    def _send(self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        answer = self._patiently(method, target, body, headers or {})
        if answer.status >= 400:
            raise _api_error(answer, method)
        if method != "GET":
            self._written = max(self._written, answer.revision)
        self._tell_stale(answer)
        return answer

    def _tell_stale(self, answer: Answer) -> None:
        """Say once that answers may be out of date, and again if that comes back."""
        if answer.stale and not self._told_stale:
            who = f"replica {answer.replica}" if answer.replica else "the replica that answered"
            self._notice(f"{who} has not heard from etcd for {answer.stale} s: this may be out of date")
        self._told_stale = bool(answer.stale)

    def _patiently(self, method: str, target: str, body: Any, headers: Mapping[str, str]) -> Answer:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Again),
            stop=tenacity.stop_before_delay(self._patience),
            wait=_wait,
            sleep=self._pause,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            answer = retrying(self._insist, method, target, body, headers)
        except _Again as again:
            raise again.error from again
        return answer._replace(retried=retrying.statistics["attempt_number"] > 1)

    def _insist(self, method: str, target: str, body: Any, headers: Mapping[str, str]) -> Answer:
        answer = self._try(method, target, body, headers)
        if answer.status in _RETRYABLE:
            raise _Again(_api_error(answer, method), answer.retry_after)
        return answer

    def _try(self, method: str, target: str, body: Any, headers: Mapping[str, str]) -> Answer:
        sent = {"Accept": "application/json", "User-Agent": f"dragonfly/{__version__}", **self._headers, **headers}
        payload = None
        if body is not None:
            payload = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        try:
            response = self._http.request(method, self.url + target, body=payload, headers=sent, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise _Again(_unreachable(self.url, error)) from error
        return self._answer(response)

    def _answer(self, response: urllib3.BaseHTTPResponse) -> Answer:
        if 300 <= response.status < 400:
            onward = response.headers.get("Location", "another address")
            raise CliError(
                f"{self.url} sends its visitors on to {onward}",
                Exit.UNREACHABLE,
                "If you trust that address with your token, give it: --server URL or DRAGONFLY_SERVER.",
            )
        try:
            document = json.loads(response.data) if response.data else None
        except ValueError:
            document = None
        if document is None and response.data and response.status not in _RETRYABLE:
            kind = response.headers.get("Content-Type", "no content type")
            raise CliError(
                f"{self.url} answered {response.status} with {kind}, which is not Dragonfly's API",
                Exit.UNREACHABLE,
                "Check the address: --server URL or DRAGONFLY_SERVER.",
            )
        header = response.headers.get
        return Answer(
            response.status,
            document,
            revision=_whole(header("Dragonfly-Revision")),
            replica=header("Dragonfly-Replica", ""),
            retry_after=_whole(header("Retry-After")),
            stale=header("Dragonfly-Stale", ""),
        )

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1 and isinstance(error, _Again):
            self._notice(_trying_again(error.error.message, self._patience))


def _hang_up(response: urllib3.BaseHTTPResponse) -> None:
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # it has ended already
        response.shutdown()


def _trying_again(message: str, seconds: float) -> str:
    said = message.removesuffix(" Try again.").replace("; try again.", ".")
    joined = f"{said} Trying" if said.endswith(".") else f"{said}; trying"
    return f"{joined} again for up to {seconds:.0f} s"


class _Again(Exception):
    """This try led to nothing; another may."""

    def __init__(self, error: CliError, after: int = 0) -> None:
        self.error = error
        self.after = after
        super().__init__(error.message)


_backoff = tenacity.wait_random_exponential(multiplier=0.1, max=1.0)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return float(error.after) if isinstance(error, _Again) and error.after else _backoff(state)


def _whole(header: str | None) -> int:
    return int(header) if header and header.isascii() and header.isdigit() else 0


def _target(path: tuple[str, ...], query: Query | None = None) -> str:
    for part in path:
        if not _NAME.fullmatch(part):
            # Some of these, such as `..`, would lead elsewhere.
            said = "a name is made of letters, digits and -"
            raise CliError(f"there is no {path[0].removesuffix('s')} {part!r}: {said}", Exit.NOT_FOUND)
    target = API + "".join(f"/{quote(part, safe='')}" for part in path)
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return f"{target}?{urlencode(given, doseq=True)}" if given else target


def _unreachable(url: str, error: urllib3.exceptions.HTTPError) -> CliError:
    return CliError(
        f"{url} does not answer ({_cause(error)})",
        Exit.UNREACHABLE,
        "Check the address (--server URL or DRAGONFLY_SERVER) and that a replica runs there.",
    )


def _cause(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "its name is not known"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return str(error).rpartition("] ")[2].lower() or "no connection"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "timed out"
    if isinstance(error, urllib3.exceptions.SSLError):
        return f"TLS: {error}"
    return "the connection broke"


def _api_error(answer: Answer, method: str) -> ApiError:
    problem = answer.document if isinstance(answer.document, dict) else {}
    reference = _reference(problem, answer) if answer.status >= 500 else ""
    slug = str(problem.get("type", "")).rpartition("/")[2]
    return ApiError(
        problems.sentence(problem, answer.status),
        Exit.USAGE if problems.is_usage(problem) else _exit_code(answer.status),
        problems.advice(slug, answer.status) or reference,
        status=answer.status,
        slug=slug,
        retried=answer.retried and method != "GET",
    )


def _reference(problem: Mapping[str, Any], answer: Answer) -> str:
    parts = [
        f"request {problem['requestId']}" if problem.get("requestId") else "",
        f"replica {answer.replica}" if answer.replica else "",
    ]
    where = ", ".join(part for part in parts if part)
    return f"For whoever looks into it: {where}." if where else ""


def _exit_code(status: int) -> Exit:
    if status == 404:
        return Exit.NOT_FOUND
    if status in {429, 500, 502, 503, 504}:
        return Exit.UNREACHABLE
    return Exit.REFUSED
