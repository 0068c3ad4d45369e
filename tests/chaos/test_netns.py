"""The network that the tests of etcd stand on: cables that are pulled are pulled, and nothing of it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonfly.sandbox.process import Program, Service
from tests.chaos.netns import Network
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.slow

_PORT = 9
"""Nobody listens there: to be refused is to be reached."""
_CONNECT = f"""
import socket, sys
try:
    socket.create_connection((sys.argv[1], {_PORT}), timeout=5)
except ConnectionRefusedError:
    print("reached")
except OSError:
    print("silence")
"""
_OWNER = """
import sys, threading
from pathlib import Path
from tests.chaos.netns import Network
network = Network(Path(sys.argv[1]))
with network.running():
    (Path(sys.argv[1]) / "link").write_text(network.link)
    threading.Event().wait()
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path / "network").running() as network:
        yield network


def test_a_cable_that_is_pulled_carries_nothing_until_it_is_plugged_in(network: Network) -> None:
    assert {pair: reaches(network, *pair) for pair in ((0, 1), (1, 2), (2, 0))} == dict.fromkeys(
        ((0, 1), (1, 2), (2, 0)), True
    )

    network.cut(0)
    assert (reaches(network, 0, 1), reaches(network, 2, 0), reaches(network, 1, 2)) == (False, False, True)
    assert reached_from(network.nodes[0].host.enter, network.address), "Kubernetes and people are on another cable"

    network.heal()
    eventually("node 0 is back", lambda: reaches(network, 0, 1) and reaches(network, 2, 0), within=60)


def test_nothing_is_left_of_a_network_whose_owner_was_killed(tmp_path: Path) -> None:
    told = tmp_path / "link"
    program = Program("owner", (sys.executable, "-c", _OWNER, str(tmp_path)), tmp_path / "owner.log")
    owner = Service(program, lambda: told.exists() and told.read_text() != "", within=60)
    try:
        owner.start()
        link = Path("/sys/class/net") / told.read_text()
        assert link.exists()
        owner.signal(signal.SIGKILL)
        eventually("its link to this computer is gone", lambda: not link.exists(), within=60)
    finally:
        owner.kill()


def reaches(network: Network, one: int, other: int) -> bool:
    return reached_from(network.nodes[one].host.enter, network.nodes[other].host.address)


def reached_from(enter: tuple[str, ...], address: str) -> bool:
    command = [*enter, sys.executable, "-c", _CONNECT, address]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "reached"
