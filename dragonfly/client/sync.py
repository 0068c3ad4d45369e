"""The synchronous client, over urllib3."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import urllib3

from dragonfly.client import calls
from dragonfly.client.calls import Answer, Document, Patience, Request, Value
from dragonfly.client.errors import ApiError
from dragonfly.client.stream import SILENCE, Event, Follower


class Client:
    """Speaks to one address: a load balancer's or a replica's. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        patience: float = calls.PATIENCE,
        timeout: float = 20.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect lazily.

        Args:
            url: such as `https://dragonfly.example`.
            token: `df_…`.
            patience: seconds after which a request that leads to nothing is given up.
            timeout: seconds that one try may take.
            pause: waits.
        """
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = patience
        self._pause = pause
        self._written = 0
        timeouts = urllib3.Timeout(connect=3, read=timeout)
        self._http = urllib3.PoolManager(num_pools=2, maxsize=4, timeout=timeouts, retries=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.clear()

    def get(self, kind: str, name: str) -> Document:
        """Read one object. Raises `ApiError` (404) if there is none."""
        return self._send(calls.read(calls.collection(kind), name, query=self._at_least()))

    def list(self, kind: str, **filters: Value) -> Iterator[Document]:
        """Read all objects of a kind, page by page; filters as in docs/api.md."""
        cursor: str | None = None
        while True:
            query = {"limit": 500, "cursor": cursor, **self._at_least(), **filters}
            page = self._send(calls.read(calls.collection(kind), query=query))
            yield from page["items"]
            cursor = page.get("cursor")
            if cursor is None:
                return

    def create(self, kind: str, document: Mapping[str, Any]) -> Document:
        return self._send(calls.post(calls.collection(kind), body=document))

    def replace(self, kind: str, document: Mapping[str, Any]) -> Document:
        """Write back what was read; raises `ApiError` (412) if it has changed since.

        Also, after a lost answer, if nobody can tell: what is never shown, such as a password, cannot be compared.
        """
        try:
            return self._send(calls.put(kind, document))
        except ApiError as refused:
            present = self._send(calls.look_back(kind, document["metadata"]["name"], refused))
            if not calls.is_written(document, present):
                raise
            self._written = max(self._written, present["metadata"]["revision"])
            return present

    def delete(self, kind: str, name: str, *, revision: int | None = None) -> None:
        """Delete an object: as it was at `revision`, or as it is."""
        try:
            self._send(calls.delete(kind, name, revision))
        except ApiError as refused:
            if refused.again and refused.status == calls.NOT_FOUND:
                return
            if not calls.is_deleting(self._send(calls.look_back(kind, name, refused))):
                raise

    def provision(
        self, machine: str, template: str, *, parameters: Mapping[str, Any] | None = None, reason: str = ""
    ) -> Document:
        """Install a template on a machine; returns the provision, which has only been accepted."""
        body = {"template": template, "parameters": dict(parameters or {}), "reason": reason}
        return self._send(calls.post("machines", machine, "provision", body=body))

    def cancel(self, provision: str, *, reason: str = "") -> Document:
        return self._send(calls.post("provisions", provision, "cancel", body={"reason": reason}))

    def events(self, *, since: int | None = None, snapshot: bool = False, **filters: Value) -> Iterator[Event]:
        """Follow changes for ever, from any replica, without gap or duplicate.

        Args:
            since: a revision that was seen; None for now.
            snapshot: begin with the state, and again after each `reset`.
            filters: query parameters of `GET /api/v1/events`, such as `kind` and `labelSelector`.

        Raises:
            ApiError: the request is refused.
        """
        follower = Follower(filters, since=since, snapshot=snapshot)
        while True:
            try:
                for data in self._stream(follower):
                    yield from follower.take(data)
            except urllib3.exceptions.HTTPError:
                pass  # the next connection goes on where this one ended
            except ApiError as error:
                if not error.temporary:
                    raise
            self._pause(follower.pause())

    def watch(self, kind: str, **filters: Value) -> Iterator[Event]:
        """Follow the objects of one kind, those that there are first."""
        return self.events(since=None, snapshot=True, kind=kind, **filters)

    def _stream(self, follower: Follower) -> Iterator[bytes]:
        request = follower.request(at_least=self._written)
        response = self._http.request(
            request.method,
            self._url + request.target,
            headers={**self._headers, **request.headers},
            preload_content=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=3, read=SILENCE),
        )
        try:
            if response.status != 200:
                calls.shown(Answer(response.status, dict(response.headers), response.read()))
            while data := response.read1():
                yield data
        finally:
            response.close()  # not back to the pool: its stream has no end

    def _at_least(self) -> Mapping[str, Value]:
        return {"minRevision": self._written or None}

    def _send(self, request: Request) -> Document:
        answer = self._patiently(request)
        document = calls.shown(answer)
        if request.method != "GET":
            self._written = max(self._written, calls.revision_of(answer))
        return document

    def _patiently(self, request: Request) -> Answer:
        patience = Patience(time.monotonic(), self._patience)
        again = False
        while True:
            answer, error = self._try(request)
            if answer is not None and not calls.worth_another_try(answer):
                return answer._replace(again=again)
            again = True
            self._pause(patience.pause(time.monotonic(), answer, error))

    def _try(self, request: Request) -> tuple[Answer | None, Exception | None]:
        headers = {**self._headers, **request.headers}
        try:
            response = self._http.request(
                request.method, self._url + request.target, body=request.body, headers=headers, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            return None, error
        return Answer(response.status, response.headers, response.data), None
