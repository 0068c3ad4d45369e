"""A network of the test's own: namespaces on two bridges, and cables that can be pulled.

              this computer
                    |               management: clients and Kubernetes
        +-----------+-----------+
      node 0      node 1      node 2
        +-----------+-----------+   cluster: etcd's members, and who asks them

No namespace has a name: each lives as long as a process in it that does nothing and dies with this one, and everything
in it goes with it. So nothing is left however a test ends, kill -9 included.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from dragonfly.sandbox.host import Host
from dragonfly.sandbox.process import Program, Service

_MANAGEMENT: Final = IPv4Network("198.18.0.0/15")
"""For tests of networks (RFC 2544): nothing else that this computer talks to is there."""
_PREFIX: Final = 28
_CLUSTER: Final = IPv4Network("192.0.2.0/24")
"""For documentation (RFC 5737); never seen outside the namespaces."""


class NoNetwork(Exception):
    """The network can't be made, or changed; the message says why."""


class Node:
    """A namespace with an address on each network."""

    def __init__(self, number: int, directory: Path, management: IPv4Address) -> None:
        self.cluster = _CLUSTER[number + 1]
        self.management = management
        self.cable = f"c{number}"
        """The end of its cluster cable at the bridge."""
        self.port = f"m{number}"
        self.holder = _holder(f"node-{number}", directory)

    @property
    def host(self) -> Host:
        return Host(str(self.cluster), str(self.management), _entering(self.holder))


class Network:
    """Three nodes, or as many as asked for, that this process reaches whatever cables are pulled."""

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        """Nothing is made before `running`."""
        directory.mkdir(parents=True, exist_ok=True)
        # Other tests at the same time are other processes.
        subnets = 1 << (_PREFIX - _MANAGEMENT.prefixlen)
        start = int(_MANAGEMENT.network_address) + (os.getpid() % subnets << (32 - _PREFIX))
        self._subnet = IPv4Network((start, _PREFIX))
        self.link = f"df{os.getpid()}"
        """The name of this computer's end."""
        self.address = str(self._subnet[1])
        """Of this computer, as the nodes reach it."""
        self.spare = self._subnet[-2]
        """An address of the management network that nobody has."""
        self._switch = _holder("switch", directory)
        self.nodes = tuple(Node(number, directory, self._subnet[number + 2]) for number in range(nodes))

    @contextmanager
    def running(self) -> Iterator[Network]:
        """Have the network for the block.

        Raises:
            NoNetwork: it can't be made, by anybody but root above all.
            ProcessFailed: nor can a namespace.
        """
        if os.geteuid() != 0:
            raise NoNetwork("this test makes network namespaces: run it as root")
        with ExitStack() as stack:
            for holder in (self._switch, *(node.holder for node in self.nodes)):
                stack.callback(holder.kill)
                holder.start()
            self._wire()
            # The kernel does it too, a moment after the last process in there has ended.
            stack.callback(_ip, None, [f"link delete {self.link}"])
            yield self

    def cut(self, *nodes: int) -> None:
        """Pull the cluster cables of these nodes at the bridge: frames go nowhere, and nobody is told."""
        _ip(self._switch, [f"link set {self.nodes[node].cable} nomaster" for node in nodes])

    def heal(self) -> None:
        """Plug in every cable."""
        _ip(self._switch, [f"link set {node.cable} master cluster" for node in self.nodes])

    def _wire(self) -> None:
        switch = self._switch.pid
        _ip(self._switch, ["link set lo up", "link add cluster type bridge", "link add management type bridge"])
        _ip(self._switch, ["link set cluster up", "link set management up"])
        _ip(None, [f"link add {self.link} type veth peer name uplink netns {switch}"])
        _ip(None, [f"address add {self.address}/{_PREFIX} dev {self.link}", f"link set {self.link} up"])
        _ip(self._switch, ["link set uplink master management up"])
        for node in self.nodes:
            self._wire_node(node)

    def _wire_node(self, node: Node) -> None:
        pid = self._switch.pid
        _ip(
            node.holder,
            [
                "link set lo up",
                f"link add cluster type veth peer name {node.cable} netns {pid}",
                f"link add management type veth peer name {node.port} netns {pid}",
                f"address add {node.cluster}/{_CLUSTER.prefixlen} dev cluster",
                f"address add {node.management}/{_PREFIX} dev management",
                "link set cluster up",
                "link set management up",
            ],
        )
        _ip(
            self._switch,
            [f"link set {node.cable} master cluster up", f"link set {node.port} master management up"],
        )


def _holder(name: str, directory: Path) -> Service:
    """A process that keeps a namespace of its own alive."""
    service: Service

    def is_there() -> bool:
        return Path(f"/proc/{service.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()

    program = Program(name, ("unshare", "--net", "sleep", "infinity"), directory / f"{name}.log")
    service = Service(program, is_there, within=60)
    return service


def _entering(holder: Service) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")


def _ip(inside: Service | None, commands: Sequence[str]) -> None:
    command = [*(_entering(inside) if inside else ()), "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(commands), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise NoNetwork(f"{'; '.join(commands)}: {done.stderr.strip()}")
