"""A relay in front of an etcd: the route as replicas serve it, behind their gate, on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry

from dragonfly.api.connections import HttpConnection
from dragonfly.relay.relay import Relay
from dragonfly.store.client import EtcdStore
from dragonfly.store.gateway import Gateway
from dragonfly.store.replica_tokens import ReplicaTokens
from dragonfly.store.settings import EtcdSettings
from dragonfly.telemetry.metrics import RelayMetrics
from tests.unit.api.replicas import World as Replicas

TOKEN: Final = "a-replica-token-for-tests"


class RelayServer(uvicorn.Server):
    def capture_signals(self) -> Any:
        return nullcontext()


class Relayed:
    """A relay that runs."""

    def __init__(self, relay: Relay, url: str, settings: EtcdSettings, metrics: RelayMetrics) -> None:
        self.relay = relay
        self.url = url
        self.settings = settings
        """Of a client that knows etcd through the relay alone."""
        self.metrics = metrics
        self.away: Exception | None = None


@asynccontextmanager
async def relayed(direct: EtcdSettings, directory: Path) -> AsyncIterator[Relayed]:
    """Relay to `direct`, whose prefix is the only one that may be used."""
    token_file = directory / "replica-token"
    token_file.write_text(TOKEN + "\n")
    metrics = RelayMetrics(CollectorRegistry())
    relay = Relay(Gateway.open(direct), ReplicaTokens(token_file), away=lambda: running.away, metrics=metrics)
    replicas = Replicas()
    replica = replicas.replica(relay=relay)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/etcd"
    through = msgspec.structs.replace(
        direct, endpoints=(url,), replica_token_file=token_file, ca_file=None, cert_file=None, key_file=None
    )
    running = Relayed(relay, url, through, metrics)
    config = uvicorn.Config(
        replica.app, http=HttpConnection, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = RelayServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield running
    finally:
        await relay.close()
        server.should_exit = True
        await serving
        await replica.inquiry.stop()
        await replica.http.aclose()


class RelayedStore(EtcdStore):
    """Through a relay, but for compaction, which relays leave to those who reach etcd."""

    def __init__(self, settings: EtcdSettings, direct: EtcdSettings) -> None:
        super().__init__(settings)
        self._direct = EtcdStore(direct)

    async def compact(self, revision: int) -> None:
        await self._direct.compact(revision)

    async def close(self) -> None:
        await self._direct.close()
        await super().close()
