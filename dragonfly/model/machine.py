"""Machine: one physical or virtual computer; its Tinkerbell twin is a Hardware object."""

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from dragonfly.model.power import PowerRequest, PowerResult, PowerSummary, summary_of_power
from dragonfly.model.provision import ProvisionSummary
from dragonfly.model.swarm import ClusterReach
from dragonfly.model.values import (
    LOCAL,
    FieldError,
    Input,
    Invalid,
    Metadata,
    MetadataInput,
    Value,
    address_error,
    canonical_mac,
    is_mac,
    metadata_errors,
    name_errors,
)

MachinePhase = Literal["Discovered", "Available", "Provisioning", "Deployed", "Failed", "Deleting"]

# tink-server and hookOS know these; an arch that Tinkerbell cannot boot would only fail on the metal.
Arch = Literal["x86_64", "aarch64"]

_BMC_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "redfish": ("useBasicAuth", "systemName"),
    "ipmi": (),
    "rpc": ("consumerURL",),
}
"""The options that each protocol has."""


class Bond(Input, frozen=True):
    """The bond that an interface is a member of."""

    name: str
    mode: str = "802.3ad"


class Interface(Input, frozen=True, kw_only=True):
    """One network interface: a fixed address, or DHCP."""

    mac: str
    address: str = ""
    """Address with its prefix, such as `10.0.0.17/24`; empty with `dhcp`."""
    dhcp: bool = False
    gateway: str = ""
    nameservers: tuple[str, ...] = ()
    vlan: int | None = None
    mtu: int | None = None
    bond: Bond | None = None


class Disk(Input, frozen=True, kw_only=True):
    """A disk by its device, or by what it must be."""

    device: str = ""
    min_size: str = ""
    """Kubernetes quantity, such as `480Gi`."""
    type: Literal["", "nvme", "ssd", "hdd"] = ""
    serial: str = ""
    model: str = ""


class Bmc(Input, frozen=True, kw_only=True):
    """The baseboard management controller. The password is write-only: it is stored sealed and never shown."""

    host: str
    port: int | None = None
    protocol: Literal["redfish", "ipmi", "rpc"] = "redfish"
    username: str = ""
    password: str = ""
    insecure_tls: bool = msgspec.field(default=False, name="insecureTLS")
    options: dict[str, str] = {}


class Locked(Input, frozen=True):
    """Why nobody may touch the machine now."""

    reason: str
    by: str
    at: datetime


class Maintenance(Input, frozen=True):
    """Why the machine is out of service."""

    reason: str


class MachineSpec(Input, frozen=True, kw_only=True):
    """What the operators say the machine is and should be."""

    cluster: str = LOCAL
    hostname: str = ""
    interfaces: tuple[Interface, ...] = ()
    arch: Arch = "x86_64"
    firmware: Literal["uefi", "bios"] = "uefi"
    disks: tuple[Disk, ...] = ()
    boot: Literal["netboot", "iso", "none"] = "none"
    """How a provision boots the machine through its BMC; `none` waits until something else does."""
    iso_url: str = msgspec.field(default="", name="isoURL")
    bmc: Bmc | None = None
    user_data: str = ""
    ssh_keys: tuple[str, ...] = ()
    locked: Locked | None = None
    maintenance: Maintenance | None = None


class MachineInput(Input, frozen=True, kw_only=True):
    """A machine as people send it. `kind` and `status` are accepted so that what was read can be sent back."""

    metadata: MetadataInput = MetadataInput()
    spec: MachineSpec
    kind: Literal["Machine"] = "Machine"
    status: Any = None


class MoveInput(Input, frozen=True, kw_only=True):
    """Body of `POST machines/{name}/move`."""

    cluster: str
    force: bool = False
    """If no replica reaches the machine's cluster, leave there what is there."""


class Moving(Value, frozen=True, kw_only=True):
    """The machine is being taken out of its cluster, to go to another one; nothing else may be begun meanwhile."""

    to: str
    by: str
    since: datetime


class Machine(Value, frozen=True, kw_only=True):
    """A machine as it is stored below `machines/`."""

    metadata: Metadata
    spec: MachineSpec
    sealed_password: str = ""
    """The BMC's password, encrypted with the swarm's key."""
    deleting_since: datetime | None = None
    moving: Moving | None = None
    formerly: tuple[str, ...] = ()
    """The other clusters that it has been in: what comes up there under its name is a leftover of its own."""

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def agent_id(self) -> str:
        """The id that tink-server knows the machine by: the lower-case MAC of its first interface."""
        return self.spec.interfaces[0].mac


class Condition(Value, frozen=True, kw_only=True):
    """One aspect of a machine's state, with the words that Kubernetes users expect."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    since: datetime


class InstalledOs(Value, frozen=True, kw_only=True):
    """What the last provision put on the machine. A latch: only another provision, once it has begun, changes it."""

    template: str
    revision: int
    installed_at: datetime
    provision: str


class Observed(Value, frozen=True, kw_only=True):
    """What the owner last saw of a machine; stored below `observed/`, written by the owner of its shard only."""

    os: InstalledOs | None = None
    last_provision: ProvisionSummary | None = None
    conditions: tuple[Condition, ...] = ()
    power: Literal["on", "off", "unknown"] = "unknown"
    last_power_action: PowerResult | None = None
    hardware: dict[str, Any] = {}
    observed_at: datetime | None = None


class MachineStatus(Value, frozen=True, kw_only=True):
    """What is known of the machine now, composed when it is read."""

    phase: MachinePhase
    conditions: tuple[Condition, ...] = ()
    os: InstalledOs | None = None
    power: Literal["on", "off", "unknown"] = "unknown"
    active_power_action: PowerSummary | None = None
    last_power_action: PowerResult | None = None
    active_provision: ProvisionSummary | None = None
    last_provision: ProvisionSummary | None = None
    hardware: dict[str, Any] = {}
    observed_at: datetime | None = None
    owner: str = ""
    cluster: ClusterReach | None = None


def validated(spec: MachineSpec) -> MachineSpec:
    """Return `spec` in its stored form: MACs in lower case with colons.

    Raises:
        Invalid: with every rule that the spec breaks.
    """
    interfaces = tuple(msgspec.structs.replace(i, mac=canonical_mac(i.mac)) for i in spec.interfaces)
    spec = msgspec.structs.replace(spec, interfaces=interfaces)
    errors = list(_spec_errors(spec))
    if errors:
        raise Invalid(errors)
    return spec


def metadata_of(sent: MetadataInput, name: str, now: datetime, created_at: datetime | None = None) -> Metadata:
    """Return the stored metadata of a resource called `name`.

    Raises:
        Invalid: a name, label or tag is not allowed.
    """
    errors = name_errors(name) + metadata_errors(sent.labels, sent.tags)
    if errors:
        raise Invalid(errors)
    return Metadata(
        name=name,
        labels=sent.labels,
        tags=tuple(dict.fromkeys(sent.tags)),
        created_at=created_at or now,
        updated_at=now,
    )


def moved(machine: Machine, to: str, now: datetime) -> Machine:
    """Return the machine as it is in its new cluster."""
    former = machine.spec.cluster
    return msgspec.structs.replace(
        machine,
        metadata=msgspec.structs.replace(machine.metadata, updated_at=now),
        spec=msgspec.structs.replace(machine.spec, cluster=to),
        moving=None,
        formerly=(*(name for name in machine.formerly if name not in {former, to}), former),
    )


def phase_of(machine: Machine, observed: Observed | None, active: ProvisionSummary | None) -> MachinePhase:
    """Return the phase: a function of what is stored, never stored itself, so it cannot disagree."""
    if machine.deleting_since is not None:
        return "Deleting"
    if active is not None:
        return "Provisioning"
    last = observed.last_provision if observed else None
    if last is not None and (last.phase in {"Failed", "TimedOut"} or (last.phase == "Cancelled" and last.began)):
        return "Failed"
    if observed is not None and observed.os is not None:
        return "Deployed"
    return "Available"


def status_of(
    machine: Machine,
    observed: Observed | None,
    active: ProvisionSummary | None,
    owner: str,
    *,
    power: PowerRequest | None = None,
    cluster: ClusterReach | None = None,
) -> MachineStatus:
    """Compose what the API shows from what is stored in several keys."""
    seen = observed or Observed()
    return MachineStatus(
        phase=phase_of(machine, observed, active),
        conditions=seen.conditions,
        # From its first action on an installation has replaced what was there.
        os=None if active is not None and active.began else seen.os,
        power=seen.power,
        active_power_action=summary_of_power(power) if power else None,
        last_power_action=seen.last_power_action,
        active_provision=active,
        last_provision=seen.last_provision,
        hardware=seen.hardware,
        observed_at=seen.observed_at,
        owner=owner,
        cluster=cluster,
    )


def _spec_errors(spec: MachineSpec) -> Iterator[FieldError]:
    yield from name_errors(spec.cluster, "spec.cluster")
    if not spec.interfaces:
        yield FieldError("spec.interfaces", "must name at least one interface: its MAC tells the machine apart", [])
    if spec.hostname and not _is_hostname(spec.hostname):
        yield FieldError("spec.hostname", "must be a DNS name of at most 253 characters", spec.hostname)
    yield from _repeated_macs(spec.interfaces)
    for index, interface in enumerate(spec.interfaces):
        yield from _interface_errors(interface, f"spec.interfaces[{index}]")
    for index, disk in enumerate(spec.disks):
        if not (disk.device or disk.min_size or disk.type or disk.serial or disk.model):
            yield FieldError(f"spec.disks[{index}]", "must have a device, or one of minSize, type, serial, model")
    if spec.bmc is not None:
        yield from _bmc_errors(spec.bmc)
    if spec.boot != "none" and spec.bmc is None:
        yield FieldError("spec.boot", f"{spec.boot} needs spec.bmc: only a BMC can boot the machine", spec.boot)
    if spec.boot == "iso" and not spec.iso_url:
        yield FieldError("spec.isoURL", "must be set with boot: iso", "")


def _bmc_errors(bmc: Bmc) -> Iterator[FieldError]:
    if not bmc.host.strip():
        yield FieldError("spec.bmc.host", "must be the BMC's name or address", bmc.host)
    if bmc.port is not None and not 1 <= bmc.port <= 65535:
        yield FieldError("spec.bmc.port", "must be 1 to 65535", bmc.port)
    if bmc.port is not None and bmc.protocol == "rpc":
        yield FieldError("spec.bmc.port", "must be left out with protocol: rpc; options.consumerURL has it", bmc.port)
    known = _BMC_OPTIONS[bmc.protocol]
    for name, value in bmc.options.items():
        if name not in known:
            allowed = f"{bmc.protocol} knows {' and '.join(known)}" if known else f"{bmc.protocol} has no options"
            yield FieldError(f"spec.bmc.options.{name}", f"is not known: {allowed}", value)
    if (basic := bmc.options.get("useBasicAuth", "true")) not in {"true", "false"}:
        yield FieldError("spec.bmc.options.useBasicAuth", "must be true or false, in quotes", basic)


def _repeated_macs(interfaces: tuple[Interface, ...]) -> Iterator[FieldError]:
    seen: dict[str, int] = {}
    for index, interface in enumerate(interfaces):
        if interface.mac in seen:
            field = f"spec.interfaces[{index}].mac"
            yield FieldError(field, f"is already that of interfaces[{seen[interface.mac]}]", interface.mac)
        seen.setdefault(interface.mac, index)


def _interface_errors(interface: Interface, field: str) -> Iterator[FieldError]:
    if not is_mac(interface.mac):
        yield FieldError(f"{field}.mac", "must be a MAC address such as 02:00:00:00:00:11", interface.mac)
    if interface.dhcp and interface.address:
        yield FieldError(f"{field}.address", "must be left out with dhcp: true", interface.address)
    if interface.address:
        yield from _cidr_errors(interface.address, f"{field}.address")
    if interface.gateway and (error := address_error(interface.gateway, f"{field}.gateway")):
        yield error
    for index, server in enumerate(interface.nameservers):
        if error := address_error(server, f"{field}.nameservers[{index}]"):
            yield error
    if interface.vlan is not None and not 1 <= interface.vlan <= 4094:
        yield FieldError(f"{field}.vlan", "must be 1 to 4094", interface.vlan)
    if interface.mtu is not None and not 576 <= interface.mtu <= 9216:
        yield FieldError(f"{field}.mtu", "must be 576 to 9216", interface.mtu)


def _cidr_errors(address: str, field: str) -> Iterator[FieldError]:
    try:
        if "/" not in address:
            raise ValueError(address)  # noqa: TRY301 - one message for both mistakes
        ipaddress.ip_interface(address)
    except ValueError:
        yield FieldError(field, "must be an address with its prefix, such as 10.0.0.17/24", address)


def _is_hostname(text: str) -> bool:
    return len(text) <= 253 and all(not name_errors(part.lower()) for part in text.split("."))


_ADJECTIVES = (
    "amber brave calm clever crisp daring eager early fair fleet gentle glad golden hardy honest jolly "
    "keen kind lively lucky mellow merry mighty neat noble patient plain proud quick quiet ready rosy "
    "sage silent silver smart steady stout sturdy sunny swift tidy true vivid warm wild wise witty"
).split()
_NOUNS = (
    "acorn alder aspen badger beacon birch bison brook canyon cedar comet condor coral crane creek delta "
    "ember falcon fern finch fjord fox garnet glade harbor hazel heron ibis jade juniper kestrel lagoon "
    "lark laurel lynx maple marten meadow mesa moss oak onyx orchid osprey otter pebble pine plover "
    "quartz raven reef ridge river robin saffron sparrow spruce stone swan thistle topaz tulip valley "
    "walnut willow wren"
).split()


def memorable_name(mac: str) -> str:
    """Return a name for the machine that nobody named: always the same for the same MAC."""
    digest = hashlib.sha256(mac.encode()).digest()
    adjective = _ADJECTIVES[int.from_bytes(digest[:4], "big") % len(_ADJECTIVES)]
    noun = _NOUNS[int.from_bytes(digest[4:8], "big") % len(_NOUNS)]
    return f"{adjective}-{noun}-{mac.replace(':', '')[-4:]}"
