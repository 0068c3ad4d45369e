"""To which addresses a delivery may go. Pure.

Whoever may make a webhook must not reach by it what only this computer reaches: its own services, and what clouds tell
their machines at fixed addresses, credentials among it. Private networks are allowed: the product lives there.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

from dragonfly.settings import Network

Address: TypeAlias = IPv4Address | IPv6Address

# Metadata services that are not link-local: AWS over IPv6, Google over IPv6, Alibaba, Azure's host, Oracle.
_METADATA: Final = tuple(
    map(ip_network, ("fd00:ec2::/32", "fd20:ce::/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"))
)
_THIS_HOST: Final = ip_network("0.0.0.0/8")  # Linux takes all of it for itself
_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052: leads to the IPv4 address in its last four bytes
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")
"""RFC 8215: leads to an IPv4 address as well, but only who translates knows to which; RFC 6052 has six layouts."""
_SIIT: Final = ip_network("::ffff:0:0:0/96")  # RFC 2765: so does this


def refusal(text: str, allowed: Sequence[Network]) -> str:
    """Return why nothing may be sent to an address; empty if it may.

    Args:
        text: the address, with or without a zone.
        allowed: networks that the settings allow whatever they are.
    """
    address = ip_address(text.partition("%")[0])
    seen = [address, *_within(address)]
    if any(one in network for one in seen for network in allowed):
        return ""
    return next((f"{text} is {what}" for one in seen if (what := _kind(one))), "")


def _within(address: Address) -> list[Address]:
    """The IPv4 address that an IPv6 address leads to, if it does."""
    if isinstance(address, IPv4Address):
        return []
    found: list[Address] = [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    if address.teredo is not None:
        found.append(address.teredo[1])
    if address in _NAT64 or address in _SIIT or address.packed[:12] == bytes(12):
        found.append(IPv4Address(address.packed[-4:]))
    return found


def _kind(address: Address) -> str:
    """Name what makes an address forbidden; empty for one that is not."""
    if any(address in network for network in _METADATA):
        return "a cloud's metadata service"
    if address in _LOCAL_NAT64:
        return "an IPv4 address in disguise (NAT64)"
    if address.is_unspecified or address in _THIS_HOST:
        return "no address of another computer"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local or (isinstance(address, IPv6Address) and address.is_site_local):
        return "a link-local address"
    if address.is_multicast or address == IPv4Address("255.255.255.255"):
        return "a multicast or broadcast address"
    return ""
