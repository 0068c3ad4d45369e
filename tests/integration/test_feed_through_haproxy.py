"""Streams of events through the shipped HAProxy configuration, by HTTP/1.1 and, with TLS, by HTTP/2."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import pytest

from dragonfly.sandbox import apt
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.probes import accepts, http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.shipped import shipped
from tests.unit.api.replicas import TOKEN, Replica, World, mac
from tests.unit.api.streaming import PATIENCE, served

pytestmark = pytest.mark.slow

BIND = 'bind "${DRAGONFLY_LB_BIND}"'


class Balanced(NamedTuple):
    """Two replicas of the API behind HAProxy."""

    replicas: tuple[Replica, Replica]
    url: str
    ca: Path


@pytest.fixture
async def balanced(tmp_path: Path) -> AsyncIterator[Balanced]:
    world = World()
    replicas = world.replica("a"), world.replica("b")
    authority = Authority(tmp_path, "lb-ca", datetime.now(UTC))
    pair = authority.server("lb")
    both = tmp_path / "lb.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    async with contextlib.AsyncExitStack() as stack:
        addresses = [urlsplit(await stack.enter_async_context(served(replica))).netloc for replica in replicas]
        with PortLease() as ports:
            service, url = _haproxy(tmp_path, ports, addresses, f"{BIND} ssl crt {both} alpn h2,http/1.1")
            await asyncio.to_thread(service.start)
            try:
                yield Balanced(replicas, url, authority.ca)
            finally:
                await asyncio.to_thread(service.stop)
    for replica in replicas:
        await replica.http.aclose()


def _haproxy(directory: Path, ports: PortLease, addresses: list[str], bind: str) -> tuple[Service, str]:
    configuration = shipped("haproxy.cfg").read_text()
    assert configuration.count(BIND) == 1
    own = directory / "haproxy.cfg"
    own.write_text(configuration.replace(BIND, bind))
    port, stats = ports.take(), ports.take()
    environment = {
        "DRAGONFLY_LB_BIND": f"{LOOPBACK}:{port}",
        "DRAGONFLY_LB_STATS": f"{LOOPBACK}:{stats}",
        **{f"DRAGONFLY_REPLICA_{number}": address for number, address in enumerate(addresses, 1)},
    }
    command = (str(apt.program("haproxy", SILENT)), "-db", "-f", str(own))
    program = Program("haproxy", command, directory / "haproxy.log", environment)
    ready = lambda: accepts(LOOPBACK, port) and http_ok(f"http://{LOOPBACK}:{stats}/metrics")  # noqa: E731 - one line says it
    return Service(program, ready, within=60), f"https://{LOOPBACK}:{port}"


class Curl:
    """A client that is not ours."""

    def __init__(self, balanced: Balanced, version: str) -> None:
        self._command = [
            str(apt.program("curl", SILENT)), "--silent", "--no-buffer", "--include", "--cacert", str(balanced.ca),
            f"--http{version}", "--header", f"Authorization: Bearer {TOKEN}", "--header", "Accept: text/event-stream",
            f"{balanced.url}/api/v1/events",
        ]  # fmt: skip

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def line(self, begin: str) -> str:
        """The next line that begins so."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not (line := (await self._process.stdout.readline()).decode().strip()).startswith(begin):
                assert not self._process.stdout.at_eof(), "the stream ended"
        return line

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_each_change_comes_at_once_and_an_end_is_an_end(balanced: Balanced, version: str) -> None:
    a, b = balanced.replicas
    async with Curl(balanced, version) as curl:
        assert await curl.line("HTTP/") == ("HTTP/2 200" if version == "2" else "HTTP/1.1 200 OK")
        await curl.line("event: ping")
        for number in range(3):
            await a.machine(f"m-{number}", mac(number))
            await curl.line("event: created")
            assert f'"name":"m-{number}"' in await curl.line("data: ")
        a.feed.close()
        b.feed.close()
        await curl.line("event: ping")
        assert await curl.line("id: ") == f"id: {a.mirror.revision}"
        assert await curl.ended() == 0


async def test_a_replica_that_turns_a_follower_away_is_passed_over(balanced: Balanced) -> None:
    a, _ = balanced.replicas
    a.feed.close()
    for _ in range(4):
        async with Curl(balanced, "1.1") as curl:
            assert await curl.line("HTTP/") == "HTTP/1.1 200 OK"
            assert await curl.line("dragonfly-replica") == "dragonfly-replica: b"
