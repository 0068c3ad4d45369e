"""What a host is like before anything is installed on it: values alone; `host_survey` looks."""

import msgspec

from dragonfly.install.firewalls import Firewall
from dragonfly.install.options import JoinedMode, Options


class Listener(msgspec.Struct, frozen=True):
    """A port that somebody has."""

    protocol: str
    """`tcp` or `udp`."""
    port: int
    process: str = ""
    """Such as `nginx (pid 123)`; empty where that cannot be seen."""


class Airgap(msgspec.Struct, frozen=True):
    """What is in the directory that `--airgap` names."""

    present: bool = False
    missing: tuple[str, ...] = ()
    """Files that a bundle has and this one lacks."""
    broken: tuple[str, ...] = ()
    """Files that are not what its SHA256SUMS says."""
    architecture: str = ""
    """`amd64` or `arm64`; empty where the bundle does not say."""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that preflight decides from."""

    system: str = "Linux"
    distribution: str = ""
    architecture: str = "x86_64"
    is_root: bool = True
    has_systemd: bool = True
    hostname: str = "node-1"
    address: str = ""
    """Of the interface that the default route leaves by; empty if there is none."""
    network: str = ""
    """That address's network, such as `10.0.0.0/24`."""
    interface: str = ""
    cpus: int = 4
    memory: int = 8 << 30
    """Bytes."""
    free_disk: int = 100 << 30
    """Bytes free where /var/lib/rancher is, or will be."""
    listeners: tuple[Listener, ...] = ()
    firewalls: tuple[Firewall, ...] = ()
    """Those of this host that are on."""
    cgroup_controllers: tuple[str, ...] = ("cpu", "cpuset", "io", "memory", "pids")
    k3s: str = ""
    """What of a k3s is here that no installation of ours left; empty if nothing is."""
    kubernetes: str = ""
    """The same of another Kubernetes."""
    is_installed: bool = False
    """Whether an installation of ours has begun here, so that what follows from it is no trouble."""
    is_started: bool = False
    """Whether it has come so far that the ports and addresses are its own."""
    before: Options | None = None
    """What was asked of this host the last time."""
    steps: tuple[str, ...] = ()
    """Those of an installation that were begun here, also ones that were taken back."""
    left_to: tuple[str, ...] = ()
    """The servers to which this host left the cluster that it had founded."""
    kept_data: bool = False
    """Whether an installation that was taken off left its data."""
    dhcp_servers: tuple[str, ...] | None = ()
    """Those that answered on the wire; None if nobody could ask."""
    taken: tuple[str, ...] | None = ()
    """Addresses of those asked for that a neighbour answers for; None if nobody could ask."""
    is_wire_asked: bool = True
    """Whether anybody was to ask: a dry run sends nothing to all who are on the wire."""
    has_internet: bool = True
    """Whether the places that k3s and Tinkerbell come from answer."""
    airgap: Airgap | None = None
    """None without --airgap."""
    missing_files: tuple[str, ...] = ()
    """Files that options name and that cannot be read."""
    join_problem: str = ""
    """Why the server to join does not answer; empty if it does, or nobody joins."""
    told_etcd: JoinedMode = ""
    """Whose etcd the swarm there uses, as that server tells; empty if it does not, or nobody joins."""
    clock_skew: float = 0.0
    """Seconds between this clock and that of the server to join."""
