"""Replicas of the API in one process: real application, real mirror, a model of etcd."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from dragonfly.api.access import Identity
from dragonfly.api.app import create_app
from dragonfly.api.context import Check, CheckResult, Context, Insight
from dragonfly.api.streams import Streams
from dragonfly.feed.feed import Feed
from dragonfly.store import keys
from dragonfly.store.health import Health
from dragonfly.store.inquiry import Inquiry
from dragonfly.store.measured import MeasuredStore
from dragonfly.store.mirror import Mirror
from dragonfly.store.records import decode
from dragonfly.store.seal import Seal
from dragonfly.swarm.shards import ShardId, shards_of
from dragonfly.swarm.standing import Facts, Sentry
from dragonfly.swarm.vacancies import Vacancies
from dragonfly.telemetry.metrics import Metrics
from tests.unit.store_model import StoreModel, Watch

TOKEN = "df-a-token-for-tests"
SEAL = Seal([b"k" * 32])
MERGE = "application/merge-patch+json"
ANY = {"If-Match": "*"}


class OneToken:
    def authenticate(self, token: str) -> Identity | None:
        return Identity("admin") if token == TOKEN else None


class Clock:
    """Wall and monotonic time of a test."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Lease:
    """A lease as its keeper would show it."""

    def __init__(self) -> None:
        self.is_held = True
        self.silent: float | None = 0.4

    def held(self) -> bool:
        return self.is_held

    def remaining(self) -> float:
        return 2.1 if self.is_held else -1.0

    def silent_for(self) -> float | None:
        return self.silent


class Replica:
    """One replica; `http` is signed in."""

    def __init__(
        self,
        name: str,
        store: Any,
        ulids: Iterator[str],
        *,
        watch: Callable[[Any, Mirror], Any] = Watch,
        **context: Any,
    ) -> None:
        """Make it.

        Args:
            store: a model of etcd, or a real one.
            watch: what keeps its mirror current.
            context: what its application is given otherwise than usual.
        """
        self.store = store
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.checks: dict[str, Check] = {"mirror": lambda: CheckResult(ok=True, detail="followed")}
        self.mirror = Mirror(decode, clock=self.clock.monotonic, on_undecodable=lambda *_: None)
        self.metrics = Metrics(self.registry, version="0.0.0", replica=name)
        self.silence: Exception | None = None
        self.refusal: Exception | None = None
        self.owned: dict[ShardId, int] = {}
        self.lease = Lease()
        given: dict[str, Any] = {
            "replica": name,
            "version": "0.0.0",
            "mirror": self.mirror,
            "access": OneToken(),
            "metrics": self.metrics,
            "now": self.clock.now,
            "clock": self.clock.monotonic,
            "new_ulid": lambda: next(ulids),
            "clusters": {"local": 4},
            "owner_of": lambda _cluster, _machine: "",
            "checks": self.checks,
            "sealer": SEAL,
        }
        given |= context
        self.feed = Feed(self.mirror, given["clusters"], store, clock=self.clock.monotonic)
        self.streams = Streams(self.feed, self.metrics.feed, clock=self.clock.monotonic)
        insight = self._insight(given["clusters"])
        parts: dict[str, Any] = {"store": self.measured, "insight": insight, "feed": self.feed, "streams": self.streams}
        self.context = Context(**(parts | given))
        self.app = create_app(self.context)
        self.watch = watch(store, self.mirror)
        self.http = self.client({"Authorization": f"Bearer {TOKEN}"})

    def client(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://dragonfly", headers=headers)

    def _insight(self, clusters: dict[str, int]) -> Insight:
        clock, now = self.clock.monotonic, self.clock.now
        self.health = Health(now=now, silence=lambda: self.silence, watch=lambda: None)
        self.health.answered(wrote=False)
        self.measured = MeasuredStore(self.store, self.metrics.store, self.health)
        shards = [shard for cluster, count in clusters.items() for shard in shards_of(cluster, count)]
        self.inquiry = Inquiry(
            self.measured,
            self.health,
            leases=lambda: [held.lease for held in self.mirror.under(keys.MEMBERS) if held.lease],
            clock=clock,
        )
        return Insight(
            sentry=Sentry(self._facts, clock=clock, now=now),
            etcd=self.health,
            inquiry=self.inquiry,
            vacancies=Vacancies(self.mirror, lambda: shards, clock=clock, now=now),
            lease=self.lease,
            owned=lambda: self.owned,
            refusal=lambda: self.refusal,
        )

    def _facts(self) -> Facts:
        verdict = self.health.look()
        return Facts("" if verdict.writable else verdict.reason, self.lease.held(), len(self.owned))

    async def machine(self, name: str, mac: str, **spec: Any) -> dict[str, Any]:
        """Create a machine."""
        return await self.post("/api/v1/machines", machine_document(name, mac, **spec), 201)

    async def template(self, name: str = "ubuntu", **spec: Any) -> dict[str, Any]:
        return await self.post("/api/v1/templates", template_document(name, **spec), 201)

    async def provision(self, machine: str, template: str = "ubuntu") -> dict[str, Any]:
        return await self.post(f"/api/v1/machines/{machine}/provision", {"template": template}, 202)

    async def post(self, path: str, body: Any, status: int = 200) -> dict[str, Any]:
        return answer_of(await self.http.post(path, json=body), status)

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        return answer_of(await self.http.get(path, params=query), 200)


class World:
    """Replicas that share one store."""

    def __init__(self) -> None:
        self.store = StoreModel()
        self._ulids = (f"01J0000000000000000000{number:04d}" for number in itertools.count(1))
        self.replicas: list[Replica] = []

    def replica(self, name: str = "a", **context: Any) -> Replica:
        self.replicas.append(Replica(name, self.store, self._ulids, **context))
        return self.replicas[-1]


def answer_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


def problem_of(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The response's problem document, which must be complete and of this kind."""
    problem = answer_of(response, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["type"], problem["status"]) == (f"/problems/{kind}", status)
    assert problem["title"]
    assert problem["detail"]
    assert problem["requestId"] == response.headers["x-request-id"]
    assert problem["instance"] == response.request.url.path
    return problem


def fields_of(problem: dict[str, Any]) -> list[str]:
    return [error["field"] for error in problem["errors"]]


def mac(number: int) -> str:
    return f"02:00:00:00:{number // 256:02x}:{number % 256:02x}"


def machine_document(name: str, address: str, *, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **(metadata or {})}, "spec": {"interfaces": [{"mac": address}], **spec}}


def template_document(name: str = "ubuntu", **spec: Any) -> dict[str, Any]:
    actions = [{"name": "write", "image": "quay.io/tinkerbell/actions/image2disk:latest", "timeout": 60}]
    return {"metadata": {"name": name}, "spec": {"actions": actions, **spec}}
