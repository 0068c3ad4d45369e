"""Frames that ask the wire, and answers that mean something."""

import ipaddress
import struct

from dragonfly.install.neighbours import answers_for, arp_probe, discover, offered_by

OWN = bytes.fromhex("020000000001")
OTHER = bytes.fromhex("020000000002")
WANTED = ipaddress.IPv4Address("10.0.0.50").packed
TRANSACTION = b"\x01\x02\x03\x04"


def arp_reply(sender: bytes, address: bytes) -> bytes:
    return OWN + sender + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2) + sender + address + OWN + bytes(4)


def offer(transaction: bytes = TRANSACTION, kind: int = 2, *, server: bytes = WANTED) -> bytes:
    options = b"\x63\x82\x53\x63" + bytes([53, 1, kind, 0, 54, 4]) + server + b"\xff"
    body = struct.pack("!BBBB4s", 2, 1, 6, 0, transaction) + bytes(228) + options
    datagram = struct.pack("!HHHH", 67, 68, 8 + len(body), 0) + body
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, server, b"\xff" * 4)
    return b"\xff" * 6 + OTHER + struct.pack("!H", 0x0800) + header + datagram


def test_a_probe_claims_nothing() -> None:
    frame = arp_probe(OWN, WANTED)

    assert len(frame) == 42
    assert frame[28:32] == bytes(4)  # the sender's address
    assert frame[38:42] == WANTED


def test_who_answers_has_the_address() -> None:
    assert answers_for(arp_reply(OTHER, WANTED), WANTED, OWN)
    assert not answers_for(arp_reply(OTHER, bytes(4)), WANTED, OWN)
    assert not answers_for(arp_reply(OWN, WANTED), WANTED, OWN)
    assert not answers_for(arp_probe(OWN, WANTED), WANTED, OWN)
    assert not answers_for(b"short", WANTED, OWN)


def test_an_offer_names_its_server() -> None:
    assert offered_by(offer(), TRANSACTION) == "10.0.0.50"
    assert offered_by(offer(b"\x09\x09\x09\x09"), TRANSACTION) == ""
    assert offered_by(offer(kind=5), TRANSACTION) == ""
    assert offered_by(discover(OWN, TRANSACTION), TRANSACTION) == ""
    assert offered_by(b"\0" * 60, TRANSACTION) == ""
    assert offered_by(offer()[:290], TRANSACTION) == ""


def test_what_is_asked_is_a_whole_datagram() -> None:
    frame = discover(OWN, TRANSACTION)

    header = frame[14:34]
    total = sum(struct.unpack("!10H", header))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert struct.unpack("!H", header[2:4])[0] == len(frame) - 14
