"""deploy/lb/keepalived.conf: the address is on one host, and moves to another when the load balancer there fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dragonfly.sandbox.apt import program
from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.progress import SILENT
from tests.chaos.netns import Network, Node
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CONFIG = (Path(__file__).parents[2] / "deploy" / "lb" / "keepalived.conf").read_text()
ADDRESS = "192.0.2.100"


class Front:
    """A host with keepalived and what stands for HAProxy's page of metrics."""

    def __init__(self, node: Node, others: list[Node], number: int, directory: Path) -> None:
        self.node = node
        config = directory / f"keepalived-{number}.conf"
        config.write_text(_for(node, others, 100 + number))
        enter = node.host.enter
        pages = directory / f"pages-{number}"
        pages.mkdir()
        (pages / "metrics").write_text("haproxy_up 1\n")
        serve = ("-m", "http.server", "--bind", "127.0.0.1", "--directory", str(pages), "8404")
        self.haproxy = Service(
            Program(f"haproxy-{number}", (*enter, sys.executable, *serve), directory / f"haproxy-{number}.log"),
            self._serves,
            within=30,
        )
        pids = [f"--{kind}pid={directory / f'{kind}{number}.pid'}" for kind in ("", "vrrp_")]
        command = (
            *enter,
            str(program("keepalived", SILENT)),
            *("--dont-fork", "--log-console", "--vrrp", f"--use-file={config}"),
            *pids,
        )
        self.keepalived = Service(
            Program(f"keepalived-{number}", command, directory / f"keepalived-{number}.log"), lambda: True, within=10
        )

    def has_address(self) -> bool:
        return f"inet {ADDRESS}/" in self._run("ip", "address", "show", "dev", "cluster")

    def _serves(self) -> bool:
        return "haproxy_up" in self._run("curl", "-s", "http://127.0.0.1:8404/metrics")

    def _run(self, *command: str) -> str:
        return subprocess.run([*self.node.host.enter, *command], capture_output=True, text=True, check=False).stdout


def _for(node: Node, others: list[Node], priority: int) -> str:
    """The shipped file with what it says is to be changed on each host."""
    changes = {
        "interface eth0 ": "interface cluster ",
        "priority 100 ": f"priority {priority} ",
        "10.0.0.21 ": f"{node.cluster} ",
        "10.0.0.22 ": " ".join(str(other.cluster) for other in others) + " ",
        "10.0.0.50/24 ": f"{ADDRESS}/24 ",
    }
    text = CONFIG
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[list[Front]]:
    network = Network(tmp_path / "network", nodes=2)
    with ExitStack() as stack:
        stack.enter_context(network.running())
        nodes = list(network.nodes)
        found = [
            Front(node, [other for other in nodes if other is not node], number, tmp_path)
            for number, node in enumerate(nodes)
        ]
        for front in found:
            for service in (front.haproxy, front.keepalived):
                stack.callback(service.stop)
                service.start()
        yield found


def test_the_address_moves_when_its_load_balancer_dies_and_stays_when_that_comes_back(fronts: list[Front]) -> None:
    def holders() -> list[Front]:
        return [front for front in fronts if front.has_address()]

    eventually("one host has the address", lambda: len(holders()) == 1, within=120)
    (first,) = holders()
    (other,) = [front for front in fronts if front is not first]

    first.haproxy.stop()
    eventually("the other host has the address", lambda: holders() == [other], within=120)

    first.haproxy.start()
    other.keepalived.stop()
    eventually("it moves back when the other host goes", lambda: holders() == [first], within=120)
