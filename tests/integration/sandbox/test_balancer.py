"""The shipped HAProxy configuration, and the supervisor of replicas, with stand-ins for the replicas."""

import http.client
import json
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from dragonfly.sandbox import apt
from dragonfly.sandbox.haproxy import LoadBalancer
from dragonfly.sandbox.keeper import Death
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.swarm import Swarm
from tests.integration.sandbox.waiting import eventually

pytestmark = pytest.mark.slow  # HAProxy looks at its replicas once a second

STANDIN = Path(__file__).with_name("standin.py")


class Answer(NamedTuple):
    status: int
    replica: str


class World:
    """Three stand-ins behind HAProxy."""

    def __init__(self, directory: Path, ports: PortLease, *, restart: bool = False) -> None:
        self.journal = directory / "journal"
        self.unready = directory / "unready"
        self.unready.mkdir()
        self.deaths: list[Death] = []
        environment = {"STANDIN_JOURNAL": str(self.journal), "STANDIN_UNREADY": str(self.unready)}
        self.swarm = Swarm(
            directory / "swarm",
            ports,
            environment,
            restart=restart,
            command=(sys.executable, str(STANDIN)),
            on_death=self.deaths.append,
        )
        self.balancer = LoadBalancer(
            apt.program("haproxy", SILENT),
            directory / "haproxy",
            port=ports.take(),
            stats_port=ports.take(),
            replicas=[urlsplit(replica.url).netloc for replica in self.swarm.replicas],
        )

    def request(self, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.balancer.url).netloc, timeout=60)
        try:
            connection.request(method, path, b"{}" if method == "POST" else None, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def metrics(self) -> str:
        """HAProxy's own, for Prometheus."""
        with urllib.request.urlopen(f"{self.balancer.stats_url}/metrics", timeout=60) as answer:
            content: bytes = answer.read()
        return content.decode()

    def serving(self) -> set[str]:
        return {self.request().replica for _ in range(9)}

    def accepted(self, path: str) -> list[str]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line for line in lines if line.endswith(f" {path}")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with PortLease() as ports:
        made = World(tmp_path, ports)
        yield from _running(made)


@pytest.fixture
def restarting_world(tmp_path: Path) -> Iterator[World]:
    with PortLease() as ports:
        made = World(tmp_path, ports, restart=True)
        yield from _running(made)


def _running(world: World) -> Iterator[World]:
    try:
        world.swarm.start()
        world.balancer.service.start()
        eventually(lambda: world.serving() == {"a", "b", "c"})
        yield world
    finally:
        world.balancer.service.stop()
        world.swarm.stop()


def test_killing_a_replica_fails_no_request(world: World) -> None:
    answers: list[Answer] = []
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            answers.append(world.request())
            answers.append(world.request("POST", "/", {"Idempotency-Key": "k"}))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: len(answers) > 50)
    world.swarm.kill("b", signal.SIGKILL)
    eventually(lambda: world.serving() == {"a", "c"})
    seen = len(answers)
    eventually(lambda: len(answers) > seen + 50)
    stopped.set()
    asking.join()

    assert {answer.status for answer in answers} == {200, 201}


def test_an_unready_replica_gets_nothing_new_and_finishes_what_it_has(world: World) -> None:
    answers: list[Answer] = []
    slow = [threading.Thread(target=lambda: answers.append(world.request(path="/slow"))) for _ in range(9)]
    for thread in slow:
        thread.start()

    eventually(lambda: len(world.accepted("/slow")) == len(slow))

    (world.unready / "a").touch()
    eventually(lambda: world.serving() == {"b", "c"})
    assert world.balancer.in_rotation() == {urlsplit(world.swarm.replica(name).url).netloc for name in "bc"}
    for thread in slow:
        thread.join()

    assert [answer.status for answer in answers] == [200] * 9
    assert "a" in {answer.replica for answer in answers}
    (world.unready / "a").unlink()
    eventually(lambda: world.serving() == {"a", "b", "c"})


def test_without_a_ready_replica_those_alive_still_answer(world: World) -> None:
    for replica in "abc":
        (world.unready / replica).touch()
    eventually(lambda: 'haproxy_backend_active_servers{proxy="replicas"} 0' in world.metrics())

    assert world.request().status == 200


def test_without_a_ready_replica_reads_find_one_that_has_something_to_show(world: World) -> None:
    """P10."""
    for replica in "abc":
        (world.unready / replica).touch()
    eventually(lambda: 'haproxy_backend_active_servers{proxy="replicas"} 0' in world.metrics())

    assert {world.request(path="/cached") for _ in range(9)} == {Answer(200, "c")}


def test_without_any_replica_programs_still_get_a_problem_document(world: World) -> None:
    for replica in "abc":
        world.swarm.kill(replica, signal.SIGKILL)
    # Until they are marked down: what hangs on a replica at that moment is cut without an answer.
    eventually(lambda: 'haproxy_backend_active_servers{proxy="replicas"} 0' in world.metrics())
    eventually(lambda: 'haproxy_backend_active_servers{proxy="unready"} 0' in world.metrics())

    connection = http.client.HTTPConnection(urlsplit(world.balancer.url).netloc, timeout=60)
    connection.request("GET", "/api/v1/machines")
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()

    assert (response.status, response.headers["Content-Type"]) == (503, "application/problem+json")
    assert int(response.headers["Retry-After"]) > 0
    assert (problem["type"], problem["status"]) == ("/problems/no-replica", 503)
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize("target", ["{}", "{}?x=1", "http://dragonfly{}"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/%6detrics", "/%72%65%61dyz", "/readyz%23"])
def test_what_replicas_tell_without_a_token_stays_inside(world: World, target: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(world.balancer.url).netloc, timeout=60)
    connection.request("GET", target.format(path))
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()

    assert (response.status, response.headers["Content-Type"]) == (404, "application/problem+json")
    assert (problem["type"], problem["status"]) == ("/problems/not-found", 404)
    assert world.request(path="/metricsx").status == 200, "of this name only"


def test_a_request_without_an_answer_is_repeated_if_it_has_a_key(world: World) -> None:
    """Replica a accepts and never answers; the next one asked does."""
    statuses: list[int] = []

    def lost_one() -> bool:
        statuses.append(world.request("POST", "/lose", {"Idempotency-Key": "k"}).status)
        return "a /lose" in world.accepted("/lose")

    eventually(lost_one)

    assert set(statuses) == {201}
    assert len(world.accepted("/lose")) > len(statuses)


def test_a_request_without_an_answer_is_sent_once_if_it_has_no_key(world: World) -> None:
    statuses: list[int] = []

    def lost_one() -> bool:
        statuses.append(world.request("POST", "/lose").status)
        return statuses[-1] == 502

    eventually(lost_one)

    assert set(statuses) <= {201, 502}
    assert len(world.accepted("/lose")) == len(statuses)


def test_an_answer_of_its_own_tells_which_replica_had_the_request(world: World) -> None:
    """So that what a replica's death cost can be told from what others lost."""
    servers: list[str] = []

    def lost_one() -> bool:
        connection = http.client.HTTPConnection(urlsplit(world.balancer.url).netloc, timeout=60)
        connection.request("POST", "/lose", b"{}")
        response = connection.getresponse()
        servers.extend([response.headers["Dragonfly-Server"]] if response.status == 502 else [])
        connection.close()
        return bool(servers)

    eventually(lost_one)

    assert servers == ["replica-1"]


def test_a_frozen_replica_is_found_out_and_its_streams_are_cut(world: World) -> None:
    connections: list[http.client.HTTPConnection] = []
    streams: dict[str, http.client.HTTPResponse] = {}

    def is_from_each() -> bool:
        connection = http.client.HTTPConnection(urlsplit(world.balancer.url).netloc, timeout=60)
        connections.append(connection)
        connection.request("GET", "/api/v1/events")
        response = connection.getresponse()
        streams[response.readline().decode().strip()] = response
        return streams.keys() == {"data: a", "data: b", "data: c"}

    eventually(is_from_each)

    world.swarm.kill("a", signal.SIGSTOP)
    cut = threading.Thread(target=streams["data: a"].read)
    cut.start()
    cut.join(timeout=60)

    assert not cut.is_alive()
    eventually(lambda: world.serving() == {"b", "c"})
    assert streams["data: b"].readline() in {b"\n", b"data: b\n"}
    for connection in connections:
        connection.close()


def test_a_dead_replica_is_started_again_at_the_same_address(restarting_world: World) -> None:
    replica = restarting_world.swarm.replica("b")
    before = replica.service.pid

    restarting_world.swarm.kill("b", signal.SIGKILL)
    eventually(lambda: bool(restarting_world.deaths))
    eventually(lambda: restarting_world.serving() == {"a", "b", "c"})

    assert restarting_world.deaths == [Death("replica-b", before, replica.service.pid)]


def test_a_dead_replica_stays_dead_if_told_so(world: World) -> None:
    replica = world.swarm.replica("b")

    world.swarm.kill("b", signal.SIGKILL)
    eventually(lambda: bool(world.deaths))

    assert world.deaths == [Death("replica-b", replica.service.pid, None)]
    assert not replica.service.running


def test_the_balancer_tells_prometheus_about_each_replica(world: World) -> None:
    assert 'haproxy_server_status{proxy="replicas",server="replica-3",state="UP"} 1' in world.metrics()
