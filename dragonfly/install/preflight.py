"""Whether a host can carry an installation. Pure: facts and options go in, findings with their remedies come out.

A finding that is an error ends the installation before anything is changed; a warning is told and gone past. A host on
which an installation of ours has begun is looked at with other eyes: what that left there is no trouble.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Literal

import msgspec

from dragonfly.install.again import conflicts
from dragonfly.install.firewalls import kept_out, way_through
from dragonfly.install.host_facts import HostFacts, Listener
from dragonfly.install.options import Options
from dragonfly.install.ports import DEDICATED_PORTS, needed

Level = Literal["ok", "warning", "error"]

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""As the kernel names them, and as k3s does."""

GIB: Final = 1 << 30
_LEAST_CPUS: Final = 2
_LEAST_MEMORY: Final = 3 * GIB
"""k3s's server with etcd, Tinkerbell and three replicas take 2 GiB between them when idle."""
_GOOD_MEMORY: Final = 7 * GIB
_LEAST_DISK: Final = 10 * GIB
_LAST_DISK: Final = 2 * GIB
"""What an installation that has begun needs to go on: room for an image, its copy, and what etcd writes."""
_MOST_SKEW: Final = 5.0
_CGROUPS: Final = ("cpu", "cpuset", "memory", "pids")


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    level: Level
    found: str
    remedy: str = ""
    """What to do about it; empty where all is well."""


def preflight(options: Options, facts: HostFacts) -> tuple[Check, ...]:
    """Return what was found, in the order in which people would look."""
    return tuple(
        check
        for group in (
            _system(facts),
            _size(facts),
            _ground(options, facts),
            _conflicts(options, facts),
            _ports(options, facts),
            _firewalls(options, facts),
            _network(options, facts),
        )
        for check in group
    ) + tuple(_sources(options, facts))


def errors(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.level == "error")


def _system(facts: HostFacts) -> Iterator[Check]:
    if facts.system != "Linux":
        yield Check("system", "error", facts.system, "Install on Linux; other systems run the command line alone.")
        return
    if facts.architecture not in ARCHITECTURES:
        known = " or ".join(ARCHITECTURES)
        yield Check("system", "error", f"Linux on {facts.architecture}", f"Take a host with {known}.")
    else:
        yield Check("system", "ok", f"{facts.distribution or 'Linux'} on {facts.architecture}")
    yield _verdict("user", facts.is_root, "root", "not root", "Run it as root: sudo dragonfly install.")
    yield _verdict(
        "systemd",
        facts.has_systemd,
        "runs this host",
        "does not run this host",
        "Take a host that systemd runs; in a container, k3s itself can be run (docs/kubernetes.md).",
    )


def _size(facts: HostFacts) -> Iterator[Check]:
    """What is there may be less than at first, and is what an installation that has begun goes on with."""
    lacking: Level = "warning" if facts.is_started else "error"
    cpus, memory = f"{facts.cpus}", f"{facts.memory / GIB:.1f} GiB"
    if facts.cpus < _LEAST_CPUS:
        yield Check("CPUs", lacking, cpus, f"Give this host {_LEAST_CPUS} CPUs or more.")
    else:
        yield Check("CPUs", "ok", cpus)
    if facts.memory < _LEAST_MEMORY:
        yield Check("memory", lacking, memory, "Give this host 4 GiB or more; 8 GiB are comfortable.")
    elif facts.memory < _GOOD_MEMORY:
        yield Check("memory", "warning", memory, "Enough for some hundred machines; give this host 8 GiB for more.")
    else:
        yield Check("memory", "ok", memory)
    yield _disk(facts)


def _disk(facts: HostFacts) -> Check:
    found = f"{facts.free_disk / GIB:.1f} GiB free"
    if facts.free_disk >= _LEAST_DISK:
        return Check("disk", "ok", found)
    if facts.is_started and facts.free_disk >= _LAST_DISK:
        return Check("disk", "warning", found, "Free some where /var/lib/rancher is, before images and etcd fill it.")
    least = _LAST_DISK if facts.is_started else _LEAST_DISK
    return Check("disk", "error", found, f"Free {least // GIB} GiB or more where /var/lib/rancher is or will be.")


def _ground(options: Options, facts: HostFacts) -> Iterator[Check]:
    missing = [name for name in _CGROUPS if name not in facts.cgroup_controllers]
    yield _verdict(
        "cgroups",
        not missing,
        "all that containers need",
        f"without {', '.join(missing)}",
        "Turn them on at boot: add cgroup_enable=memory cgroup_memory=1 to the kernel's command line, or boot with "
        "systemd.unified_cgroup_hierarchy=1.",
    )
    if facts.kept_data:
        yield Check(
            "data",
            "warning",
            "an installation that was taken off left its data, and this one goes on with it"
            + ("" if options.is_first else ", unless the cluster went on without this host"),
            "If you don't want that: dragonfly uninstall --delete-data",
        )
    if facts.is_installed:
        yield Check("kubernetes", "ok", "an installation has begun here, and is gone on with")
    elif facts.k3s or facts.kubernetes:
        yield Check(
            "kubernetes",
            "error",
            f"there is one already: {facts.k3s or facts.kubernetes}",
            "Take another host, or install into that cluster by its manifests (docs/kubernetes.md).",
        )
    else:
        yield Check("kubernetes", "ok", "none here yet")


def _conflicts(options: Options, facts: HostFacts) -> Iterator[Check]:
    for conflict in conflicts(facts.before, facts.steps, options, left_to=facts.left_to):
        yield Check(conflict.name, "error", conflict.found, conflict.remedy)


def _ports(options: Options, facts: HostFacts) -> Iterator[Check]:
    if facts.is_started:
        return
    wanted = needed(options)
    yield from _ports_of_a_member(options, facts)
    taken = [listener for listener in facts.listeners if (listener.protocol, listener.port) in wanted]
    for listener in taken:
        yield Check(
            "ports",
            "error",
            f"{listener.protocol} {listener.port}, which {wanted[listener.protocol, listener.port]} needs, is "
            f"{_holder(listener)}",
            _free(listener),
        )
    if not taken:
        yield Check("ports", "ok", "all free")


def _ports_of_a_member(options: Options, facts: HostFacts) -> Iterator[Check]:
    """Whose etcd the swarm has is known only to the cluster that this host joins."""
    if options.is_first or options.etcd:
        return
    for listener in facts.listeners:
        if listener.protocol == "tcp" and listener.port in DEDICATED_PORTS:
            found = f"tcp {listener.port} is {_holder(listener)}, which the swarm's etcd needs if it is one of its own"
            yield Check("ports", "warning", found, _free(listener))


def _holder(listener: Listener) -> str:
    return f"taken by {listener.process}" if listener.process else "taken"


def _free(listener: Listener) -> str:
    what = listener.process.partition(" ")[0] if listener.process else "what listens there"
    instead = ", or install with --no-dhcp" if (listener.protocol, listener.port) == ("udp", 67) else ""
    return f"Stop {what}, or have it listen elsewhere{instead}."


def _firewalls(options: Options, facts: HostFacts) -> Iterator[Check]:
    """Also of one that has begun: rules are changed, and a firewall can be turned on later."""
    for firewall in facts.firewalls:
        yield Check("firewall", "warning", kept_out(firewall, options), way_through(firewall, options))
    if not facts.firewalls:
        yield Check("firewall", "ok", "neither firewalld nor ufw is on")


def _network(options: Options, facts: HostFacts) -> Iterator[Check]:
    if not facts.address:
        yield Check("network", "error", "no default route", "Give this host an IPv4 address and a default route.")
        return
    yield Check("network", "ok", f"{facts.address} on {facts.interface}")
    yield from _addresses(options, facts)
    if options.etcd == "dedicated" and options.is_first:
        yield Check(
            "etcd",
            "warning",
            "the swarm's own etcd has one member, on this host, until others join",
            "Join two more hosts: each gets a member of it (dragonfly install --join).",
        )
    if options.dhcp and options.is_first:
        yield _dhcp(facts)
    if options.join:
        yield from _join(options, facts)
    if options.is_first and not options.tinkerbell_ip:
        yield Check(
            "Tinkerbell's address",
            "warning",
            f"that of this host, {facts.address}: machines boot from it alone",
            "With more than one host give Tinkerbell an address that moves: --tinkerbell-ip.",
        )


def _addresses(options: Options, facts: HostFacts) -> Iterator[Check]:
    for address in options.addresses:
        if facts.network and IPv4Address(address) not in IPv4Network(facts.network):
            yield Check(
                f"address {address}",
                "error",
                f"not in {facts.network}, the network of {facts.interface}",
                "Take a free address of that network: it moves between hosts by ARP.",
            )
        elif address == facts.address:
            yield Check(f"address {address}", "error", "this host's own", "Take one that no host has.")
        elif facts.taken is None:
            yield _unasked(f"address {address}", facts, "nobody could ask whose it is", "Make sure that it is free.")
        elif address in facts.taken and options.is_first and not _is_its_own(address, facts):
            yield _held(address, facts)
        else:
            yield Check(f"address {address}", "ok", "free")


def _held(address: str, facts: HostFacts) -> Check:
    name, found = f"address {address}", "a neighbour answers for it"
    if facts.is_started:
        return Check(name, "warning", found, "If that is no server of this cluster, take an address that is nobody's.")
    return Check(name, "error", found, "Take an address that is nobody's.")


def _is_its_own(address: str, facts: HostFacts) -> bool:
    """Whether this host was told of it before: it may be at another server of the cluster, and the step looks."""
    return facts.is_started and facts.before is not None and address in facts.before.addresses


def _dhcp(facts: HostFacts) -> Check:
    if facts.dhcp_servers is None:
        return _unasked("DHCP", facts, "nobody could ask", "Make sure that there is no other DHCP server.")
    others = [server for server in facts.dhcp_servers if server != facts.address]
    if others and not facts.is_started:
        return Check(
            "DHCP",
            "error",
            f"{', '.join(others)} answers on the wire",
            "Two DHCP servers on one wire give machines whatever comes first. Turn that one off, have Tinkerbell in a "
            "network of its own, or install with --no-dhcp and point that server to Tinkerbell (docs/install.md).",
        )
    return Check("DHCP", "ok", "nobody else answers on the wire")


def _unasked(name: str, facts: HostFacts, found: str, remedy: str) -> Check:
    """The wire was not asked, or cannot be."""
    if facts.is_wire_asked:
        return Check(name, "warning", found, remedy)
    return Check(
        name, "warning", "the wire was not asked: a dry run sends nothing there", "To ask it: --dry-run --probe."
    )


def _join(options: Options, facts: HostFacts) -> Iterator[Check]:
    was_joined = facts.before is not None and facts.before.join == options.join
    if facts.is_started and was_joined and facts.join_problem:
        found = f"{options.join}: {facts.join_problem}; this host is a server of its cluster by now"
        remedy = "Nothing, if that one has left. Else look whether k3s runs there."
        yield Check("server to join", "warning", found, remedy)
        return
    yield _verdict(
        "server to join",
        not facts.join_problem,
        f"{options.join} answers",
        f"{options.join}: {facts.join_problem}",
        "Look whether k3s runs there and whether a firewall is between (TCP 6443, 2379, 2380; with an etcd of the "
        "swarm's own 12379 and 12380 too).",
    )
    if abs(facts.clock_skew) > _MOST_SKEW:
        yield Check(
            "clock",
            "error",
            f"{abs(facts.clock_skew):.0f} s {'ahead of' if facts.clock_skew > 0 else 'behind'} {options.join}",
            "Have both hosts keep time by NTP: certificates and leases go by it.",
        )
    yield from _etcd_there(options, facts)


def _etcd_there(options: Options, facts: HostFacts) -> Iterator[Check]:
    """Where the server does not tell, the step looks that tells the replicas: this host is a node by then."""
    if options.external:
        yield Check(
            "etcd",
            "warning",
            f"{', '.join(options.external.endpoints) or 'an external etcd'} was said, and a host that joins changes "
            "nothing of where the swarm's etcd is",
            "Nothing, if that is the swarm's. Else say it on the server that founded the cluster.",
        )
    if not facts.told_etcd:
        return
    if options.etcd in {"", facts.told_etcd}:
        yield Check("etcd", "ok", f"{facts.told_etcd}, as the cluster's swarm has it")
        return
    yield Check(
        "etcd",
        "error",
        f"--etcd {options.etcd} was said, and the swarm of the cluster of {options.join} uses etcd {facts.told_etcd!r}",
        f"Say the same without --etcd, or with --etcd {facts.told_etcd}: the founder has said for all.",
    )


def _sources(options: Options, facts: HostFacts) -> Iterator[Check]:
    for path in facts.missing_files:
        if not (facts.is_started and path in _copied(facts)):
            yield Check("files", "error", f"{path} cannot be read", "Name a file that is there.")
    if facts.airgap is not None:
        yield from _airgap(options, facts)
    elif facts.has_internet:
        yield Check("sources", "ok", "k3s and Tinkerbell come from the internet")
    elif not facts.is_started:
        yield Check(
            "sources",
            "error",
            "no internet, and no --airgap",
            "Make a bundle where there is internet (dragonfly bundle DIR), bring it here, and name it: --airgap DIR.",
        )
    if not (options.image or options.image_archive or options.airgap):  # replicas run on every server
        yield Check(
            "image",
            "error",
            "nobody said where the image of a replica is",
            "Name the archive that `make image` made (--image-archive FILE), an image that this host can pull (--image "
            "REF), or a bundle (--airgap DIR).",
        )


def _copied(facts: HostFacts) -> tuple[str, ...]:
    """Files that this host has a copy of by now: whoever deletes a token after use does well."""
    return (facts.before.token_file, facts.before.image_archive) if facts.before else ()


def _airgap(options: Options, facts: HostFacts) -> Iterator[Check]:
    airgap = facts.airgap
    assert airgap is not None
    if not airgap.present:
        yield Check("sources", "error", f"{options.airgap} is no directory", "Make it: dragonfly bundle DIR.")
        return
    for name in airgap.missing:
        yield Check(
            "sources", "error", f"{options.airgap} has no {name}", "Make the bundle again: dragonfly bundle DIR."
        )
    for name in airgap.broken:
        yield Check(
            "sources", "error", f"{options.airgap}/{name} is not what SHA256SUMS says", "Bring the bundle here again."
        )
    own = ARCHITECTURES.get(facts.architecture, "")
    if is_others := bool(own and airgap.architecture) and airgap.architecture != own:
        yield Check(
            "sources",
            "error",
            f"{options.airgap} is for hosts with {airgap.architecture}, and this one has {own}",
            f"Make one for it: dragonfly bundle DIR --arch {own}.",
        )
    if not (airgap.missing or airgap.broken or is_others):
        yield Check("sources", "ok", f"everything comes from {options.airgap}")
    if not options.artifacts_url:
        yield Check(
            "HookOS",
            "warning",
            "no --artifacts-url, so machines cannot boot the installer",
            "Serve the files of HookOS somewhere, and say where: --artifacts-url URL.",
        )


def _verdict(name: str, is_well: bool, well: str, ill: str, remedy: str) -> Check:
    return Check(name, "ok", well) if is_well else Check(name, "error", ill, remedy)
