"""Writes down what a host's neighbours are asked: a line for each ARP request and DHCPDISCOVER on the wire.

python -m tests.e2e.install.eavesdropper FILE      FILE is there as soon as it listens
"""

import socket
import struct
import sys
from pathlib import Path
from typing import Final

_ARP: Final = struct.pack("!H", 0x0806)
_ALL: Final = 0x0003


def told(frame: bytes) -> str:
    """What the frame asks; empty if nothing that is of interest."""
    if frame[12:14] == _ARP and frame[20:22] == b"\0\1":
        return f"arp {socket.inet_ntoa(frame[38:42])}"
    is_udp = frame[12:14] == b"\x08\0" and frame[23] == 17
    return "dhcp" if is_udp and frame[36:38] == struct.pack("!H", 67) else ""


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as wire:
        wire.bind(("cluster", 0))
        with Path(sys.argv[1]).open("w", encoding="ascii") as file:
            while True:
                if line := told(wire.recv(2048)):
                    file.write(f"{line}\n")
                    file.flush()


if __name__ == "__main__":
    main()
