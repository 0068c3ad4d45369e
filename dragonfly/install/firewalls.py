"""What a host's own firewall keeps from an installation, and how it is let through. Pure.

Which rules a firewall has is not looked into: whether they let all of it through, only who made them can tell for sure.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

from dragonfly.install.k3s import POD_NETWORK, SERVICE_NETWORK
from dragonfly.install.options import Options
from dragonfly.install.ports import Port, in_words, reached_by_others, reached_by_servers

Firewall: TypeAlias = Literal["firewalld", "ufw"]

_STATES: Final[Mapping[Firewall, str]] = {"firewalld": "runs", "ufw": "is enabled"}


def kept_out(firewall: Firewall, options: Options) -> str:
    """Return what such a firewall has to let through."""
    return (
        f"{firewall} {_STATES[firewall]}, and may keep out what the installation needs: from pods and services "
        f"{POD_NETWORK} and {SERVICE_NETWORK}; from the other servers {in_words(reached_by_servers(options))}; from "
        f"machines and people {in_words(reached_by_others(options))}"
    )


def way_through(firewall: Firewall, options: Options) -> str:
    """Return the commands that open it, and the one that turns it off.

    Other servers are let through altogether: etcd and the kubelet are opened for nobody else.
    """
    others = reached_by_others(options)
    opened = _firewalld(others) if firewall == "firewalld" else _ufw(others)
    off = "systemctl disable --now firewalld" if firewall == "firewalld" else "ufw disable"
    return f"Unless it lets that through already: {opened}. Or turn it off: {off}"


def _firewalld(ports: Iterable[Port]) -> str:
    said = " ".join(f"--add-port={number}/{protocol}" for protocol, number in ports)
    trusted = "firewall-cmd --permanent --zone=trusted"
    return (
        f"{trusted} --add-source={POD_NETWORK} --add-source={SERVICE_NETWORK} && firewall-cmd --permanent {said} && "
        f"firewall-cmd --reload. For each other server, by its address: {trusted} --add-source=ADDRESS && firewall-cmd "
        "--reload"
    )


def _ufw(ports: Iterable[Port]) -> str:
    said = {protocol: [str(number) for one, number in ports if one == protocol] for protocol in ("tcp", "udp")}
    opened = " && ".join(f"ufw allow {','.join(numbers)}/{protocol}" for protocol, numbers in said.items())
    return (
        f"ufw allow from {POD_NETWORK} && ufw allow from {SERVICE_NETWORK} && {opened}. For each other server, by its "
        "address: ufw allow from ADDRESS"
    )
