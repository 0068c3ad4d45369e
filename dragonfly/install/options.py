"""What an operator asks of `dragonfly install`. Pure: all that makes no sense is told at once, as in settings.py."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from dragonfly.model.values import is_dns_label
from dragonfly.settings import SETTINGS

EtcdMode: TypeAlias = Literal["shared", "dedicated", "external"]
JoinedMode: TypeAlias = EtcdMode | Literal[""]

K3S_VERSION: Final = "v1.36.3+k3s1"
TINKERBELL_VERSION: Final = "v0.25.0"
SERVICE_PORT: Final = 3000
API_PORT: Final = 6443

_VERSION: Final = re.compile(r"v[0-9]+\.[0-9]+\.[0-9]+([-+.][0-9A-Za-z.]+)*")
# https://github.com/distribution/reference, without the exotic parts
_IMAGE: Final = re.compile(
    r"([a-z0-9.-]+(:[0-9]+)?/)?[a-z0-9._/-]+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)

(_parsed_as_setting,) = (setting.parse for setting in SETTINGS if setting.field == "etcd_endpoints")


class BadOptions(Exception):
    """Options that make no sense, each with what is allowed."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class ExternalEtcd(msgspec.Struct, frozen=True, kw_only=True):
    """An etcd that somebody else runs; the files are read by the installer when it needs them."""

    endpoints: tuple[str, ...]
    ca_file: str
    username: str
    password_file: str


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; the defaults need nothing but a host with internet and the image of a replica."""

    etcd: JoinedMode = "shared"
    """With `join`, empty for the one that the cluster's swarm uses, whichever that is."""
    external: ExternalEtcd | None = None
    join: str = ""
    """`host`, `host:port` or `[address]:port` of a server that there is; this host then becomes one more."""
    token_file: str = ""
    """With `join`: the cluster's token, as the first server keeps it."""
    floating_ip: str = ""
    """An address that moves between hosts with the load balancer of the swarm; empty: that of each host."""
    tinkerbell_ip: str = ""
    """The same for Tinkerbell, where machines boot from."""
    artifacts_ip: str = ""
    """The same for the files of HookOS, which Tinkerbell's chart serves on an address of its own."""
    artifacts_url: str = ""
    """Where the files of HookOS are already; Tinkerbell's chart then brings none."""
    airgap: str = ""
    """A directory that `dragonfly bundle` made; nothing comes from the internet then."""
    image: str = ""
    """Of a replica, where the nodes find it; empty: the archive in the airgap directory or `image_archive`."""
    image_archive: str = ""
    """The image of a replica as a file that `make image` made."""
    k3s_version: str = K3S_VERSION
    tinkerbell_version: str = TINKERBELL_VERSION
    site: str = ""
    dhcp: bool = True
    """Whether Tinkerbell answers DHCP; a site with a DHCP server of its own turns it off."""

    @property
    def is_first(self) -> bool:
        """Whether this host founds the cluster."""
        return not self.join

    @property
    def may_have_member(self) -> bool:
        """Whether the swarm has an etcd of its own; what it has, a host that joins is told by the cluster alone."""
        return self.etcd == "dedicated" or not (self.is_first or self.etcd)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that must belong to nobody else."""
        return tuple(filter(None, (self.floating_ip, self.tinkerbell_ip, self.artifacts_ip)))


def checked(options: Options) -> Options:
    """Return the same options.

    Raises:
        BadOptions: some make no sense, alone or together.
    """
    if problems := tuple(_problems(options)):
        raise BadOptions(problems)
    return options


def _problems(options: Options) -> Iterator[str]:
    yield from _address_problems(options)
    yield from _join_problems(options)
    yield from _etcd_problems(options)
    for flag, version in (("--k3s-version", options.k3s_version), ("--tinkerbell-version", options.tinkerbell_version)):
        if not _VERSION.fullmatch(version):
            yield f"{flag}: must be a version such as v1.2.3, not {version!r}"
    if options.image and not _IMAGE.fullmatch(options.image):
        yield f"--image: must be an image such as registry.example.com/dragonfly:0.1.0, not {options.image!r}"
    if options.site and not is_dns_label(options.site):
        yield f"--site: must be a DNS label such as fra1, not {options.site!r}"
    if options.artifacts_url and urlsplit(options.artifacts_url).scheme not in {"http", "https"}:
        yield f"--artifacts-url: must be a URL such as http://10.0.0.5/hook, not {options.artifacts_url!r}"
    if options.artifacts_url and options.artifacts_ip:
        yield "--artifacts-ip: says where Tinkerbell serves HookOS, and --artifacts-url that it serves none"


def _address_problems(options: Options) -> Iterator[str]:
    flags = {
        "--floating-ip": options.floating_ip,
        "--tinkerbell-ip": options.tinkerbell_ip,
        "--artifacts-ip": options.artifacts_ip,
    }
    for flag, address in flags.items():
        if address and not _is_host_address(address):
            yield f"{flag}: must be an IPv4 address of the hosts' network, not {address!r}"
    if len(set(options.addresses)) < len(options.addresses):
        # kube-vip holds a lease for each Service, so an address of two Services can be on two hosts
        # (https://github.com/kube-vip/kube-vip/issues/879).
        yield "--floating-ip, --tinkerbell-ip and --artifacts-ip: must be different addresses"


def _is_host_address(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local)


def _join_problems(options: Options) -> Iterator[str]:
    if options.join and not options.token_file:
        yield "--token-file: is needed with --join; the first server has its token in /var/lib/rancher/k3s/server/token"
    if options.token_file and not options.join:
        yield "--token-file: goes with --join alone"
    if options.join and not _is_server(options.join):
        yield f"--join: must be a server's address such as 10.0.0.1 or [fd00::1]:6443, not {options.join!r}"


def in_brackets(server: str) -> str:
    """Return a server as a URL has it: an IPv6 address that stands alone in brackets, all else as it is."""
    try:
        return f"[{ipaddress.IPv6Address(server)}]"
    except ValueError:
        return server


def _is_server(text: str) -> bool:
    try:
        parts = urlsplit(f"//{in_brackets(text)}")
        return bool(parts.hostname) and not (parts.path or parts.username) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _etcd_problems(options: Options) -> Iterator[str]:
    external = options.external
    if not options.etcd and not options.join:
        yield "--etcd: must be shared, dedicated or external"
    if options.etcd != "external":
        if external is not None:
            yield "--etcd-endpoints and its kin: go with --etcd external alone"
        return
    if options.join:
        return  # what is external is known to the swarm already
    if external is None:
        yield "--etcd-endpoints: is needed with --etcd external, and so are CA, user and password"
        return
    if not external.endpoints:
        yield "--etcd-endpoints: is needed with --etcd external"
    for endpoint in external.endpoints:
        if not _is_https(endpoint):
            yield f"--etcd-endpoints: must be https:// with host and port, as https://10.0.0.1:2379, not {endpoint!r}"
    given = {
        "--etcd-ca-file": external.ca_file,
        "--etcd-username": external.username,
        "--etcd-password-file": external.password_file,
    }
    for flag, value in given.items():
        if not value:
            yield f"{flag}: is needed with --etcd external"


def _is_https(text: str) -> bool:
    """As a replica takes it, which is not to find out about a mistake."""
    try:
        _parsed_as_setting(text)
    except ValueError:
        return False
    return urlsplit(text).scheme == "https"
