"""Looks at this host for preflight: files of the kernel, a few programs, the wire. Nothing is changed."""

import fcntl
import os
import platform
import shutil
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from dragonfly.install import k3s
from dragonfly.install.bundle_files import ARCHITECTURE, IMAGES, NEEDED, SUMS
from dragonfly.install.control_groups import is_running
from dragonfly.install.firewalls import Firewall
from dragonfly.install.host import sha256
from dragonfly.install.host_facts import Airgap, HostFacts, Listener
from dragonfly.install.journal import Journal
from dragonfly.install.neighbours import Neighbours, Nobody
from dragonfly.install.options import Options
from dragonfly.install.server_asked import asked

_SOURCES: Final = ("github.com", "ghcr.io")
_ANSWER_SECONDS: Final = 5
_LISTENS: Final = {"tcp": "0A", "udp": "07"}
"""The states in /proc/net in which a socket takes what comes."""

_OTHER_KUBERNETES: Final = {
    "/etc/kubernetes/manifests": "the manifests of kubeadm",
    "/var/lib/kubelet/config.yaml": "a kubelet",
    "/etc/rancher/rke2": "RKE2",
    "/var/snap/microk8s": "MicroK8s",
}


def survey(
    options: Options,
    journal: Journal,
    *,
    asks_wire: bool = True,
    root: Path = Path("/"),
    neighbours: Neighbours | None = None,
) -> HostFacts:
    """Return what this host is like. What cannot be found out is told as such, and raises nothing.

    Args:
        asks_wire: whether to send frames that everybody on the wire gets: for DHCP servers, for who has an address.
    """
    interface, address, network = _default_route(root)
    records = journal.records()
    installed = any(record.state != "undone" for record in records.values())
    started = "k3s" in records and records["k3s"].state != "undone"
    wire = (neighbours or Neighbours()) if asks_wire else Nobody()
    facts = HostFacts(
        system=platform.system(),
        distribution=_distribution(root),
        architecture=platform.machine(),
        is_root=os.geteuid() == 0,
        has_systemd=(root / "run/systemd/system").is_dir(),
        hostname=socket.gethostname().lower(),
        address=address,
        network=network,
        interface=interface,
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        free_disk=_free_disk(root / "var/lib/rancher"),
        listeners=tuple(_listeners(root)),
        firewalls=tuple(_firewalls(root)),
        cgroup_controllers=_cgroups(root),
        k3s=_first(root, {str(k3s.BINARY): "k3s", str(k3s.UNIT): "k3s's service", str(k3s.CONFIG): "k3s's settings"}),
        kubernetes=_first(root, _OTHER_KUBERNETES),
        is_installed=installed,
        is_started=started,
        before=journal.options(),
        steps=tuple(records),
        left_to=journal.left_to(),
        kept_data=bool(records) and not installed,
        dhcp_servers=_dhcp_servers(wire, interface) if options.dhcp and options.is_first and not started else (),
        taken=_taken(wire, interface, options.addresses),
        is_wire_asked=asks_wire,
        has_internet=bool(options.airgap) or _has_internet(),
        airgap=airgap(Path(options.airgap)) if options.airgap else None,
        missing_files=tuple(_missing_files(options)),
    )
    return _with_server(facts, options)


def airgap(directory: Path) -> Airgap:
    """Return what is in a bundle, and whether it is what its checksums say."""
    if not directory.is_dir():
        return Airgap()
    missing = tuple(name for name in NEEDED if not (directory / name).exists())
    sums = directory / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    named = [line.partition(" ")[::2] for line in lines]
    wrong = [name.strip(" *") for digest, name in named if not _is_what(directory / name.strip(" *"), digest)]
    listed = {name.strip(" *") for _, name in named}
    said = directory / ARCHITECTURE
    return Airgap(
        present=True,
        missing=missing,
        broken=tuple(wrong) + tuple(_unlisted(directory, listed)),
        architecture=said.read_text(encoding="utf-8", errors="replace").strip() if said.is_file() else "",
    )


def image_files(directory: str) -> tuple[str, ...]:
    """Return the names of a bundle's archives of images."""
    images = Path(directory) / IMAGES
    return tuple(sorted(file.name for file in images.iterdir())) if directory and images.is_dir() else ()


def _is_what(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _unlisted(directory: Path, listed: set[str]) -> Iterator[str]:
    """What nobody vouches for: it would be imported as well."""
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and name != SUMS and name not in listed:
            yield name


def _distribution(root: Path) -> str:
    file = root / "etc/os-release"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME=")), "")


def _default_route(root: Path) -> tuple[str, str, str]:
    """Return the interface, its address and its network; empty if there is no default route."""
    table = root / "proc/net/route"
    rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]] if table.is_file() else []
    defaults = sorted((int(row[6]), row[0]) for row in rows if row[1] == "00000000" and int(row[3], 16) & 1)
    if not defaults:
        return "", "", ""
    interface = defaults[0][1]
    address, mask = _address(interface)
    return interface, address, str(IPv4Network(f"{address}/{mask}", strict=False)) if address else ""


def _address(interface: str) -> tuple[str, str]:
    # SIOCGIFADDR and SIOCGIFNETMASK; netlink would be a page.
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            parts = [fcntl.ioctl(probe, number, request)[20:24] for number in (0x8915, 0x891B)]
        except OSError:
            return "", ""
    return socket.inet_ntoa(parts[0]), socket.inet_ntoa(parts[1])


def _free_disk(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _listeners(root: Path) -> Iterator[Listener]:
    owners: dict[str, str] | None = None
    for protocol, state in _LISTENS.items():
        for table in (root / "proc/net" / protocol, root / "proc/net" / f"{protocol}6"):
            for row in _rows(table):
                if row[3] != state:
                    continue
                if owners is None:
                    owners = _owners(root)
                yield Listener(protocol, int(row[1].rpartition(":")[2], 16), owners.get(row[9], ""))


def _rows(table: Path) -> list[list[str]]:
    return [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]] if table.is_file() else []


def _owners(root: Path) -> dict[str, str]:
    """Return who has each socket, by its inode; others' processes are seen by root alone."""
    found: dict[str, str] = {}
    for process in (root / "proc").glob("[0-9]*"):
        for descriptor in _listed(process / "fd"):
            try:
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found[target[8:-1]] = f"{(process / 'comm').read_text().strip()} (pid {process.name})"
            except OSError:  # it ended, or is somebody else's
                continue
    return found


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:  # as above
        return []


def _firewalls(root: Path) -> Iterator[Firewall]:
    if is_running(root / "sys/fs/cgroup", "firewalld.service"):
        yield "firewalld"
    if _is_ufw_enabled(root / "etc/ufw/ufw.conf"):
        yield "ufw"


def _is_ufw_enabled(file: Path) -> bool:
    """As ufw itself reads it: it is enabled where this file says so last."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    said = [value for name, _, value in (line.strip().lower().partition("=") for line in lines) if name == "enabled"]
    return bool(said) and said[-1].strip("\"'") == "yes"


def _cgroups(root: Path) -> tuple[str, ...]:
    unified = root / "sys/fs/cgroup/cgroup.controllers"
    if unified.is_file():
        return tuple(sorted(unified.read_text(encoding="ascii").split()))
    table = root / "proc/cgroups"
    return tuple(sorted(row[0] for row in _rows(table) if row[3] == "1"))


def _first(root: Path, places: dict[str, str]) -> str:
    found = (f"{what} ({place})" for place, what in places.items() if (root / place.lstrip("/")).exists())
    return next(found, "")


def _dhcp_servers(wire: Neighbours, interface: str) -> tuple[str, ...] | None:
    try:
        return wire.dhcp_servers(interface)
    except OSError:
        return None


def _taken(wire: Neighbours, interface: str, addresses: tuple[str, ...]) -> tuple[str, ...] | None:
    try:
        return wire.holders(interface, addresses)
    except OSError:
        return None


def _has_internet() -> bool:
    return all(_answers(*_way_to(name)) for name in _SOURCES)


def _way_to(name: str) -> tuple[str, int]:
    """Return host and port that are asked for what is at a name: its own, or those of the proxy that is set."""
    proxy = getproxies().get("https", "")
    found = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not found.hostname or proxy_bypass(name):
        return name, 443
    return found.hostname, found.port or (443 if found.scheme == "https" else 80)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_SECONDS):
            return True
    except OSError:
        return False


def _missing_files(options: Options) -> Iterator[str]:
    external = options.external
    named = (
        options.token_file,
        options.image_archive,
        *((external.ca_file, external.password_file) if external else ()),
    )
    for path in filter(None, named):
        if not os.access(path, os.R_OK) or not Path(path).is_file():
            yield path


def _with_server(facts: HostFacts, options: Options) -> HostFacts:
    if not options.join:
        return facts
    told = asked(options)
    return msgspec.structs.replace(facts, join_problem=told.problem, clock_skew=told.skew, told_etcd=told.etcd)
