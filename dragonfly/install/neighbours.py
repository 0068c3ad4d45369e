"""Asks the wire: who has an address (ARP, RFC 5227), and who gives addresses (DHCP, RFC 2131).

Frames are read and written on a packet socket, so that neither needs an address or a free port, and a firewall on this
host keeps no answer from it.
"""

import errno
import fcntl
import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

_ALL: Final = b"\xff" * 6
_ARP: Final = 0x0806
_IP: Final = 0x0800
_SIOCGIFHWADDR: Final = 0x8927
_PROBES: Final = 3
_WAIT: Final = 1.0
"""Seconds for an answer to each of the probes."""
_OFFER_WAITS: Final = (1.0, 1.0, 6.0)
"""The same for DHCP: a server may ask the wire first whether an address is free, dnsmasq for three seconds."""


class Neighbours:
    """Those on the same wire as an interface of this host. Needs root."""

    def holders(self, interface: str, addresses: Iterable[str]) -> tuple[str, ...]:
        """Return those of the addresses that somebody answers for.

        Raises:
            OSError: the wire cannot be asked.
        """
        return tuple(address for address in addresses if self._is_held(interface, address))

    def dhcp_servers(self, interface: str) -> tuple[str, ...]:
        """Return the servers that would give this host an address, asking for none.

        Raises:
            OSError: as `holders`.
        """
        own = _hardware_address(interface)
        transaction = os.urandom(4)
        found: set[str] = set()
        with _packets(interface, _IP) as wire:
            for seconds in _OFFER_WAITS:
                wire.send(discover(own, transaction))
                _answers(wire, lambda frame: _heard(frame, transaction, found), seconds)
                if found:
                    break
        return tuple(sorted(found))

    def _is_held(self, interface: str, address: str) -> bool:
        own = _hardware_address(interface)
        wanted = ipaddress.IPv4Address(address).packed
        with _packets(interface, _ARP) as wire:
            for _ in range(_PROBES):
                wire.send(arp_probe(own, wanted))
                if _answers(wire, lambda frame: answers_for(frame, wanted, own) or None, _WAIT):
                    return True
        return False


class Nobody(Neighbours):
    """A wire that is not asked: no frame is sent."""

    def holders(self, interface: str, addresses: Iterable[str]) -> tuple[str, ...]:
        raise OSError(errno.ECANCELED, f"{interface} is not asked for {', '.join(addresses)}")

    def dhcp_servers(self, interface: str) -> tuple[str, ...]:
        raise OSError(errno.ECANCELED, f"{interface} is not asked")


def arp_probe(own: bytes, wanted: bytes) -> bytes:
    """Return the frame that asks for an address without claiming one. Pure."""
    header = _ALL + own + struct.pack("!H", _ARP)
    return header + struct.pack("!HHBBH", 1, _IP, 6, 4, 1) + own + bytes(4) + bytes(6) + wanted


def answers_for(frame: bytes, wanted: bytes, own: bytes) -> bool:
    """Whether somebody else says in this frame, asked or not, that the address is its own. Pure."""
    if len(frame) < 42 or frame[12:14] != struct.pack("!H", _ARP):
        return False
    sender, address = frame[22:28], frame[28:32]
    return address == wanted and sender != own


def discover(own: bytes, transaction: bytes) -> bytes:
    """Return the frame of a DHCPDISCOVER whose answer goes to all. Pure."""
    options = b"\x63\x82\x53\x63" + b"\x35\x01\x01" + b"\x37\x03\x01\x03\x06" + b"\xff"
    body = struct.pack("!BBBB4sHH", 1, 1, 6, 0, transaction, 0, 0x8000) + bytes(16) + own + bytes(10) + bytes(192)
    payload = (body + options).ljust(300, b"\0")
    datagram = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return _ALL + own + struct.pack("!H", _IP) + header + datagram


def offered_by(frame: bytes, transaction: bytes) -> str:
    """Return the server whose DHCPOFFER to this transaction the frame is; empty if it is none. Pure."""
    packet = frame[14:]
    if frame[12:14] != struct.pack("!H", _IP) or len(packet) < 20 or packet[9] != 17:
        return ""
    datagram = packet[(packet[0] & 0x0F) * 4 :]
    payload = datagram[8:]
    if (
        datagram[:4] != struct.pack("!HH", 67, 68)
        or payload[4:8] != transaction
        or payload[236:240] != b"\x63\x82\x53\x63"
    ):
        return ""
    options = _options(payload[240:])
    if options.get(53) != b"\x02":
        return ""
    server = options.get(54, packet[12:16])
    return str(ipaddress.IPv4Address(server)) if len(server) == 4 else ""


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        if len(data) < 2:
            break
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packets(interface: str, protocol: int) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    wire.bind((interface, 0))
    return wire


def _heard(frame: bytes, transaction: bytes, servers: set[str]) -> None:
    if server := offered_by(frame, transaction):
        servers.add(server)


def _answers(wire: socket.socket, read: Callable[[bytes], T | None], seconds: float) -> T | None:
    """Read frames until one says something, or the time to wait for it is over."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([wire], [], [], left)[0] and (found := read(wire.recv(2048))):
            return found
    return None


def _hardware_address(interface: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        found = fcntl.ioctl(probe, _SIOCGIFHWADDR, struct.pack("256s", interface.encode()[:15]))
    return found[18:24]
