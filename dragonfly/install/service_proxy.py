"""The way to the relay that a kubeconfig alone opens: through the API server, to the pods behind a Service.

The store's threads ask for it, the credentials are read as everywhere else (`kube.credentials`), in a thread of their
own: an exec plugin that takes its time must not keep a lease from being kept alive. Until there are new credentials the
former ones go on. The API server picks a ready pod for each call, so a pod that dies is nobody's to forget here.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog

from dragonfly.kube.credentials import REREAD, Login, Source, log_in
from dragonfly.kube.errors import KubeError
from dragonfly.kube.transport import proxy_before
from dragonfly.store.faults import Fault
from dragonfly.store.ways import Leg, Proxy, leg_to

_log = structlog.get_logger(__name__)

_PAUSE: Final = 5.0
"""Seconds between two readings after refusals, so that wrong credentials don't run an exec plugin for each call."""


class ServiceRef(NamedTuple):
    """A Service with one of its ports."""

    namespace: str
    name: str
    port: str

    def __str__(self) -> str:
        return f"Service {self.namespace}/{self.name}:{self.port}"

    @property
    def path(self) -> str:
        """Of the relay behind it; the replicas speak plain HTTP there."""
        return f"/api/v1/namespaces/{self.namespace}/services/http:{self.name}:{self.port}/proxy/etcd"


class ServiceProxy:
    """A `Way`."""

    def __init__(
        self,
        source: Source,
        service: ServiceRef,
        login: Login,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Begin with a login that was read just now; `open` reads one."""
        self._source = source
        self._service = service
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._reading: Future[Login] | None = None
        self._taken_up(login)

    @classmethod
    async def open(cls, source: Source, service: ServiceRef) -> "ServiceProxy":
        """Read the credentials, and connect to nothing yet.

        Raises:
            Invalid, Forbidden: as `credentials.log_in`.
        """
        return cls(source, service, await log_in(source, datetime.now(UTC)))

    @property
    def url(self) -> str:
        """Of the relay, as the kubeconfig leads there now."""
        return self._url

    def leg(self) -> Leg:
        with self._lock:
            if self._clock() >= self._until:
                self._read()
            return self._leg

    def renew(self, seconds: float) -> None:
        with self._lock:
            if self._reading is None and self._clock() < self._read_at + _PAUSE:
                return
            reading = self._read()
        try:
            reading.result(timeout=max(seconds, 0.0))
        except TimeoutError as error:
            raise Fault("the API server refused the credentials; others are being read", unsent=True) from error
        except KubeError as error:
            raise Fault(
                f"the API server refused the credentials, and there are no others: {error}", unsent=True
            ) from error

    def _read(self) -> "Future[Login]":
        """Begin to read the credentials, unless that is under way; to be called with the lock held."""
        if self._reading is None:
            self._reading = Future()
            threading.Thread(target=self._run, args=(self._reading,), name="relay-login", daemon=True).start()
        return self._reading

    def _run(self, reading: "Future[Login]") -> None:
        try:
            login = asyncio.run(log_in(self._source, self._now()))
        except Exception as error:
            # A file caught in the middle of being replaced; the credentials in hand may well be good still.
            _log.warning("relay.credentials_unreadable", error=str(error))
            with self._lock:
                self._reading, self._read_at = None, self._clock()
                self._until = self._read_at + REREAD
            reading.set_exception(error)
            return
        with self._lock:
            self._reading = None
            self._taken_up(login)
        reading.set_result(login)

    def _taken_up(self, login: Login) -> None:
        self._read_at = self._clock()
        self._until = self._read_at + login.valid_for
        self._url = login.server + self._service.path
        self._leg = _leg(self._url, login)


def _leg(url: str, login: Login) -> Leg:
    proxy, headers = proxy_before(login)
    return leg_to(url, tls=lambda: login.tls)._replace(
        server_hostname=login.server_hostname,
        proxy=Proxy(str(proxy), headers) if proxy is not None else None,
        head=f"Authorization: {login.authorization}\r\n" if login.authorization else "",
        identity=login.identity,
    )
