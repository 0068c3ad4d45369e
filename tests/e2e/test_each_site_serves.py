"""docs/sites.md: every replica serves everything, from its own memory; also while its site is cut off from the others.

What sites share is etcd alone, so a way to etcd that swallows all is a site that nobody else is heard from.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from dragonfly.sandbox.ports import PortLease
from tests.contract.etcds import CURRENT, Etcds, build
from tests.contract.proxy import Proxy
from tests.e2e.lone_swarm import PATIENCE, LoneSwarm
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

HERE, AWAY = 0, 1
"""The replica beside etcd, and the one whose site is cut off."""
_TEMPLATE: Final = {"spec": {"actions": [{"name": "write", "image": "example/image:1", "timeout": 60}]}}


@pytest.fixture
def etcds(tmp_path: Path, ports: PortLease) -> Iterator[Etcds]:
    directory = tmp_path / "etcd"
    directory.mkdir()
    etcds = Etcds(directory, ports, build(CURRENT))
    etcds.start()
    try:
        yield etcds
    finally:
        etcds.stop()


@pytest.fixture
def way(etcds: Etcds) -> Iterator[Proxy]:
    """The way of one site to etcd."""
    proxy = Proxy(etcds.ports[0])
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def swarm(etcds: Etcds, way: Proxy, tmp_path: Path, ports: PortLease) -> Iterator[LoneSwarm]:
    sites = {
        "a": {"DRAGONFLY_SITE": "fra1"},
        "b": {"DRAGONFLY_SITE": "ber1", "DRAGONFLY_ETCD_ENDPOINTS": way.url},
    }
    with LoneSwarm(etcds, tmp_path, ports, own=sites).running() as swarm:
        yield swarm


def test_the_page_and_every_route_are_answered_by_the_replica_that_is_asked(swarm: LoneSwarm) -> None:
    pages = [httpx.get(f"{url}/", trust_env=False) for url in swarm.urls]
    assert [(page.status_code, page.headers["Content-Type"].partition(";")[0]) for page in pages] == [
        (200, "text/html")
    ] * len(pages)
    assert len({page.text for page in pages}) == 1
    assert "<title>Dragonfly" in pages[0].text

    described = [httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"] for url in swarm.urls]
    assert described[HERE] == described[AWAY]
    prefix = "/api/v1/"
    reads = [path.removeprefix(prefix) for path, methods in described[HERE].items() if "get" in methods]
    plain = [path for path in reads if "{" not in path and not path.startswith("/")]
    assert {"machines", "templates", "provisions", "clusters", "events", "swarm"} <= set(plain)
    for number, name in enumerate("ab"):
        with swarm.api_at(number) as api:
            answers = {path: api.once("GET", path) for path in plain}
            made = api.once("POST", "templates", {"metadata": {"name": f"by-{name}"}, **_TEMPLATE})
        assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(plain, 200)
        assert {answer.headers["Dragonfly-Replica"] for answer in answers.values()} == {name}
        assert (made.status, made.headers["Dragonfly-Replica"]) == (201, name)
        # What was written through one is read from the other one's memory.
        with swarm.api_at(1 - number) as api:
            revision = made.document["metadata"]["revision"]
            assert api.once("GET", f"templates/by-{name}?minRevision={revision}").status == 200


def test_a_site_that_is_cut_off_goes_on_to_read_and_to_follow(swarm: LoneSwarm, way: Proxy) -> None:
    with swarm.api_at(HERE) as here, swarm.api_at(AWAY) as away:
        revision = here.post("machines", _machine(1))["metadata"]["revision"]
        assert away.once("GET", f"machines/m-1?minRevision={revision}").status == 200
        with _following(swarm, AWAY) as feed:
            assert next(feed)[0] == "ping"
            way.freeze()
            eventually("it says how old its reads are", lambda: "Dragonfly-Stale" in _machines(away), within=PATIENCE)
            assert away.once("POST", "templates", {"metadata": {"name": "no"}, **_TEMPLATE}).status == 503
            assert next(data for event, data in feed if event == "ping" and data.get("stale"))["stale"] > 0
            assert httpx.get(f"{swarm.urls[AWAY]}/", trust_env=False).status_code == 200

            assert here.once("POST", "machines", _machine(2)).status == 201, "the others go on"
            _machines(away)

            way.thaw()
            # On the stream that was open all the time, and without a gap.
            for event, data in feed:
                assert event != "reset", data
                if (event, data.get("name")) == ("created", "m-2"):
                    break
            else:
                pytest.fail("the stream has ended")
        swarm.until_well()


def _machine(number: int) -> dict[str, Any]:
    interface = {"mac": f"02:51:7e:00:00:{number:02x}", "dhcp": True}
    return {"metadata": {"name": f"m-{number}"}, "spec": {"interfaces": [interface]}}


def _machines(api: Any) -> Mapping[str, str]:
    """See that the machine is listed, and at once; the answer's headers."""
    answer = api.once("GET", "machines")
    assert answer.status == 200
    assert [item["metadata"]["name"] for item in answer.document["items"]] == ["m-1"]
    headers: Mapping[str, str] = answer.headers
    return headers


@contextmanager
def _following(swarm: LoneSwarm, number: int) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Follow machines at a replica, over one connection: each event with its data."""
    headers = {"Authorization": f"Bearer {swarm.token}", "Accept": "text/event-stream"}
    url = f"{swarm.urls[number]}/api/v1/events?kind=Machine"
    # A quiet stream has a sign of life every 15 seconds.
    with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200
        yield _events(answer.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    event = ""
    for line in lines:
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield event, json.loads(line.removeprefix("data: "))
