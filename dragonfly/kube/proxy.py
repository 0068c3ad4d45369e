"""Which proxy is on the way to an API server, as the environment says. Pure: the environment is an argument.

As client-go, and so kubectl: by the rules of golang.org/x/net/http/httpproxy (v0.56). Python's urllib has others: it
knows no networks in NO_PROXY, lets the lower-case variables win, and takes what it finds for an HTTP proxy.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

from dragonfly.kube.errors import Invalid

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORTS: Final = {"https": 443, "http": 80}
_HOST_AND_PORT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([^:\[\]]*)")


def from_environment(server: str, environment: Mapping[str, str]) -> str:
    """Return the URL of the proxy for `server`, with the password that may be in it; empty if there is none.

    Args:
        server: the base URL of an API server.
        environment: HTTPS_PROXY (for http:// servers HTTP_PROXY) and NO_PROXY, each in upper or lower case.

    Raises:
        Invalid: the variable has what is no proxy that can be used.
    """
    url = urlsplit(server)
    variable, proxy = _said(environment, f"{url.scheme}_proxy")
    _, direct = _said(environment, "no_proxy")
    if not proxy or not _uses_proxy(url, direct):
        return ""
    whole = proxy if "://" in proxy else f"http://{proxy}"
    if not _is_http(whole):
        # Without the value: there may be a password in it.
        message = "must be an HTTP proxy, such as http://proxy:3128 or proxy:3128; SOCKS is not supported"
        remedy = f"Name one, or add {url.hostname} to NO_PROXY if there is a way without"
        raise Invalid(f"{variable} in the environment: {message}. {remedy}", reason="Proxy")
    return whole


def _said(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts and what it says: the one in upper case, unless it is empty."""
    for variable in (name.upper(), name):
        if value := environment.get(variable):
            return variable, value
    return name.upper(), ""


def _is_http(proxy: str) -> bool:
    try:
        url = urlsplit(proxy)
        return url.scheme in _PORTS and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number
        return False


class _Target(NamedTuple):
    host: str
    address: _Address | None
    port: str


class _Direct(Protocol):
    """An entry of NO_PROXY: what is reached without a proxy."""

    def holds(self, target: _Target) -> bool: ...


class _Network(NamedTuple):
    network: ipaddress.IPv4Network | ipaddress.IPv6Network

    def holds(self, target: _Target) -> bool:
        return target.address is not None and target.address in self.network


class _Single(NamedTuple):
    address: _Address
    port: str

    def holds(self, target: _Target) -> bool:
        return target.address == self.address and self.port in {"", target.port}


class _Domain(NamedTuple):
    suffix: str
    """Begins with a dot."""
    itself: bool
    """Whether the name without the dot is meant as well."""
    port: str

    def holds(self, target: _Target) -> bool:
        is_named = target.host.endswith(self.suffix) or (self.itself and target.host == self.suffix[1:])
        return target.address is None and is_named and self.port in {"", target.port}


def _uses_proxy(url: SplitResult, direct: str) -> bool:
    host = url.hostname or ""
    address = _address(host.partition("%")[0])
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    entries = [entry.strip().lower() for entry in direct.split(",")]
    target = _Target(_ascii(host), address, str(url.port or _PORTS.get(url.scheme, 0)))
    return "*" not in entries and not any(entry.holds(target) for entry in _parsed(entries))


def _parsed(entries: list[str]) -> Iterator[_Direct]:
    for entry in entries:
        if (network := _network(entry)) is not None:
            yield _Network(network)
            continue
        match = _HOST_AND_PORT.fullmatch(entry)
        host, port = (match[1] or match[2] or "", match[3]) if match else (entry, "")
        if (address := _address(host)) is not None:
            yield _Single(address, port)
        elif host:
            yield _domain(host, port)


def _domain(host: str, port: str) -> _Domain:
    """example.com is itself and all below it; .example.com and *.example.com are all below it."""
    name = host.removeprefix("*")
    if not host.startswith(("*.", ".")):
        return _Domain(f".{_ascii(host)}", itself=True, port=port)
    return _Domain(f".{_ascii(name[1:])}", itself=False, port=port)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    _, slash, bits = text.partition("/")
    if not slash or not bits.isdecimal():  # Python takes 255.0.0.0 as well
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _ascii(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host
