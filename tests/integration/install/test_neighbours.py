"""The wire is asked for real: a neighbour's address is somebody's, a free one nobody's, and a DHCP server is heard."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dragonfly.sandbox.process import Program, Service
from tests.chaos.netns import Network, Node

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ASK = """
import sys
from dragonfly.install.neighbours import Neighbours
if sys.argv[1] == "holders":
    print(*Neighbours().holders("cluster", sys.argv[2:]))
else:
    print(*Neighbours().dhcp_servers("cluster"))
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, ...]]:
    network = Network(tmp_path / "network", nodes=2)
    with network.running():
        yield network.nodes


def asked(node: Node, *arguments: str) -> list[str]:
    command = [*node.host.enter, sys.executable, "-c", ASK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_the_address_of_a_neighbour_is_not_free(nodes: tuple[Node, ...]) -> None:
    host, neighbour = nodes

    assert asked(host, "holders", str(neighbour.cluster), "192.0.2.200") == [str(neighbour.cluster)]


def test_a_dhcp_server_on_the_wire_is_heard(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    host, neighbour = nodes
    assert asked(host, "dhcp") == []
    program = shutil.which("dnsmasq", path="/usr/sbin:/sbin") or shutil.which("dnsmasq")
    assert program, "scripts/ensure-test-programs installs dnsmasq-base"
    flags = (
        *("--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=cluster"),
        *("--dhcp-range=192.0.2.150,192.0.2.160,1h", f"--dhcp-leasefile={tmp_path / 'leases'}", "--log-facility=-"),
        f"--pid-file={tmp_path / 'pid'}",
    )
    server = Service(
        Program("dnsmasq", (*neighbour.host.enter, program, *flags), tmp_path / "dnsmasq.log"),
        (tmp_path / "pid").exists,
        within=30,
    )
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()

        found = asked(host, "dhcp")

    assert found == [str(neighbour.cluster)]
