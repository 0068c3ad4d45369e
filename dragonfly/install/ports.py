"""The ports of an installation: who needs each, and from where it is reached. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from dragonfly.install.options import API_PORT, SERVICE_PORT, Options
from dragonfly.install.own_members import CLIENT_PORT, PEER_PORT

Port: TypeAlias = tuple[str, int]
"""`tcp` or `udp`, and the number."""

TCP_PORTS: Final = {
    API_PORT: "the API server",
    6444: "k3s",
    10248: "the kubelet",
    10249: "kube-proxy",
    10250: "the kubelet",
    10256: "kube-proxy",
    10257: "the controller manager",
    10259: "the scheduler",
    2379: "etcd",
    2380: "etcd",
    2382: "etcd's JSON gateway",
    SERVICE_PORT: "the swarm",
    2222: "Tinkerbell's consoles",
    7080: "Tinkerbell",
    7173: "HookOS",
    42113: "Tinkerbell",
}
UDP_PORTS: Final = {
    67: "Tinkerbell's DHCP",
    69: "Tinkerbell's TFTP",
    514: "Tinkerbell's syslog",
    8472: "the pods' network",
}
DEDICATED_PORTS: Final = {CLIENT_PORT: "the swarm's etcd", PEER_PORT: "the swarm's etcd"}

_DHCP: Final = ("udp", 67)
_OWN: Final = frozenset({6444, 10248, 10249, 10256, 10257, 10259})
"""What nobody asks but the host itself."""
_SERVERS: Final = frozenset({2379, 2380, 2382, 8472, 10250, *DEDICATED_PORTS})
"""What no other computer asks but the other servers. The API server is asked by people, too."""


def needed(options: Options) -> Mapping[Port, str]:
    """Return the ports that must be free, each with who needs it."""
    tcp = TCP_PORTS | (DEDICATED_PORTS if options.etcd == "dedicated" else {})
    found = {("tcp", number): use for number, use in tcp.items()} | {
        ("udp", number): use for number, use in UDP_PORTS.items()
    }
    return found if options.dhcp else {port: use for port, use in found.items() if port != _DHCP}


def reached_by_servers(options: Options) -> tuple[Port, ...]:
    """Return the ports that other servers reach and nobody else should, in order."""
    known = set(needed(options))
    if options.may_have_member:
        known |= {("tcp", number) for number in DEDICATED_PORTS}
    return tuple(sorted(port for port in known if port[1] in _SERVERS))


def reached_by_others(options: Options) -> tuple[Port, ...]:
    """Return the ports that machines and people reach, and servers too, in order."""
    return tuple(sorted(port for port in needed(options) if port[1] not in _SERVERS | _OWN))


def in_words(ports: Iterable[Port]) -> str:
    """Return such as `TCP 2379, 2380; UDP 8472`."""
    by_protocol: dict[str, list[str]] = {}
    for protocol, number in ports:
        by_protocol.setdefault(protocol.upper(), []).append(str(number))
    return "; ".join(f"{protocol} {', '.join(numbers)}" for protocol, numbers in by_protocol.items())
