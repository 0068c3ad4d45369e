"""Deliveries reach no address that only this computer, or this cloud, should reach."""

from ipaddress import ip_network

import pytest

from dragonfly.webhooks.addresses import refusal


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00:808:808",
        "64:ff9b:1::808:808",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "169.254.169.254",
        "169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ],
)
def test_forbidden(address: str) -> None:
    assert refusal(address, ()).startswith(f"{address} is ")


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd12::1", "2606:4700::1111"]
)
def test_allowed(address: str) -> None:
    assert refusal(address, ()) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_settings_may_allow_any(address: str) -> None:
    assert refusal(address, (ip_network("127.0.0.0/8"),)) == ""
    assert refusal("127.0.0.1", (ip_network("10.0.0.0/8"),)) != ""


def test_what_stands_in_an_address_of_another_layout_allows_nothing() -> None:
    """169.254.169.254 to a translator with the prefix 64:ff9b:1::/48, though its last four bytes are 10.0.0.1."""
    address = "64:ff9b:1:a9fe:a9:fe00:a00:1"

    assert refusal(address, (ip_network("10.0.0.0/8"),)) != ""
    assert refusal(address, (ip_network("64:ff9b:1::/48"),)) == ""
